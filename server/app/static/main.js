/**
 * Wires the page: feed → calls and state → views; keys and buttons → receipts.
 *
 * Publications are applied as they arrive and drawn once a frame; each view gets only the keys that changed.
 */

import { getBudget, getStatus, getTicket, setAccessToken } from "./api.js";
import { Follow } from "./calls.js";
import { ServerClock, localNowMs } from "./clock.js";
import { Feed } from "./feed.js";
import { listenToKeys } from "./keys.js";
import { Receipts } from "./receipts.js";
import { settings, tabStorage } from "./settings.js";
import { apply, elapsedMs, newCall } from "./state.js";
import { BannersView } from "./view/banners.js";
import { CardsView } from "./view/cards.js";
import { ChecklistView } from "./view/checklist.js";
import { DemoView } from "./view/demo.js";
import { Announcer, el, setText } from "./view/dom.js";
import { HeaderView } from "./view/header.js";
import { HelpView } from "./view/help.js";
import { SignalsView } from "./view/signals.js";
import { SummaryView } from "./view/summary.js";
import { TranscriptView } from "./view/transcript.js";
import { WaterfallView } from "./view/waterfall.js";
import { TYPE_TEXTS, speakerText } from "./words.js";

const STATUS_RETRY_MS = 2_000;

const byId = (id) => document.getElementById(id);

class App {
  clock = new ServerClock();
  follow = new Follow(new URLSearchParams(location.search).get("conversation"));
  /** @type {import("./state.js").Call|null} */
  call = null;
  agentChannel = null;
  callChannel = null;
  status = null;
  budget = null;
  connection = null;
  selectedId = null;
  isQuiet = settings.get("cueline.quiet") === "on";
  hasKeys = settings.get("cueline.keys") !== "off";
  /** What to draw in the next frame: kinds of change with their keys. */
  dirty = new Map();
  /** Timings whose painting is still to be measured. */
  unpainted = [];
  isFrameDue = false;

  constructor() {
    const jump = (utteranceId) => this.transcript.jumpTo(utteranceId);
    const announcer = new Announcer(byId("announcer"));
    this.announce = (text) => announcer.say(text);
    this.feed = new Feed(feedUrl(), getTicket, this.clock, {
      onConnection: (connection) => this.onConnection(connection),
      onAuthenticated: (agentId) => this.onAuthenticated(agentId),
      onSubscribed: (ch, reply) => this.onSubscribed(ch, reply),
      onPublication: (publication, receivedMs) => this.onPublication(publication, receivedMs),
      onError: (error) => this.banners.error(error),
    });
    this.receipts = new Receipts((message) => this.feed.send(message), tabStorage);
    this.header = new HeaderView(byId("call"), {
      onSwitch: (id) => {
        this.follow.show(id);
        this.showFollowed();
      },
    });
    this.banners = new BannersView(byId("banners"), {
      onReconnect: () => this.feed.connect(),
      onSignIn: (token) => {
        setAccessToken(token);
        this.feed.connect();
      },
    });
    this.signals = new SignalsView(byId("signals"), { onJump: jump });
    this.cards = new CardsView(
      {
        list: byId("cards"),
        none: byId("no-cards"),
        withdrawn: byId("withdrawn"),
        past: byId("past"),
        pastCount: byId("past-count"),
        pastList: byId("past-cards"),
        region: byId("guidance"),
        scroll: byId("side"),
        above: byId("cards-above"),
      },
      { onMark: (id, event) => this.onMark(id, event), onJump: jump, onAnnounce: this.announce },
    );
    this.checklist = new ChecklistView(byId("steps"), { onJump: jump });
    this.summary = new SummaryView(byId("summary"), { onJump: jump });
    this.transcript = new TranscriptView(
      { scroll: byId("scroll"), list: byId("lines"), earlier: byId("earlier"), toLive: byId("to-live"), end: byId("transcript-end") },
      { onSelect: (id) => this.select(id) },
    );
    this.waterfall = new WaterfallView(byId("waterfall"), {
      onClose: () => {
        this.toggleWaterfall(false);
        byId("toggle-waterfall").focus();
      },
      onLive: () => this.select(null),
    });
    this.emptyText = el("p", { id: "empty-title", class: "empty-title", role: "status" });
    this.emptyNote = el("p", { class: "hint" });
    byId("empty").append(this.emptyText, this.emptyNote);
    this.demo = new DemoView({ empty: byId("empty"), beside: byId("demo"), header: byId("call") }, {
      onStarted: (id) => {
        this.follow.show(id);
        this.showFollowed();
      },
    });
    this.help = new HelpView(byId("help"), {
      hasKeys: this.hasKeys,
      onKeys: (isOn) => {
        this.hasKeys = isOn;
        settings.set("cueline.keys", isOn ? "on" : "off");
      },
    });
    this.listen();
    this.setQuiet(this.isQuiet);
  }

  start() {
    this.showFollowed();
    this.renderFrame();
    this.feed.connect();
    this.pollStatus();
    setInterval(() => {
      this.tick();
      this.renderWaterfall();
    }, 1000);
  }

  listen() {
    byId("toggle-waterfall").addEventListener("click", () => this.toggleWaterfall());
    byId("toggle-quiet").addEventListener("click", () => this.setQuiet(!this.isQuiet));
    byId("open-help").addEventListener("click", () => this.help.open());
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = byId("ask-text").value.trim();
      if (text && this.callChannel && this.feed.send({ type: "ask", ch: this.callChannel, text })) byId("ask-text").value = "";
    });
    listenToKeys(
      {
        g: () => this.call && this.cards.focus(),
        t: () => this.call && this.transcript.focus(),
        a: () => byId("ask-text").focus({ preventScroll: true }),
        l: () => this.call && this.transcript.follow(),
        w: () => this.toggleWaterfall(),
        q: () => this.setQuiet(!this.isQuiet),
        "?": () => this.help.open(),
        Escape: () => this.toggleWaterfall(false),
      },
      () => this.hasKeys,
    );
    // A laptop that wakes or finds its network again need not wait for the rest of a back-off.
    addEventListener("online", () => this.feed.connect());
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden && this.connection?.status === "waiting") this.feed.connect();
    });
    // Files dropped beside the drop zone must not replace the page.
    for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());
  }

  async pollStatus() {
    let isRefused = false;
    try {
      this.status = await getStatus();
      this.budget ??= await getBudget();
    } catch (error) {
      this.status = null;
      isRefused = error.status === 401 || error.status === 403;
    }
    if (this.status?.version) setText(this.help.version, `Cueline ${this.status.version}`);
    this.mark("call", "");
    // Without a sign-in it asks again when the feed has got one.
    if (!this.status?.ready && !isRefused) setTimeout(() => this.pollStatus(), STATUS_RETRY_MS);
  }

  onConnection(connection) {
    this.connection = connection;
    document.body.dataset.connection = connection.status;
    this.banners.connection(connection, localNowMs());
    this.mark("call", "");
  }

  onAuthenticated(agentId) {
    this.receipts.flush();
    if (this.status === null) this.pollStatus();
    const channel = agentId === null ? null : `agent:${agentId}`;
    if (channel === this.agentChannel) return;
    if (this.agentChannel !== null) this.feed.unsubscribe(this.agentChannel);
    this.agentChannel = channel;
    if (channel !== null) this.feed.subscribe(channel);
  }

  onSubscribed(ch, { recovered, snapshot, tail }) {
    if (ch === this.agentChannel) {
      if (!recovered) this.follow.reset();
      for (const publication of [...(snapshot ?? []), ...tail]) this.follow.apply(publication, this.clock.now());
      this.showFollowed();
      this.mark("call", "");
      return;
    }
    if (ch !== this.callChannel) return;
    this.banners.recovered(recovered);
    if (recovered) {
      for (const publication of tail) this.markAll(apply(this.call, publication));
      return;
    }
    this.call = newCall(this.call.conversationId);
    for (const publication of [...(snapshot ?? []), ...tail]) apply(this.call, publication);
    this.mark("everything", "");
  }

  onPublication(publication, receivedMs) {
    if (publication.ch === this.agentChannel) {
      this.follow.apply(publication, this.clock.now());
      this.showFollowed();
      this.mark("call", "");
      return;
    }
    if (publication.ch !== this.callChannel) return;
    const changes = apply(this.call, publication, { receivedMs });
    this.markAll(changes);
    // In a hidden page nothing is painted; its delay would be the reader's, not the service's.
    if (!document.hidden) this.unpainted.push(...changes.flatMap((change) => change.timing ?? []));
    if (changes.length > 0 && receivedMs !== null) this.announcePublication(publication);
  }

  announcePublication({ kind, d }) {
    if (kind === "transcript" && d.is_final && !this.isQuiet && d.text) this.announce(`${speakerText(d.speaker)}: ${d.text}`);
    if (kind === "action" && d.state === "new") this.announce(`${TYPE_TEXTS[d.type] ?? "Card"}: ${d.title}`);
  }

  onMark(id, event) {
    this.receipts.mark(this.callChannel, id, event);
    this.cards.marks.set(id, event);
  }

  showFollowed() {
    const id = this.follow.current;
    if (id === null || this.call?.conversationId === id) return;
    if (this.callChannel !== null) this.feed.unsubscribe(this.callChannel);
    this.call = newCall(id);
    this.callChannel = `call:${id}`;
    this.selectedId = null;
    this.mark("everything", "");
    this.feed.subscribe(this.callChannel);
  }

  select(utteranceId) {
    this.selectedId = utteranceId;
    this.transcript.select(utteranceId);
    if (utteranceId !== null) this.toggleWaterfall(true);
    this.renderWaterfall();
  }

  toggleWaterfall(isOpen = byId("waterfall").hidden) {
    if (this.call === null) return;
    byId("waterfall").hidden = !isOpen;
    byId("toggle-waterfall").setAttribute("aria-pressed", String(isOpen));
    this.renderWaterfall();
  }

  setQuiet(isQuiet) {
    this.isQuiet = isQuiet;
    settings.set("cueline.quiet", isQuiet ? "on" : "off");
    document.body.classList.toggle("quiet", isQuiet);
    byId("toggle-quiet").setAttribute("aria-pressed", String(isQuiet));
    this.transcript.setQuiet(isQuiet);
  }

  mark(what, key) {
    if (!this.dirty.has(what)) this.dirty.set(what, new Set());
    this.dirty.get(what).add(key);
    if (this.isFrameDue) return;
    this.isFrameDue = true;
    requestAnimationFrame(() => this.renderFrame());
  }

  markAll(changes) {
    for (const { what, key } of changes) this.mark(what, key);
  }

  renderFrame() {
    this.isFrameDue = false;
    const { dirty, unpainted } = this;
    this.dirty = new Map();
    this.unpainted = [];
    const isHere = (...kinds) => dirty.has("everything") || kinds.some((kind) => dirty.has(kind));
    this.renderEmpty();
    this.header.render(this.call, this.follow.live());
    this.demo.render(this.call, this.status?.demo === true);
    if (this.call === null) return;
    if (isHere("call")) this.renderAsk();
    if (isHere("call", "gap", "notice")) this.banners.render(this.call);
    if (isHere("annotation", "utterance")) this.signals.render(this.call);
    if (isHere("checklist")) this.checklist.render(this.call);
    if (isHere("summary")) this.summary.render(this.call);
    let fresh;
    if (dirty.has("everything")) {
      this.transcript.reset(this.call);
      fresh = this.cards.reset(this.call, this.receipts.marksOf(this.callChannel));
      this.renderWaterfall();
    } else {
      if (isHere("utterance", "gap", "call")) this.transcript.render(dirty.get("utterance") ?? new Set(), dirty.get("gap") ?? new Set());
      fresh = isHere("action") ? this.cards.render(dirty.get("action")) : [];
    }
    this.tick();
    if (fresh.length > 0 || unpainted.length > 0) this.afterPaint(fresh, unpainted);
  }

  /** The first callback runs before this frame is painted, the second when the next one begins: it was painted. */
  afterPaint(fresh, unpainted) {
    const { callChannel, call } = this;
    const wasHidden = document.hidden;
    requestAnimationFrame(() => {
      const paintedMs = this.clock.now();
      for (const timing of unpainted) timing.paintedMs = paintedMs;
      for (const id of fresh) {
        const isMeasured = call.cards.get(id).isLive && !wasHidden && !document.hidden;
        this.receipts.shown(callChannel, id, isMeasured ? paintedMs : null);
      }
    });
  }

  /** What a call that is over would be asked, nobody answers. */
  renderAsk() {
    const ask = byId("ask");
    const hadFocus = ask.contains(document.activeElement);
    ask.hidden = !this.status?.features?.ask || this.call.state === "ended";
    if (hadFocus && ask.hidden) byId("guidance").focus({ preventScroll: true });
  }

  renderEmpty() {
    byId("main").dataset.view = this.call === null ? "empty" : "call";
    byId("toggle-waterfall").disabled = this.call === null;
    if (this.call !== null) return;
    const [title, note] = this.emptyWords();
    setText(this.emptyText, title);
    setText(this.emptyNote, note);
  }

  emptyWords() {
    if (this.connection?.status === "closed") return ["Not connected", "See the message above."];
    if (this.connection?.status !== "open") return ["Connecting…", ""];
    if (this.status !== null && !this.status.ready) return ["Getting ready…", "The models are warming up. Calls appear here by themselves."];
    if (this.agentChannel === null) return ["No agent is signed in", "Open one call by its address: ?conversation=ID"];
    return ["Waiting for a call", "The next call appears here by itself."];
  }

  renderWaterfall() {
    if (this.call !== null && !byId("waterfall").hidden) this.waterfall.render(this.call, this.selectedId, this.budget);
  }

  /** Once a second, and with each frame: what changes by time alone. */
  tick() {
    if (this.call === null || document.hidden) return;
    const nowMs = this.clock.now();
    this.header.tick(this.call, nowMs);
    this.cards.tick(nowMs);
    this.demo.tick(this.call, elapsedMs(this.call, nowMs));
  }
}

function feedUrl() {
  return `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/feed`;
}

new App().start();
