import assert from "node:assert/strict";
import { test } from "node:test";

import { Follow } from "../../../../server/app/static/calls.js";
import { currentIntent, mood } from "../../../../server/app/static/insight.js";
import { parseMarkdown } from "../../../../server/app/static/markdown.js";
import { Receipts } from "../../../../server/app/static/receipts.js";
import { RetryPolicy, isTerminal } from "../../../../server/app/static/retry.js";
import { nearestRank, percentiles, stageSpans, totalMs } from "../../../../server/app/static/stages.js";
import { apply, newCall } from "../../../../server/app/static/state.js";
import { clockText, gapText, labelText, momentText, passageParts, remainingText } from "../../../../server/app/static/words.js";
import { annotation, transcript } from "./world.js";

// -- which call ------------------------------------------------------------------------------------------------------

function contact(conversationId, state, off) {
  return { kind: "call", off, d: { conversation_id: conversationId, state } };
}

test("the newest call is followed, and the last one stays until the next begins", () => {
  const follow = new Follow();
  assert.equal(follow.apply(contact("a", "started", 1)), true);
  assert.equal(follow.apply(contact("a", "ended", 2)), false);
  assert.equal(follow.current, "a");
  follow.apply(contact("b", "started", 3));
  assert.equal(follow.current, "b");
});

test("from a snapshot a live call is preferred to one that ended later", () => {
  const follow = new Follow();
  for (const each of [contact("old", "ended", 3), contact("live", "started", 5), contact("other", "ended", 9)]) follow.apply(each);
  assert.equal(follow.current, "live");
  assert.deepEqual(follow.live().map((call) => call.conversationId), ["live"]);
});

test("yesterday's call is not shown to whoever opens the page today", () => {
  const follow = new Follow();
  const day = 24 * 3600 * 1000;
  follow.apply({ ...contact("old", "ended", 1), t: { t8: 1_000 } }, day);
  assert.equal(follow.current, null);
  follow.apply({ ...contact("recent", "ended", 2), t: { t8: day - 60_000 } }, day);
  assert.equal(follow.current, "recent");
});

test("a pinned call is not left", () => {
  const follow = new Follow("p");
  follow.apply(contact("a", "started", 1));
  assert.equal(follow.show("b"), false);
  assert.equal(follow.current, "p");
});

test("an agent's thousandth call does not fill the memory", () => {
  const follow = new Follow();
  for (let number = 0; number < 1000; number += 1) {
    follow.apply(contact(`c${number}`, "started", 2 * number));
    follow.apply(contact(`c${number}`, "ended", 2 * number + 1));
  }
  assert.ok(follow.calls.size <= 51);
  assert.equal(follow.current, "c999");
});

// -- mood and intent -------------------------------------------------------------------------------------------------

function withSentiments(values) {
  const call = newCall("c1");
  values.forEach((value, index) => {
    apply(call, transcript(`u${index}`, { start_ms: index * 1000 }));
    const scores = { negative: Math.max(0, -value), neutral: 1 - Math.abs(value), positive: Math.max(0, value) };
    apply(call, annotation(`u${index}`, "sentiment", { scores }));
  });
  return call;
}

test("mood tells level and trend", () => {
  assert.equal(mood(withSentiments([])), null);
  const worse = mood(withSentiments([0.5, 0.4, 0.5, -0.6, -0.7, -0.5]));
  assert.deepEqual([worse.level, worse.trend], ["negative", "worse"]);
  const better = mood(withSentiments([-0.9, -0.9, -0.9, 0.1, 0, 0.1]));
  assert.deepEqual([better.level, better.trend], ["neutral", "better"]);
  assert.equal(mood(withSentiments([0.5])).trend, "steady");
});

test("the agent's words and removed bubbles have no mood", () => {
  const call = withSentiments([0.5]);
  apply(call, transcript("x", { speaker: "agent", start_ms: 9000 }));
  apply(call, annotation("x", "sentiment", { scores: { negative: 1 } }));
  apply(call, annotation("gone", "sentiment", { scores: { negative: 1 } }));
  assert.equal(mood(call).points.length, 1);
});

test("dissatisfaction is the newest known", () => {
  const call = withSentiments([0, 0]);
  apply(call, annotation("u0", "dissatisfied", { score: 0.9 }));
  assert.equal(mood(call).isDissatisfied, true);
  apply(call, annotation("u1", "dissatisfied", { score: 0.1 }));
  assert.equal(mood(call).isDissatisfied, false);
});

test("a remark outside known topics does not take the request back", () => {
  const call = newCall("c1");
  apply(call, transcript("u0", { start_ms: 1000 }));
  apply(call, transcript("u1", { start_ms: 2000 }));
  apply(call, annotation("u1", "intent", { label: "joke", score: 0.2, in_scope: false }));
  assert.equal(currentIntent(call), null, "a guess outside known topics is not shown");
  apply(call, annotation("u0", "intent", { label: "pay_bill", score: 0.9, in_scope: true }));
  assert.deepEqual([currentIntent(call).label, currentIntent(call).isLatest], ["pay_bill", false]);
  apply(call, transcript("u2", { start_ms: 3000 }));
  apply(call, transcript("u9", { start_ms: 2500 }));
  apply(call, annotation("u9", "intent", { label: "transfer", score: 0.4, in_scope: true }));
  assert.equal(currentIntent(call).label, "pay_bill", "a guess is nothing to show");
  apply(call, annotation("u2", "intent", { label: "goodbye", score: 1, in_scope: true }));
  assert.equal(currentIntent(call).label, "pay_bill", "manners are no request");
});

// -- stages ----------------------------------------------------------------------------------------------------------

const STAMPS = { t0: 1000, t1: 1020, t2: 1021, t3: 1250, t4: 1252, t5: 1253, t6: 1256, t7: 1300, t8: 1301, frame_ms: 20 };

test("spans follow each other and add up", () => {
  const spans = stageSpans({ stamps: STAMPS, receivedMs: 1310, paintedMs: 1340, rank: 3 });
  assert.deepEqual(spans.map((span) => [span.stage, span.startMs, span.ms]), [
    ["audio_capture", 0, 20],
    ["network", 20, 20],
    ["asr", 40, 230],
    ["transcript", 270, 2],
    ["orchestrator", 272, 4],
    ["inference", 276, 44],
    ["publish", 320, 1],
    ["socket", 321, 9],
    ["render", 330, 30],
  ]);
  assert.equal(totalMs(spans), 360);
});

test("missing stamps leave their stages out, and a clock that stepped is not hidden", () => {
  const spans = stageSpans({ stamps: { t4: 10, t6: 12, t7: 20, t8: 21 }, receivedMs: 18, paintedMs: null });
  assert.deepEqual(spans.map((span) => [span.stage, span.startMs, span.ms]), [
    ["orchestrator", 0, 2],
    ["inference", 2, 8],
    ["publish", 10, 1],
    ["socket", 11, -3],
  ]);
  assert.equal(totalMs([]), null);
});

test("percentiles are over single utterances", () => {
  assert.equal(nearestRank([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.5), 5);
  assert.equal(nearestRank([1, 2, 3], 0.95), 3);
  const timings = [30, 40, 50].map((ms) => ({ stamps: { t6: 0, t7: ms }, receivedMs: null, paintedMs: null, rank: 3 }));
  const found = percentiles(timings);
  assert.deepEqual(found.get("inference"), { n: 3, p50: 40, p95: 50 });
  assert.equal(found.has("total"), false, "what was not painted has no total");
});

// -- retry -----------------------------------------------------------------------------------------------------------

test("the back-off grows to its cap and starts over only after a connection that lived", () => {
  const retry = new RetryPolicy();
  const limits = Array.from({ length: 9 }, () => retry.nextDelayMs(1));
  assert.deepEqual(limits, [1000, 500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000]);
  retry.closedAfter(100);
  assert.equal(retry.nextDelayMs(1), 10_000);
  retry.closedAfter(6_000);
  assert.equal(retry.nextDelayMs(1), 1000);
  assert.equal(retry.nextDelayMs(0), 0);
});

test("close codes say whether to come back", () => {
  assert.deepEqual([1006, 3008, 3499, 3500, 3999, 4000, 4499, 4500, 4999].map(isTerminal), [false, false, false, true, true, false, false, true, true]);
});

// -- receipts --------------------------------------------------------------------------------------------------------

function memory(initial = null) {
  const values = new Map([["cueline.marks", initial]]);
  return { get: (key) => values.get(key) ?? null, set: (key, value) => values.set(key, value) };
}

test("each card is reported as shown once, and waits while the feed is away", () => {
  const sent = [];
  let isOpen = false;
  const receipts = new Receipts((message) => isOpen && sent.push(message) > 0, memory());
  receipts.shown("call:c1", "a", 12.5);
  receipts.shown("call:c1", "a", 99);
  receipts.shown("call:c1", "b", null);
  assert.deepEqual(sent, []);
  isOpen = true;
  receipts.flush();
  assert.deepEqual(sent, [
    { type: "receipt", ch: "call:c1", id: "a", event: "shown", painted_at_ms: 12.5 },
    { type: "receipt", ch: "call:c1", id: "b", event: "shown" },
  ]);
});

test("marks outlive a reload, by channel, and a spoilt storage is no reason to fail", () => {
  const storage = memory();
  const receipts = new Receipts(() => true, storage);
  receipts.mark("call:c1", "a#1", "dismissed");
  receipts.mark("call:c10", "a#1", "used");
  assert.deepEqual([...new Receipts(() => true, storage).marksOf("call:c1")], [["a#1", "dismissed"]]);
  for (const text of ["{", "7", "[[1]]", "null"]) assert.equal(new Receipts(() => true, memory(text)).marksOf("call:c1").size, 0);
});

test("marks and waiting receipts are bounded", () => {
  const storage = memory();
  const sent = [];
  let isOpen = false;
  const receipts = new Receipts((message) => isOpen && sent.push(message) > 0, storage);
  for (let number = 0; number < 600; number += 1) receipts.mark("call:c1", `a${number}`, "used");
  assert.equal(JSON.parse(storage.get("cueline.marks")).length, 500);
  isOpen = true;
  receipts.flush();
  assert.equal(sent.length, 200);
});

// -- text ------------------------------------------------------------------------------------------------------------

test("the Markdown subset", () => {
  assert.deepEqual(parseMarkdown("Do **this** *now*\nwith `x`\n\n1. one\n2) two\n- a\n"), [
    {
      tag: "p",
      inlines: [
        { tag: "", text: "Do " },
        { tag: "strong", text: "this" },
        { tag: "", text: " " },
        { tag: "em", text: "now" },
        { tag: "br", text: "" },
        { tag: "", text: "with " },
        { tag: "code", text: "x" },
      ],
    },
    { tag: "ol", items: [[{ tag: "", text: "one" }], [{ tag: "", text: "two" }]] },
    { tag: "ul", items: [[{ tag: "", text: "a" }]] },
  ]);
});

test("HTML, links and images are only text", () => {
  const text = '<img src=x onerror="alert(1)"> [here](javascript:alert(1)) ![i](http://x)';
  assert.deepEqual(parseMarkdown(text), [{ tag: "p", inlines: [{ tag: "", text }] }]);
});

test("hostile Markdown costs no more than its length", () => {
  const started = performance.now();
  for (const text of ["*".repeat(60_000), "**a".repeat(20_000), "`".repeat(60_000), "1. ".repeat(20_000)]) parseMarkdown(text);
  const plain = performance.now() - started;
  assert.ok(plain < 2_000, `${plain} ms`);
});

test("words and numbers as people read them", () => {
  assert.deepEqual([0, 61_000, 3_600_000].map(clockText), ["0:00", "1:01", "1:00:00"]);
  assert.deepEqual(["lost_card", "oil_change_when", "when_due"].map(labelText), ["Lost card", "Oil change: when", "When due"]);
  assert.deepEqual(["moments.lost_card.any[1]", "loan"].map(momentText), ["Lost card", "Loan"]);
  assert.deepEqual([120_000, 60_000, 31_000, 4_000].map(remainingText), ["for about 2 min", "for about a minute", "for about 40 s", "fading"]);
  const gap = { from_ms: 65_000, to_ms: 72_000, cause: "recogniser_lost", state: "backfilled", speaker: "customer" };
  assert.equal(gapText(gap), "Customer not heard 1:05 to 1:12: speech recognition was lost. Recovered since.");
  assert.equal(gapText({ ...gap, to_ms: null, cause: "solar_wind", state: "open" }), "Customer not heard from 1:05: solar wind. Still interrupted.");
});

test("a passage is cut where it answers, counted in characters as the server counts them", () => {
  const parts = passageParts("😀 Free. Forty minutes. Bring it.", [[8, 22]]);
  assert.deepEqual(parts.map((part) => part.text), ["😀 Free. ", "Forty minutes.", " Bring it."]);
  assert.deepEqual(parts.map((part) => part.isAnswer), [false, true, false]);
  assert.deepEqual(passageParts("Whole."), [{ text: "Whole.", isAnswer: false }]);
  assert.deepEqual(passageParts("Whole.", [[0, 6]]), [{ text: "Whole.", isAnswer: true }]);
});
