/**
 * Where the time went: stage durations of one utterance from its stamps, and percentiles over a call. Pure.
 * Names and spans are those of `server/wire/clock.py`; a test compares the two.
 *
 * @typedef {import("./state.js").Timing} Timing
 * @typedef {{stages: Record<string, number>, total_ms: number}} Budget
 */

export const STAGES = [
  "audio_capture",
  "network",
  "asr",
  "transcript",
  "orchestrator",
  "inference",
  "publish",
  "socket",
  "render",
];

const SPANS = [
  ["network", "t0", "t1"],
  ["asr", "t1", "t3"],
  ["transcript", "t3", "t4"],
  ["orchestrator", "t4", "t6"],
  ["inference", "t6", "t7"],
  ["publish", "t7", "t8"],
  ["socket", "t8", "received"],
  ["render", "received", "painted"],
];

/**
 * Stages that the stamps cover, in order, each with its start after the first one.
 *
 * @param {Timing} timing
 * @returns {{stage: string, startMs: number, ms: number}[]} negative spans (clocks that disagree) stay as they are
 */
export function stageSpans(timing) {
  const at = { ...timing.stamps, received: timing.receivedMs, painted: timing.paintedMs };
  const spans = [];
  const captureMs = at.frame_ms;
  if (isNumber(captureMs)) spans.push({ stage: "audio_capture", startMs: 0, ms: captureMs });
  const originMs = firstNumber([at.t0, at.t1, at.t3, at.t4]);
  for (const [stage, from, to] of SPANS) {
    if (!isNumber(at[from]) || !isNumber(at[to])) continue;
    spans.push({ stage, startMs: at[from] - originMs + (captureMs ?? 0), ms: at[to] - at[from] });
  }
  return spans;
}

/** From the first stage's start to the last one's end, in ms; null without stages. */
export function totalMs(spans) {
  if (spans.length === 0) return null;
  return Math.max(...spans.map((span) => span.startMs + span.ms)) - Math.min(...spans.map((span) => span.startMs));
}

/**
 * Percentiles of every stage over the utterances of a call, and of their totals.
 *
 * @param {Iterable<Timing>} timings
 * @returns {Map<string, {n: number, p50: number, p95: number}>} keys of `STAGES` and `total`
 */
export function percentiles(timings) {
  const samples = new Map();
  const add = (stage, ms) => samples.has(stage) ? samples.get(stage).push(ms) : samples.set(stage, [ms]);
  for (const timing of timings) {
    const spans = stageSpans(timing);
    for (const { stage, ms } of spans) add(stage, ms);
    // Totals of utterances without guidance, or not seen live, end earlier and would flatter the figure.
    if (timing.rank > 1 && timing.paintedMs !== null) add("total", totalMs(spans));
  }
  return new Map(
    [...samples].map(([stage, values]) => {
      values.sort((a, b) => a - b);
      return [stage, { n: values.length, p50: nearestRank(values, 0.5), p95: nearestRank(values, 0.95) }];
    }),
  );
}

/** The smallest value that at least `share` of all do not exceed. @param {number[]} sorted ascending, not empty */
export function nearestRank(sorted, share) {
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

function isNumber(value) {
  return typeof value === "number";
}

function firstNumber(values) {
  return values.find(isNumber) ?? 0;
}
