/**
 * Which call this page shows: the agent's newest, the last one until the next begins, or a pinned one. Pure.
 *
 * @typedef {{conversationId: string, state: string, startedOff: number, off: number}} KnownCall
 */

const MAX_KNOWN = 50;
/** A call that ended longer ago is no news to an agent who opens the page. */
const RECENT_MS = 60 * 60 * 1000;

export class Follow {
  /** @param {string|null} pinned conversation to show whatever the agent's channel says */
  constructor(pinned = null) {
    this.pinned = pinned;
    this.current = pinned;
    /** @type {Map<string, KnownCall>} */
    this.calls = new Map();
  }

  /** Forget what the channel said; its snapshot follows. */
  reset() {
    this.calls.clear();
  }

  /**
   * A `call` publication of the agent's channel.
   *
   * @param {import("./state.js").Publication} publication
   * @param {number} nowMs server wall time
   * @returns {boolean} whether another call is to be shown
   */
  apply({ kind, off, t = {}, d }, nowMs) {
    if (kind !== "call") return false;
    const known = this.calls.get(d.conversation_id);
    const isNew = !known || (known.state === "ended" && d.state === "started");
    this.calls.set(d.conversation_id, {
      conversationId: d.conversation_id,
      state: d.state,
      startedOff: isNew ? off : known.startedOff,
      off,
    });
    this.#forgetOldest();
    if (!isNew) return false;
    const shown = this.current === null ? undefined : this.calls.get(this.current);
    // In a snapshot calls come in the order of their last news: a live one beats an ended one.
    if (d.state === "ended" && shown && shown.state !== "ended") return false;
    if (d.state === "ended" && nowMs - (t.t8 ?? nowMs) > RECENT_MS) return false;
    return this.show(d.conversation_id);
  }

  /** Show this call unless one is pinned. @returns {boolean} whether that is another one */
  show(conversationId) {
    if (this.pinned !== null || conversationId === this.current) return false;
    this.current = conversationId;
    return true;
  }

  /** Calls that live now, oldest first; more than one only when the agent has several. @returns {KnownCall[]} */
  live() {
    return [...this.calls.values()].filter((call) => call.state !== "ended").sort((a, b) => a.startedOff - b.startedOff);
  }

  #forgetOldest() {
    if (this.calls.size <= MAX_KNOWN) return;
    const ended = [...this.calls.values()].filter((call) => call.state === "ended" && call.conversationId !== this.current);
    ended.sort((a, b) => a.off - b.off);
    if (ended.length > 0) this.calls.delete(ended[0].conversationId);
  }
}
