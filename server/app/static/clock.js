/**
 * The server's clock as seen from here. Pure but for the samples it keeps.
 *
 * Source: OPERATIONS d5 (browser offset from ping samples, the one with the least round trip of eight).
 */

const MAX_SAMPLES = 8;

/** Wall time of this machine in ms that never steps back. */
export function localNowMs() {
  return performance.timeOrigin + performance.now();
}

export class ServerClock {
  constructor() {
    /** @type {{offsetMs: number, roundTripMs: number}[]} */
    this.samples = [];
  }

  /** One ping answered: `serverMs` was read somewhere between the two local times, best guess in the middle. */
  addSample(sentMs, receivedMs, serverMs) {
    const roundTripMs = receivedMs - sentMs;
    this.samples.push({ offsetMs: serverMs - (sentMs + roundTripMs / 2), roundTripMs });
    if (this.samples.length > MAX_SAMPLES) this.samples.shift();
  }

  /** What to add to a local time; 0 before the first sample. */
  get offsetMs() {
    if (this.samples.length === 0) return 0;
    return this.samples.reduce((best, each) => (each.roundTripMs < best.roundTripMs ? each : best)).offsetMs;
  }

  /** Server wall time at a local time. */
  at(localMs) {
    return localMs + this.offsetMs;
  }

  /** Server wall time now. */
  now() {
    return this.at(localNowMs());
  }
}
