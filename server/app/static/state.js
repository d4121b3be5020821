/**
 * One call as the page knows it: publications in, state and changes out.
 *
 *     publication ──apply──▶ call (mutated in place) + [{what, key}] ──▶ views render only these
 *
 * Pure but for the call object it is handed: no DOM, no clock, no random source. The newest revision of a
 * thing is that thing, so that a snapshot with its tail and the whole log lead to the same call.
 *
 * The wire types are those of `server/wire/publication.py`; unknown kinds and fields are ignored.
 *
 * @typedef {{utterance_id: string, revision: number, speaker: "customer"|"agent", start_ms: number,
 *   end_ms: number, text: string, is_final: boolean, origin?: string, language?: string}} Utterance
 * @typedef {{utterance_id: string, revision: number, output: string, value: any, score: number|null,
 *   model: string, version: number, queue_ms?: number, compute_ms?: number}} Annotation
 * @typedef {{utterance_id: string, text: string, start_ms: number, end_ms: number, speaker: string,
 *   rule: string, phrase?: string, score?: number|null, model?: string, version?: number,
 *   is_final?: boolean}} Evidence
 * @typedef {{id: string, revision: number, type: string, title: string, body?: string, priority: number,
 *   ttl_ms: number, state: "new"|"update"|"expire"|"retract", reason?: string, evidence?: Evidence[],
 *   cites?: {source: string, title: string, text: string, score: number, highlights?: [number, number][]}[]}} Action
 * @typedef {{action: Action, isLive: boolean, wasActive: boolean, publishedMs: number|null, off: number}} Card
 * @typedef {{from_ms: number, to_ms: number|null, cause: string, state: string, speaker: string}} Gap
 * @typedef {{ch: string, ep: string, off: number, kind: string, t?: Record<string, number>, d: any}} Publication
 * @typedef {{what: string, key: string, timing?: Timing}} Change
 * @typedef {{what: string, rank: number, isFinal: boolean, stamps: Record<string, number>,
 *   receivedMs: number|null, paintedMs: number|null}} Timing
 */

/** @typedef {ReturnType<typeof newCall>} Call */

/** An empty call. @param {string} conversationId */
export function newCall(conversationId) {
  return {
    conversationId,
    state: "unknown",
    agentId: null,
    policy: "",
    reason: "",
    /** Audio time and server wall time of one instant, to run the call's clock by. */
    anchor: /** @type {{audioMs: number, wallMs: number}|null} */ (null),
    audioMs: 0,
    /** Keys `u:<utterance>` and `g:<gap>` by audio time: what the transcript shows, in its order. */
    timeline: /** @type {string[]} */ ([]),
    utterances: /** @type {Map<string, Utterance>} */ (new Map()),
    gaps: /** @type {Map<string, Gap>} */ (new Map()),
    annotations: /** @type {Map<string, Map<string, Annotation>>} */ (new Map()),
    translations: /** @type {Map<string, Map<string, {text: string, revision: number}>>} */ (new Map()),
    cards: /** @type {Map<string, Card>} */ (new Map()),
    checklist: /** @type {{revision: number, items: any[]}|null} */ (null),
    notices: /** @type {Map<string, {code: string, message: string, severity: string, off: number}>} */ (new Map()),
    summary: /** @type {{revision: number, sections: any[], is_final: boolean}|null} */ (null),
    timings: /** @type {Map<string, Timing>} */ (new Map()),
  };
}

const NOTHING = /** @type {Change[]} */ ([]);

/**
 * Apply one publication.
 *
 * @param {Call} call
 * @param {Publication} publication
 * @param {{receivedMs: number|null}} arrival server wall time of the arrival; null for what came with a
 *   subscription, whose delivery took as long as this page was away and says nothing about the service
 * @returns {Change[]} what the views have to draw again; empty for a publication that changes nothing
 */
export function apply(call, publication, arrival = { receivedMs: null }) {
  const reduce = REDUCERS[publication.kind];
  return reduce ? reduce(call, publication, arrival) : NOTHING;
}

const REDUCERS = {
  call: applyCall,
  transcript: applyTranscript,
  annotation: applyAnnotation,
  action: applyAction,
  checklist: applyChecklist,
  gap: applyGap,
  translation: applyTranslation,
  summary: applySummary,
  notice: applyNotice,
};

function applyCall(call, { d, t = {} }) {
  if (d.conversation_id !== call.conversationId) return NOTHING;
  call.state = d.state;
  call.agentId = d.agent_id ?? call.agentId;
  call.policy = d.policy || call.policy;
  call.reason = d.reason ?? "";
  if (call.anchor === null && d.state === "started" && t.t8 !== undefined) call.anchor = { audioMs: 0, wallMs: t.t8 };
  return [{ what: "call", key: "" }];
}

function applyTranscript(call, { d, t = {} }, arrival) {
  const known = call.utterances.get(d.utterance_id);
  if (known && (d.revision <= known.revision || (known.is_final && !d.is_final))) return NOTHING;
  call.utterances.set(d.utterance_id, d);
  const key = `u:${d.utterance_id}`;
  // An empty final says that there was nothing to hear after all: the interim's bubble goes.
  const isShown = !(d.is_final && d.text.trim() === "");
  const wasShown = known !== undefined && !(known.is_final && known.text.trim() === "");
  if (wasShown && (!isShown || known.start_ms !== d.start_ms)) removeFromTimeline(call, key);
  if (isShown && (!wasShown || known.start_ms !== d.start_ms)) insertIntoTimeline(call, key, d.start_ms);
  if (d.end_ms >= call.audioMs) {
    call.audioMs = d.end_ms;
    if (t.t0 !== undefined) call.anchor = { audioMs: d.end_ms, wallMs: t.t0 };
  }
  const timing = recordTiming(call, d.utterance_id, { what: "transcript", rank: 1, isFinal: d.is_final }, t, arrival);
  return [{ what: "utterance", key: d.utterance_id, timing }];
}

function applyAnnotation(call, { d, t = {} }, arrival) {
  const outputs = mapAt(call.annotations, d.utterance_id);
  const known = outputs.get(d.output);
  if (known && d.revision < known.revision) return NOTHING;
  outputs.set(d.output, d);
  const utterance = call.utterances.get(d.utterance_id);
  const isFinal = utterance !== undefined && utterance.is_final && d.revision >= utterance.revision;
  const what = { what: d.output, rank: 2, isFinal };
  return [{ what: "annotation", key: d.utterance_id, timing: recordTiming(call, d.utterance_id, what, t, arrival) }];
}

function applyAction(call, { d, t = {}, off }, arrival) {
  const known = call.cards.get(d.id);
  if (known && d.revision <= known.action.revision) return NOTHING;
  const isActive = isActiveAction(d);
  call.cards.set(d.id, {
    action: d,
    isLive: arrival.receivedMs !== null,
    wasActive: (known?.wasActive ?? false) || isActive,
    publishedMs: isActive ? (t.t8 ?? arrival.receivedMs) : (known?.publishedMs ?? null),
    off,
  });
  const trigger = (d.evidence ?? []).reduce((last, each) => (last && last.end_ms > each.end_ms ? last : each), null);
  // Only the first showing is guidance that could be late; updates and expiries come when they should.
  const timing =
    d.state === "new" && trigger
      ? recordTiming(call, trigger.utterance_id, { what: "action", rank: 3, isFinal: trigger.is_final ?? true }, t, arrival)
      : undefined;
  return [{ what: "action", key: d.id, timing }];
}

function applyChecklist(call, { d }) {
  if (call.checklist && d.revision <= call.checklist.revision) return NOTHING;
  call.checklist = d;
  return [{ what: "checklist", key: "" }];
}

function applyGap(call, { d }) {
  const key = `${d.speaker}/${d.from_ms}`;
  if (!call.gaps.has(key)) insertIntoTimeline(call, `g:${key}`, d.from_ms);
  call.gaps.set(key, d);
  call.audioMs = Math.max(call.audioMs, d.to_ms ?? d.from_ms);
  return [{ what: "gap", key }];
}

function applyTranslation(call, { d }) {
  const languages = mapAt(call.translations, d.utterance_id);
  const revision = d.revision ?? 1;
  if ((languages.get(d.language)?.revision ?? 0) > revision) return NOTHING;
  languages.set(d.language, { text: d.text, revision });
  return [{ what: "utterance", key: d.utterance_id }];
}

function applySummary(call, { d }) {
  if (call.summary && d.revision <= call.summary.revision) return NOTHING;
  call.summary = d;
  return [{ what: "summary", key: "" }];
}

function applyNotice(call, { d, off }) {
  call.notices.set(d.code, { code: d.code, message: d.message, severity: d.severity ?? "info", off });
  return [{ what: "notice", key: d.code }];
}

/** Whether the card is of use now. @param {Action} action */
export function isActiveAction(action) {
  return action.state === "new" || action.state === "update";
}

/** Cards of use now: highest priority first, among equals the newest. @param {Call} call @returns {Card[]} */
export function activeCards(call) {
  return [...call.cards.values()]
    .filter((card) => isActiveAction(card.action))
    .sort((a, b) => b.action.priority - a.action.priority || b.off - a.off);
}

/** Cards whose time is over, newest first. @param {Call} call @returns {Card[]} */
export function pastCards(call) {
  return [...call.cards.values()].filter((card) => !isActiveAction(card.action)).sort((a, b) => b.off - a.off);
}

/** Gaps that are not yet closed. @param {Call} call @returns {Gap[]} */
export function openGaps(call) {
  return call.state === "ended" ? [] : [...call.gaps.values()].filter((gap) => gap.state === "open");
}

/** Audio time of the call now, in ms. @param {Call} call @param {number} serverNowMs */
export function elapsedMs(call, serverNowMs) {
  if (call.state !== "started" || call.anchor === null) return call.audioMs;
  return Math.max(call.audioMs, call.anchor.audioMs + serverNowMs - call.anchor.wallMs);
}

/** What is left of a card's time in ms, or null where it has none. @param {Card} card @param {number} serverNowMs */
export function remainingMs(card, serverNowMs) {
  if (card.publishedMs === null || card.action.ttl_ms <= 0) return null;
  return Math.max(0, card.action.ttl_ms - (serverNowMs - card.publishedMs));
}

/** The same instant's neighbours: key of the item before this one in the transcript. @param {Call} call */
export function timelineIndex(call, key) {
  const at = startOf(call, key);
  if (at === undefined) return -1;
  const index = lowerBound(call, at, key);
  return call.timeline[index] === key ? index : -1;
}

/** Start of a transcript item on the audio clock. @param {Call} call @param {string} key */
export function startOf(call, key) {
  const id = key.slice(2);
  return key.startsWith("u:") ? call.utterances.get(id)?.start_ms : call.gaps.get(id)?.from_ms;
}

/** First index whose item is not before (`startMs`, `key`): a binary search, since a call has thousands. */
function lowerBound(call, startMs, key) {
  let low = 0;
  let high = call.timeline.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const other = call.timeline[middle];
    const otherMs = other === key ? startMs : startOf(call, other);
    if (otherMs < startMs || (otherMs === startMs && other < key)) low = middle + 1;
    else high = middle;
  }
  return low;
}

function insertIntoTimeline(call, key, startMs) {
  call.timeline.splice(lowerBound(call, startMs, key), 0, key);
}

function removeFromTimeline(call, key) {
  // By value: its start has just changed, so that the order no longer finds it. It is near the end.
  call.timeline.splice(call.timeline.lastIndexOf(key), 1);
}

/**
 * Keep the stamps that tell most of an utterance's way: an action's over an annotation's over a transcript's,
 * a final's over an interim's; of several actions the first.
 */
function recordTiming(call, utteranceId, about, stamps, arrival) {
  const known = call.timings.get(utteranceId);
  const isBetter =
    !known || about.rank > known.rank || (about.rank === known.rank && about.rank < 3 && about.isFinal >= known.isFinal);
  if (!isBetter || Object.keys(stamps).length === 0) return undefined;
  const timing = { ...about, stamps, receivedMs: arrival.receivedMs, paintedMs: null };
  call.timings.set(utteranceId, timing);
  return timing;
}

function mapAt(maps, key) {
  let inner = maps.get(key);
  if (!inner) maps.set(key, (inner = new Map()));
  return inner;
}
