/**
 * The feed socket: ticket, authentication, subscriptions that survive a reconnect, clock samples, receipts.
 *
 *     connecting ──authenticated──▶ open ──lost──▶ waiting ──back-off──▶ connecting …
 *                                     └─terminal code or sign-in needed──▶ closed
 *
 * A channel's position moves only after its handler has taken the publications, so that what was not shown is
 * asked for again. Offsets may skip within an epoch: a slow reader loses superseded interims by design.
 *
 * Source: DESIGN 14; OPERATIONS d2, d3.
 */

import { localNowMs } from "./clock.js";
import { RetryPolicy, isTerminal, losesPosition } from "./retry.js";

export const SUBPROTOCOL = "cueline.v1+json";
const PONG_TIMEOUT_MS = 8_000;
const CONNECT_TIMEOUT_MS = 10_000;
const FIRST_PINGS_MS = [0, 300, 700, 1_200, 2_000];

/**
 * @typedef {import("./state.js").Publication} Publication
 * @typedef {{status: "connecting"|"open"|"waiting"|"closed", code: number|null, reason: string,
 *   lostSinceMs: number|null}} Connection
 * @typedef {object} FeedHandlers
 * @property {(connection: Connection) => void} onConnection
 * @property {(agentId: string|null, tenantId: string) => void} onAuthenticated
 * @property {(ch: string, reply: {recovered: boolean, snapshot: Publication[]|null, tail: Publication[]}) => void} onSubscribed
 * @property {(publication: Publication, receivedMs: number|null) => void} onPublication  `receivedMs`
 *   is server time, null for what was published before the subscription
 * @property {(error: {code: string, message: string, field?: string}) => void} onError
 */

/** The world around the feed; tests bring their own. */
const BROWSER = {
  open: (url, protocols) => new WebSocket(url, protocols),
  setTimeout: (run, delayMs) => setTimeout(run, delayMs),
  clearTimeout: (timer) => clearTimeout(timer),
  nowMs: localNowMs,
  random: () => Math.random(),
};

export class Feed {
  #handlers;
  #url;
  #getTicket;
  #clock;
  #world;
  #socket = null;
  #retry = new RetryPolicy();
  /** @type {Map<string, {ep: string, off: number, numMore: number}|null>} `numMore`: old news still to come */
  #positions = new Map();
  /** Channels whose `sub` was answered on this connection. */
  #joined = new Set();
  #timers = new Set();
  #pingSentMs = null;
  #openedMs = 0;
  /** @type {Connection} */
  #connection = { status: "waiting", code: null, reason: "", lostSinceMs: null };

  /**
   * @param {string} url `ws:` or `wss:` address of the feed
   * @param {() => Promise<{ticket: string, agent_id: string|null}>} getTicket
   * @param {import("./clock.js").ServerClock} clock
   * @param {FeedHandlers} handlers
   */
  constructor(url, getTicket, clock, handlers, world = BROWSER) {
    this.#url = url;
    this.#getTicket = getTicket;
    this.#clock = clock;
    this.#handlers = handlers;
    this.#world = world;
  }

  /** Connect, or connect at once instead of after the rest of the back-off. */
  async connect() {
    if (this.#connection.status === "connecting" || this.#connection.status === "open") return;
    this.#clearTimers();
    this.#setConnection("connecting");
    let ticket;
    try {
      ticket = await this.#getTicket();
    } catch (error) {
      if (error.status === 401 || error.status === 403) this.#close("sign_in", null);
      else this.#retryLater(null, error.message);
      return;
    }
    this.#openSocket(ticket);
  }

  /** Take part in a channel from its beginning on, now and after each reconnect. @param {string} ch */
  subscribe(ch) {
    if (this.#positions.has(ch)) return;
    this.#positions.set(ch, null);
    this.#sendSub(ch);
  }

  /** @param {string} ch */
  unsubscribe(ch) {
    this.#joined.delete(ch);
    if (this.#positions.delete(ch)) this.send({ type: "unsub", ch });
  }

  /** Send a message if the feed is open. @returns {boolean} whether it was sent */
  send(message) {
    if (this.#connection.status !== "open") return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  #openSocket({ ticket, agent_id: ticketAgentId }) {
    const socket = this.#world.open(this.#url, [SUBPROTOCOL]);
    this.#socket = socket;
    this.#openedMs = this.#world.nowMs();
    this.#later(CONNECT_TIMEOUT_MS, () => {
      if (this.#connection.status === "connecting") this.#dropSocket("no answer");
    });
    socket.onopen = () => socket.send(JSON.stringify({ type: "auth", ticket }));
    socket.onmessage = (event) => {
      if (socket === this.#socket) this.#onMessage(JSON.parse(event.data), ticketAgentId);
    };
    socket.onclose = (event) => {
      if (socket === this.#socket) this.#onClose(event.code, event.reason);
    };
  }

  #onMessage(message, ticketAgentId) {
    switch (message.type) {
      case undefined:
        return this.#onPublication(message);
      case "authenticated":
        return this.#onAuthenticated(message, ticketAgentId);
      case "subscribed":
        return this.#onSubscribed(message);
      case "unsubscribed":
        // Without a reason it answers our own `unsub`, and the channel may be wanted again by now.
        if (message.reason && this.#positions.delete(message.ch)) {
          this.#joined.delete(message.ch);
          this.#handlers.onError({ code: "unsubscribed", message: `The server ended a subscription: ${message.reason}.` });
        }
        return undefined;
      case "ping":
        return this.send({ type: "pong" });
      case "pong":
        return this.#onPong(message);
      case "error":
        return this.#handlers.onError(message);
      default:
        return undefined;
    }
  }

  #onAuthenticated({ agent_id: agentId, tenant_id: tenantId, ping_interval_s: intervalS = 15 }, ticketAgentId) {
    this.#setConnection("open");
    for (const ch of this.#positions.keys()) this.#sendSub(ch);
    this.#handlers.onAuthenticated(agentId ?? ticketAgentId ?? null, tenantId);
    for (const delayMs of FIRST_PINGS_MS) this.#later(delayMs, () => this.#ping());
    const repeat = () => {
      this.#ping();
      this.#later(intervalS * 1000, repeat);
    };
    this.#later(intervalS * 1000, repeat);
  }

  #onSubscribed({ ch, recovered, ep, off, snapshot = null, tail, num_more: numMore = 0 }) {
    if (!this.#positions.has(ch)) return;
    this.#handlers.onSubscribed(ch, { recovered, snapshot, tail });
    this.#positions.set(ch, { ep, off, numMore });
    this.#joined.add(ch);
  }

  #onPublication(publication) {
    const position = this.#positions.get(publication.ch);
    // Before the answer to `sub` it would skip what lies between, and the answer will hold it.
    if (!this.#joined.has(publication.ch) || publication.ep !== position.ep || publication.off <= position.off) return;
    // What did not fit into the answer to `sub` follows as publications: old news, no measure of delivery.
    const isLive = position.numMore <= 0;
    position.numMore -= 1;
    this.#handlers.onPublication(publication, isLive ? this.#clock.at(this.#world.nowMs()) : null);
    position.off = publication.off;
  }

  #sendSub(ch) {
    const position = this.#positions.get(ch);
    this.send(position ? { type: "sub", ch, ep: position.ep, off: position.off } : { type: "sub", ch });
  }

  #ping() {
    if (this.#pingSentMs !== null || !this.send({ type: "ping" })) return;
    this.#pingSentMs = this.#world.nowMs();
    const sentMs = this.#pingSentMs;
    this.#later(PONG_TIMEOUT_MS, () => {
      // A half-open connection reports no loss by itself.
      if (this.#pingSentMs === sentMs) this.#dropSocket("no answer");
    });
  }

  #onPong({ server_ms: serverMs }) {
    if (this.#pingSentMs === null) return;
    if (typeof serverMs === "number") this.#clock.addSample(this.#pingSentMs, this.#world.nowMs(), serverMs);
    this.#pingSentMs = null;
  }

  #dropSocket(reason) {
    const socket = this.#socket;
    this.#onClose(1006, reason);
    socket.close();
  }

  #onClose(code, reason) {
    this.#socket = null;
    this.#joined.clear();
    this.#clearTimers();
    if (this.#connection.status === "open") this.#retry.closedAfter(this.#world.nowMs() - this.#openedMs);
    if (losesPosition(code)) for (const ch of this.#positions.keys()) this.#positions.set(ch, null);
    if (isTerminal(code)) this.#close(reason, code);
    else this.#retryLater(code, reason);
  }

  #retryLater(code, reason) {
    this.#setConnection("waiting", code, reason);
    this.#later(this.#retry.nextDelayMs(this.#world.random()), () => this.connect());
  }

  #close(reason, code) {
    this.#clearTimers();
    this.#setConnection("closed", code, reason);
  }

  #setConnection(status, code = null, reason = "") {
    const lostSinceMs = status === "open" ? null : (this.#connection.lostSinceMs ?? this.#world.nowMs());
    this.#connection = { status, code, reason, lostSinceMs };
    this.#handlers.onConnection(this.#connection);
  }

  #later(delayMs, run) {
    const timer = this.#world.setTimeout(() => {
      this.#timers.delete(timer);
      run();
    }, delayMs);
    this.#timers.add(timer);
  }

  #clearTimers() {
    for (const timer of this.#timers) this.#world.clearTimeout(timer);
    this.#timers.clear();
    this.#pingSentMs = null;
  }
}
