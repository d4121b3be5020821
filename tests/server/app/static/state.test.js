import assert from "node:assert/strict";
import { test } from "node:test";

import { activeCards, apply, elapsedMs, newCall, openGaps, pastCards, remainingMs, timelineIndex } from "../../../../server/app/static/state.js";
import { action, annotation, publication, seeded, transcript } from "./world.js";

function played(...publications) {
  const call = newCall("c1");
  for (const each of publications) apply(call, each);
  return call;
}

/** What the page would show, without what depends on when it was connected. */
function shown(call) {
  return {
    state: call.state,
    timeline: call.timeline,
    texts: call.timeline.map((key) => call.utterances.get(key.slice(2))?.text ?? call.gaps.get(key.slice(2)).state),
    active: activeCards(call).map(({ action: { id, title, revision } }) => [id, title, revision]),
    past: pastCards(call).map(({ action: { id, state } }) => [id, state]),
    checklist: call.checklist,
    summary: call.summary,
    notices: [...call.notices.values()].map(({ code, message }) => [code, message]).sort(),
    annotations: [...call.annotations].map(([id, outputs]) => [id, [...outputs.values()].map((each) => [each.output, each.value]).sort()]).sort(),
    audioMs: call.audioMs,
  };
}

test("a revision replaces in place, an older one changes nothing", () => {
  const call = played(transcript("u1", { text: "I want", is_final: false }), transcript("u1", { revision: 2, text: "I want to pay" }));
  assert.equal(call.utterances.get("u1").text, "I want to pay");
  assert.deepEqual(call.timeline, ["u:u1"]);
  assert.deepEqual(apply(call, transcript("u1", { text: "I want", is_final: false })), []);
  assert.equal(call.utterances.get("u1").text, "I want to pay");
});

test("a late interim never overwrites a final, a corrected final does", () => {
  const call = played(transcript("u1", { revision: 2 }));
  assert.deepEqual(apply(call, transcript("u1", { revision: 3, text: "no", is_final: false })), []);
  apply(call, transcript("u1", { revision: 4, text: "hello there" }));
  assert.equal(call.utterances.get("u1").text, "hello there");
});

test("an empty final removes the bubble, and a late interim does not bring it back", () => {
  const call = played(transcript("u1", { is_final: false, text: "uh" }), transcript("u1", { revision: 2, text: " " }));
  assert.deepEqual(call.timeline, []);
  apply(call, transcript("u1", { revision: 3, is_final: false, text: "uh" }));
  assert.deepEqual(call.timeline, []);
});

test("an empty final that was backfilled comes back", () => {
  const call = played(transcript("u1", { text: "" }), transcript("u1", { revision: 2, text: "found", origin: "backfill" }));
  assert.deepEqual(call.timeline, ["u:u1"]);
});

test("the timeline is ordered by audio time, whatever the order of arrival", () => {
  const call = played(
    transcript("u2", { start_ms: 5000 }),
    transcript("u1", { start_ms: 1000 }),
    publication("gap", { from_ms: 3000, to_ms: null, cause: "audio_missing", state: "open", speaker: "agent" }),
    transcript("u3", { start_ms: 5000 }),
  );
  assert.deepEqual(call.timeline, ["u:u1", "g:agent/3000", "u:u2", "u:u3"]);
  call.timeline.forEach((key, index) => assert.equal(timelineIndex(call, key), index));
  assert.equal(timelineIndex(call, "u:none"), -1);
});

test("an utterance whose start moves is put where it belongs", () => {
  const call = played(transcript("u1", { start_ms: 1000, is_final: false }), transcript("u2", { start_ms: 2000 }));
  apply(call, transcript("u1", { revision: 2, start_ms: 3000 }));
  assert.deepEqual(call.timeline, ["u:u2", "u:u1"]);
});

test("cards go through their life", () => {
  const call = played(action("a", { priority: 3 }, { off: 1 }), action("b", { priority: 9 }, { off: 2 }), action("c", { priority: 3 }, { off: 3 }));
  assert.deepEqual(activeCards(call).map((card) => card.action.id), ["b", "c", "a"]);
  apply(call, action("b", { revision: 2, state: "update", title: "B", priority: 1 }, { off: 4 }));
  apply(call, action("c", { revision: 2, state: "expire" }, { off: 5 }));
  apply(call, action("a", { revision: 2, state: "retract" }, { off: 6 }));
  assert.deepEqual(activeCards(call).map((card) => card.action.title), ["B"]);
  assert.deepEqual(pastCards(call).map((card) => [card.action.id, card.action.state]), [["a", "retract"], ["c", "expire"]]);
  assert.deepEqual(apply(call, action("a", { revision: 1 })), [], "an older revision does not bring a card back");
});

test("a card's time runs from its publication, not from its expiry or retraction", () => {
  const call = newCall("c1");
  apply(call, action("a", { ttl_ms: 10_000 }, { t: { t8: 5000 } }), { receivedMs: 5100 });
  assert.equal(remainingMs(call.cards.get("a"), 8000), 7000);
  assert.equal(remainingMs(call.cards.get("a"), 99_000), 0);
  assert.equal(remainingMs({ ...call.cards.get("a"), publishedMs: null }, 8000), null);
});

test("gaps are open until they are closed or the call ends", () => {
  const gap = { from_ms: 10, to_ms: null, cause: "recogniser_lost", state: "open", speaker: "customer" };
  const call = played(publication("gap", gap));
  assert.equal(openGaps(call).length, 1);
  apply(call, publication("gap", { ...gap, to_ms: 50, state: "backfilled" }));
  assert.equal(openGaps(call).length, 0);
  assert.deepEqual(call.timeline, ["g:customer/10"]);
  const ended = played(publication("gap", gap), publication("call", { conversation_id: "c1", state: "ended" }));
  assert.equal(openGaps(ended).length, 0);
});

test("the call's clock runs on the audio clock between publications and stops with the call", () => {
  const call = newCall("c1");
  apply(call, publication("call", { conversation_id: "c1", state: "started" }, { t: { t8: 1_000_000 } }));
  assert.equal(elapsedMs(call, 1_002_500), 2500);
  apply(call, transcript("u1", { end_ms: 4000 }, { t: { t0: 1_004_100 } }));
  assert.equal(elapsedMs(call, 1_005_100), 5000);
  assert.equal(elapsedMs(call, 1_000_000), 4000, "never behind what was heard");
  apply(call, publication("call", { conversation_id: "c1", state: "held" }));
  assert.equal(elapsedMs(call, 1_009_000), 4000);
});

test("another conversation's state and unknown kinds change nothing", () => {
  const call = newCall("c1");
  assert.deepEqual(apply(call, publication("call", { conversation_id: "c2", state: "ended" })), []);
  assert.deepEqual(apply(call, publication("weather", { rain: true })), []);
  assert.equal(call.state, "unknown");
});

test("an annotation of an older revision does not replace a newer one", () => {
  const call = played(annotation("u1", "intent", { label: "new" }, { revision: 2 }));
  assert.deepEqual(apply(call, annotation("u1", "intent", { label: "old" }, { revision: 1 })), []);
  assert.equal(call.annotations.get("u1").get("intent").value.label, "new");
});

test("the timing kept is that of the guidance, else the annotation, else the words", () => {
  const call = newCall("c1");
  const live = { receivedMs: 900 };
  apply(call, transcript("u1", {}, { t: { t0: 1 } }), live);
  assert.equal(call.timings.get("u1").what, "transcript");
  apply(call, annotation("u1", "intent", {}, {}, { t: { t0: 1, t7: 2 } }), live);
  assert.equal(call.timings.get("u1").what, "intent");
  const evidence = [{ utterance_id: "u1", end_ms: 9 }, { utterance_id: "u0", end_ms: 3 }];
  apply(call, action("a", { evidence }, { t: { t0: 1, t7: 3 } }), live);
  apply(call, action("b", { evidence }, { t: { t0: 1, t7: 99 } }), live);
  assert.equal(call.timings.get("u1").stamps.t7, 3, "the first action is the guidance that could be late");
  assert.equal(call.timings.has("u0"), false);
});

test("a snapshot with its tail leads to what the whole log leads to, cut anywhere", () => {
  for (let seed = 1; seed <= 60; seed += 1) {
    const log = randomLog(seeded(seed));
    const whole = shown(played(...log));
    for (const cut of [0, Math.floor(log.length / 3), log.length - 1, log.length]) {
      const latest = new Map();
      for (const each of log.slice(0, cut)) latest.set(`${each.kind}/${stateKey(each)}`, each);
      const snapshot = [...latest.values()].sort((a, b) => a.off - b.off);
      assert.deepEqual(shown(played(...snapshot, ...log.slice(cut))), whole, `seed ${seed}, cut ${cut}`);
    }
    assert.deepEqual(shown(played(...log, ...log)), whole, `seed ${seed}, played twice`);
  }
});

/** The key of the state that a publication is, as the server's log keeps it. */
function stateKey({ kind, d }) {
  const fields = {
    transcript: [d.utterance_id],
    annotation: [d.utterance_id, d.output],
    action: [d.id],
    gap: [d.speaker, d.from_ms],
    notice: [d.code],
    call: [d.conversation_id],
  };
  return (fields[kind] ?? []).join("/");
}

/** A log as the server writes it: revisions grow, a final is followed only by finals. */
function randomLog(random) {
  const pick = (count) => Math.floor(random() * count);
  const revisions = new Map();
  const finals = new Set();
  const grow = (key) => revisions.set(key, (revisions.get(key) ?? 0) + 1).get(key);
  return Array.from({ length: 60 }, (_, index) => {
    const envelope = { off: index + 1, t: {} };
    const number = pick(6);
    switch (pick(7)) {
      case 0:
      case 1: {
        const id = `u${number}`;
        if (random() < 0.4) finals.add(id);
        const text = random() < 0.15 ? "" : `words ${index}`;
        const fields = { revision: grow(id), start_ms: number * 1000, end_ms: number * 1000 + 900, text, is_final: finals.has(id) };
        return transcript(id, fields, envelope);
      }
      case 2:
        return annotation(`u${number}`, ["intent", "sentiment"][pick(2)], { label: index }, { revision: grow(`n${number}`) }, envelope);
      case 3: {
        const state = ["new", "update", "expire", "retract"][pick(4)];
        return action(`a${number}`, { revision: grow(`a${number}`), state, priority: 1 + pick(9), title: `t${index}` }, envelope);
      }
      case 4:
        return publication("gap", { from_ms: number * 700, to_ms: null, cause: "x", state: ["open", "closed"][pick(2)], speaker: "agent" }, envelope);
      case 5:
        return publication("checklist", { revision: grow("checklist"), items: [{ id: "a", title: "a", is_done: random() < 0.5 }] }, envelope);
      default:
        return publication("notice", { code: `n${number}`, message: `m${index}` }, envelope);
    }
  });
}
