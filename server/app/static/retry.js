/**
 * When to come back after a lost connection. Pure; the caller brings the random numbers.
 *
 * Source: OPERATIONS d2 (close codes) and d3 (full jitter, 250 ms, cap 10 s, the first within a second).
 */

const BASE_MS = 250;
const CAP_MS = 10_000;
const FIRST_MS = 1_000;
/** A connection that lived shorter was no success: the back-off goes on where it was. */
const LIVED_MS = 5_000;

/** Whether the server said not to come back. @param {number} code */
export function isTerminal(code) {
  return (code >= 3500 && code <= 3999) || (code >= 4500 && code <= 4999);
}

/** Whether our position is of no use to the server any more. @param {number} code */
export function losesPosition(code) {
  return code === 3010 || code === 3014;
}

export class RetryPolicy {
  constructor() {
    this.attempts = 0;
  }

  /** Delay before the next attempt in ms. @param {number} random 0 to 1 */
  nextDelayMs(random) {
    const limitMs = this.attempts === 0 ? FIRST_MS : Math.min(CAP_MS, BASE_MS * 2 ** this.attempts);
    this.attempts += 1;
    return random * limitMs;
  }

  /** A connection ended that had been open for so long. */
  closedAfter(livedMs) {
    if (livedMs >= LIVED_MS) this.attempts = 0;
  }
}
