/**
 * What the annotations of a call say of the customer now: mood with its trend, and intent. Pure.
 *
 * @typedef {import("./state.js").Call} Call
 * @typedef {{level: "positive"|"neutral"|"negative", trend: "better"|"worse"|"steady", isDissatisfied: boolean,
 *   points: {utteranceId: string, value: number}[]}} Mood
 * @typedef {{label: string, score: number|null, utteranceId: string, startMs: number, isLatest: boolean}} Intent
 */

/** How many utterances the sparkline shows, and how many are averaged for the words beside it. */
export const MAX_MOOD_POINTS = 24;
const MOOD_WINDOW = 3;
const LEVEL_AT = 0.25;
const TREND_AT = 0.2;
const DISSATISFIED_AT = 0.5;
/** How many of the customer's utterances back something may lie and still be called current. */
const MAX_LOOKBACK = 60;

/** The customer's latest utterances, newest first. @param {Call} call */
function* customerUtterances(call) {
  let left = MAX_LOOKBACK;
  for (let index = call.timeline.length - 1; index >= 0 && left > 0; index -= 1) {
    const key = call.timeline[index];
    const utterance = key.startsWith("u:") ? call.utterances.get(key.slice(2)) : undefined;
    if (utterance?.speaker !== "customer") continue;
    left -= 1;
    yield utterance;
  }
}

/** Mood of the customer, or null before the first sentiment. @param {Call} call @returns {Mood|null} */
export function mood(call) {
  const points = [];
  let isDissatisfied = null;
  for (const { utterance_id: utteranceId } of customerUtterances(call)) {
    const outputs = call.annotations.get(utteranceId);
    const scores = outputs?.get("sentiment")?.value?.scores;
    if (scores) points.unshift({ utteranceId, value: (scores.positive ?? 0) - (scores.negative ?? 0) });
    const dissatisfied = outputs?.get("dissatisfied")?.value?.score;
    if (isDissatisfied === null && typeof dissatisfied === "number") isDissatisfied = dissatisfied >= DISSATISFIED_AT;
    if (points.length === MAX_MOOD_POINTS) break;
  }
  if (points.length === 0) return null;
  const now = mean(points.slice(-MOOD_WINDOW));
  const before = points.slice(-2 * MOOD_WINDOW, -MOOD_WINDOW);
  const change = before.length > 0 ? now - mean(before) : 0;
  return {
    level: now >= LEVEL_AT ? "positive" : now <= -LEVEL_AT ? "negative" : "neutral",
    trend: change >= TREND_AT ? "better" : change <= -TREND_AT ? "worse" : "steady",
    isDissatisfied: isDissatisfied ?? false,
    points,
  };
}

/** A request below this score is rather something else than this. */
const WANTED_AT = 0.5;

/** Intents that are manners and no request. */
const COURTESIES = new Set(["greeting", "goodbye", "thank_you", "yes", "no", "maybe", "repeat"]);

/**
 * What the customer wants: the newest request in scope, since a later "thanks" does not take it back. Nothing, rather
 * than a guess, where none was in scope and likely yet.
 *
 * @param {Call} call @returns {Intent|null}
 */
export function currentIntent(call) {
  let isLatest = true;
  for (const utterance of customerUtterances(call)) {
    const annotation = call.annotations.get(utterance.utterance_id)?.get("intent");
    if (annotation?.value && !COURTESIES.has(annotation.value.label)) {
      const score = annotation.value.score ?? annotation.score;
      if (annotation.value.in_scope !== false && (score ?? 1) >= WANTED_AT) {
        return {
          label: String(annotation.value.label ?? ""),
          score,
          utteranceId: utterance.utterance_id,
          startMs: utterance.start_ms,
          isLatest,
        };
      }
      isLatest = false;
    }
  }
  return null;
}

function mean(points) {
  return points.reduce((sum, point) => sum + point.value, 0) / points.length;
}
