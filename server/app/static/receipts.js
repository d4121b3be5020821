/**
 * What became of each card, told to the server once, kept while the feed is away.
 *
 * What the agent did with a card is remembered for this tab, so that a reload does not bring a dismissed card
 * back. Only ids are kept, never words.
 */

const STORAGE_KEY = "cueline.marks";
const MAX_MARKS = 500;
/** More than an agent can click during an outage; beyond it the oldest go. */
const MAX_WAITING = 200;

/** @typedef {"shown"|"used"|"dismissed"|"wrong"} ReceiptEvent */

export class Receipts {
  #send;
  #storage;
  #waiting = [];
  #shown = new Set();
  /** @type {[string, string][]} `channel/id` and event, oldest first */
  #marks;

  /**
   * @param {(message: object) => boolean} send false while the feed is away
   * @param {{get: (key: string) => string|null, set: (key: string, value: string) => void}} storage
   */
  constructor(send, storage) {
    this.#send = send;
    this.#storage = storage;
    this.#marks = parseMarks(storage.get(STORAGE_KEY));
  }

  /**
   * A card was painted.
   *
   * @param {number|null} paintedAtMs server time; null where the card came before the page, and its painting
   *   says nothing about the service
   */
  shown(ch, id, paintedAtMs) {
    if (this.#shown.has(`${ch}/${id}`)) return;
    this.#shown.add(`${ch}/${id}`);
    this.#post(paintedAtMs === null ? { type: "receipt", ch, id, event: "shown" } : { type: "receipt", ch, id, event: "shown", painted_at_ms: paintedAtMs });
  }

  /** The agent did something with a card. @param {ReceiptEvent} event */
  mark(ch, id, event) {
    this.#marks.push([`${ch}/${id}`, event]);
    this.#marks.splice(0, this.#marks.length - MAX_MARKS);
    this.#storage.set(STORAGE_KEY, JSON.stringify(this.#marks));
    this.#post({ type: "receipt", ch, id, event });
  }

  /** Marks of one channel by card id. @returns {Map<string, string>} */
  marksOf(ch) {
    const prefix = `${ch}/`;
    return new Map(this.#marks.filter(([key]) => key.startsWith(prefix)).map(([key, event]) => [key.slice(prefix.length), event]));
  }

  /** The feed is open again. */
  flush() {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const message of waiting) this.#post(message);
  }

  #post(message) {
    if (this.#send(message)) return;
    this.#waiting.push(message);
    if (this.#waiting.length > MAX_WAITING) this.#waiting.shift();
  }
}

function parseMarks(text) {
  try {
    const marks = JSON.parse(text ?? "[]");
    return Array.isArray(marks) ? marks.filter((mark) => Array.isArray(mark) && mark.length === 2) : [];
  } catch {
    return [];
  }
}
