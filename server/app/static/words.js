/** Words and numbers as people read them. Pure. */

/** `m:ss`, or `h:mm:ss` from an hour on. @param {number} ms */
export function clockText(ms) {
  const totalS = Math.max(0, Math.floor(ms / 1000));
  const hours = Math.floor(totalS / 3600);
  const minutes = Math.floor((totalS % 3600) / 60);
  const seconds = String(totalS % 60).padStart(2, "0");
  return hours > 0 ? `${hours}:${String(minutes).padStart(2, "0")}:${seconds}` : `${minutes}:${seconds}`;
}

/** `lost_card` becomes `Lost card`, `oil_change_when` becomes `Oil change: when`. @param {string} label */
export function labelText(label) {
  const text = label.replace(/[_-]+/g, " ").trim().replace(/ (when|how)$/, ": $1");
  return text === "" ? "" : text[0].toUpperCase() + text.slice(1);
}

/** The moment that a rule path belongs to: `moments.lost_card.any[1]` becomes `Lost card`. @param {string} path */
export function momentText(path) {
  return labelText(/^moments\.(\w+)/.exec(path)?.[1] ?? path);
}

/** 0.873 becomes `87 %`. @param {number|null|undefined} share */
export function percentText(share) {
  return typeof share === "number" ? `${Math.round(share * 100)} %` : "";
}

/** Milliseconds without false precision, and without their unit. @param {number} ms */
export function msNumber(ms) {
  return Math.abs(ms) < 10 ? ms.toFixed(1) : String(Math.round(ms));
}

/** @param {number} ms */
export function msText(ms) {
  return `${msNumber(ms)} ms`;
}

/** A time left in calm steps: it changes every ten seconds at most. @param {number} ms */
export function remainingText(ms) {
  if (ms > 90_000) return `for about ${Math.round(ms / 60_000)} min`;
  if (ms > 50_000) return "for about a minute";
  return ms > 5_000 ? `for about ${Math.ceil(ms / 10_000) * 10} s` : "fading";
}

/** @param {string} speaker */
export function speakerText(speaker) {
  return speaker === "customer" ? "Customer" : speaker === "agent" ? "Agent" : labelText(speaker);
}

export const TYPE_TEXTS = {
  hint: "Hint",
  checklist: "Next step",
  reply: "Suggested reply",
  answer: "Answer",
  alert: "Alert",
};

export const STAGE_TEXTS = {
  audio_capture: "Audio capture",
  network: "Network",
  asr: "Recognition",
  transcript: "Transcript",
  orchestrator: "Orchestrator",
  inference: "Inference",
  publish: "Publish",
  socket: "To this page",
  render: "Painting",
};

/** What became of a card, by its `reason`, else by its state. */
const BECAME = {
  used: "Used",
  dismissed: "Dismissed",
  wrong: "Reported as wrong",
  resolved: "Resolved",
  done: "No longer needed",
  contradicted: "Withdrawn, the words were corrected",
  call_ended: "Open when the call ended",
  ttl: "Expired",
  superseded: "Made room for a newer answer",
  expire: "Expired",
  retract: "Withdrawn",
};

/** @param {import("./state.js").Action} action @param {string} [mark] what the agent did with it on this page */
export function becameText(action, mark) {
  return BECAME[mark] ?? BECAME[action.reason] ?? BECAME[action.state] ?? "";
}

/**
 * A passage cut where it answers. The server counts characters as code points, and so must we.
 *
 * @param {string} text @param {[number, number][]} [highlights] ascending
 * @returns {{text: string, isAnswer: boolean}[]}
 */
export function passageParts(text, highlights = []) {
  const characters = [...text];
  const parts = [];
  let at = 0;
  for (const [start, end] of highlights) {
    if (start > at) parts.push({ text: characters.slice(at, start).join(""), isAnswer: false });
    parts.push({ text: characters.slice(start, end).join(""), isAnswer: true });
    at = end;
  }
  if (at < characters.length) parts.push({ text: characters.slice(at).join(""), isAnswer: false });
  return parts;
}

const GAP_STATES = {
  open: "Still interrupted.",
  closed: "Listening again; this part is missing.",
  backfilled: "Recovered since.",
  lost: "This part could not be recovered.",
};

const GAP_CAUSES = {
  recogniser_lost: "speech recognition was lost",
  recogniser_overloaded: "speech recognition was overloaded",
  audio_missing: "no audio arrived",
};

/** One sentence on a gap. @param {import("./state.js").Gap} gap */
export function gapText(gap) {
  const range = gap.to_ms === null ? `from ${clockText(gap.from_ms)}` : `${clockText(gap.from_ms)} to ${clockText(gap.to_ms)}`;
  const cause = GAP_CAUSES[gap.cause] ?? labelText(gap.cause).toLowerCase();
  return `${speakerText(gap.speaker)} not heard ${range}: ${cause}. ${GAP_STATES[gap.state] ?? ""}`.trim();
}

const END_REASONS = {
  stopped: "",
  source_lost: "the audio source was lost",
  shutdown: "the server was shut down",
};

/** Why a call ended where that is worth a word, else an empty string. @param {string} reason */
export function endReasonText(reason) {
  return END_REASONS[reason] ?? labelText(reason).toLowerCase();
}
