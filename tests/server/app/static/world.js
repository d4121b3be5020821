/** What the tests of the page's modules share: publications, seeded chance, and a world without a browser. */

/** A small seeded generator (mulberry32), so that a failing run can be repeated. */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

export function publication(kind, d, { off = 1, t = {}, ch = "call:c1", ep = "e1" } = {}) {
  return { ch, ep, off, kind, t, d, tp: "" };
}

export function transcript(id, fields = {}, envelope = {}) {
  const d = { utterance_id: id, revision: 1, speaker: "customer", start_ms: 0, end_ms: 900, text: "hello", is_final: true, ...fields };
  return publication("transcript", d, envelope);
}

export function action(id, fields = {}, envelope = {}) {
  const d = { id, revision: 1, type: "hint", title: id, state: "new", priority: 5, ttl_ms: 1000, ...fields };
  return publication("action", d, envelope);
}

export function annotation(id, output, value, fields = {}, envelope = {}) {
  return publication("annotation", { utterance_id: id, revision: 1, output, value, score: null, model: "m", version: 1, ...fields }, envelope);
}

/** Timers and time that move only by `advance`, and sockets that only record. */
export class FakeWorld {
  constructor() {
    this.now = 1000;
    this.timers = [];
    this.sockets = [];
    this.randomValue = 1;
  }

  open(url, protocols) {
    const socket = {
      url,
      protocols,
      sent: [],
      isClosed: false,
      send: (text) => socket.sent.push(JSON.parse(text)),
      close: () => (socket.isClosed = true),
      receive: (message) => socket.onmessage({ data: JSON.stringify(message) }),
    };
    this.sockets.push(socket);
    return socket;
  }

  setTimeout(run, delayMs) {
    const timer = { run, atMs: this.now + delayMs };
    this.timers.push(timer);
    return timer;
  }

  clearTimeout(timer) {
    this.timers = this.timers.filter((each) => each !== timer);
  }

  nowMs() {
    return this.now;
  }

  random() {
    return this.randomValue;
  }

  get socket() {
    return this.sockets.at(-1);
  }

  /** Let time pass, running what falls due in order. */
  async advance(ms) {
    const untilMs = this.now + ms;
    for (;;) {
      const due = this.timers.filter((timer) => timer.atMs <= untilMs).sort((a, b) => a.atMs - b.atMs)[0];
      if (!due) break;
      this.clearTimeout(due);
      this.now = Math.max(this.now, due.atMs);
      due.run();
      await settled();
    }
    this.now = untilMs;
  }
}

/** Let promises that are already decided run their course. */
export function settled() {
  return new Promise((resolve) => setImmediate(resolve));
}
