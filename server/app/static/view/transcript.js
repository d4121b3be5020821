/**
 * The transcript: one bubble an utterance, interims that settle in place, gaps where they are.
 *
 * Bubbles are keyed; a publication touches its own bubble and the next one's grouping. Only the newest part of
 * a long call is in the document. The list follows the talk until the reader scrolls up.
 */

import { timelineIndex } from "../state.js";
import { clockText, gapText, speakerText } from "../words.js";
import { arrange, el, setText } from "./dom.js";

/** Bubbles in the document while the reader follows: some screens full, cheap on a slow laptop. */
const MAX_FOLLOWING = 200;
/** How many more "Show earlier" brings. They stay while the reader looks back and go when following again. */
const EARLIER_STEP = 200;
/** Two utterances of one speaker closer than this read as one turn. */
const GROUP_GAP_MS = 4_000;
/** How far from the end still counts as following. */
const AT_END_PX = 48;

export class TranscriptView {
  /**
   * @param {{scroll: HTMLElement, list: HTMLElement, earlier: HTMLButtonElement, toLive: HTMLButtonElement,
   *   end: HTMLElement}} parts
   * @param {{onSelect: (utteranceId: string) => void}} actions  a bubble was chosen for the timing panel
   */
  constructor(parts, { onSelect }) {
    Object.assign(this, parts);
    this.onSelect = onSelect;
    /** @type {import("../state.js").Call|null} */
    this.call = null;
    /** @type {Map<string, any>} */
    this.nodes = new Map();
    /** Timeline key of the oldest bubble in the document, null while all are. */
    this.firstKey = null;
    this.isFollowing = true;
    this.isQuiet = false;
    this.selectedId = null;
    this.tabStop = null;
    this.scroll.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    this.toLive.addEventListener("click", () => this.follow());
    this.earlier.addEventListener("click", () => this.#showEarlier());
    new ResizeObserver(() => this.isFollowing && this.#scrollToEnd()).observe(this.scroll);
    this.list.addEventListener("keydown", (event) => this.#onKey(event));
    this.list.addEventListener("click", (event) => {
      const line = event.target.closest("li[data-id]");
      if (line && String(getSelection()) === "") this.onSelect(line.dataset.id);
    });
  }

  /** Show another call, or the same after its state was replaced. @param {import("../state.js").Call} call */
  reset(call) {
    const isSame = this.call?.conversationId === call.conversationId;
    this.call = call;
    this.nodes.clear();
    this.firstKey = null;
    if (!isSame) this.isFollowing = true;
    this.#mountNewest(MAX_FOLLOWING);
  }

  /** Draw what changed. @param {Set<string>} utteranceIds @param {Set<string>} gapKeys */
  render(utteranceIds, gapKeys) {
    for (const id of utteranceIds) this.#update(`u:${id}`);
    for (const key of gapKeys) this.#update(`g:${key}`);
    if (this.isFollowing) {
      this.#trim();
      this.#scrollToEnd();
    }
    this.#renderChrome();
  }

  /** Go back to the newest words. */
  follow() {
    this.isFollowing = true;
    this.#trim();
    this.#scrollToEnd();
    this.#renderChrome();
  }

  /** Scroll to an utterance, mounting it if it is not in the document, and give it the focus. */
  jumpTo(utteranceId) {
    const key = `u:${utteranceId}`;
    const index = timelineIndex(this.call, key);
    if (index < 0) return;
    if (!this.nodes.has(key)) this.#mountNewest(this.call.timeline.length - index + 20);
    this.isFollowing = false;
    const node = this.nodes.get(key);
    this.#setTabStop(node);
    node.scrollIntoView({ block: "center" });
    node.focus({ preventScroll: true });
    node.classList.remove("flash");
    requestAnimationFrame(() => node.classList.add("flash"));
    this.#renderChrome();
  }

  /** Put the focus on the bubble that holds the tab stop. */
  focus() {
    this.tabStop?.focus();
  }

  /** Hide interims. @param {boolean} isQuiet */
  setQuiet(isQuiet) {
    this.isQuiet = isQuiet;
    this.list.classList.toggle("finals-only", isQuiet);
    if (this.isFollowing) this.#scrollToEnd();
  }

  /** Mark the utterance whose timing is shown. @param {string|null} utteranceId */
  select(utteranceId) {
    this.nodes.get(`u:${this.selectedId}`)?.removeAttribute("aria-current");
    this.selectedId = utteranceId;
    this.nodes.get(`u:${utteranceId}`)?.setAttribute("aria-current", "true");
  }

  #mountNewest(count) {
    const { timeline } = this.call;
    const keys = timeline.slice(Math.max(0, timeline.length - count));
    this.firstKey = keys.length < timeline.length ? keys[0] : null;
    const nodes = keys.map((key) => this.#node(key));
    const wanted = new Set(keys);
    for (const key of [...this.nodes.keys()]) if (!wanted.has(key)) this.nodes.delete(key);
    arrange(this.list, nodes);
    keys.forEach((key, index) => this.#group(key, timeline.length - keys.length + index));
    if (this.isFollowing) this.#scrollToEnd();
    this.#renderChrome();
  }

  #update(key) {
    const index = timelineIndex(this.call, key);
    const known = this.nodes.get(key);
    if (index < 0) {
      known?.remove();
      this.nodes.delete(key);
      return;
    }
    if (!known && this.#isBeforeWindow(index)) return;
    const node = this.#node(key);
    const nextKey = this.call.timeline[index + 1];
    const next = nextKey === undefined ? null : (this.nodes.get(nextKey) ?? null);
    if (node.nextElementSibling !== next || node.parentElement !== this.list) this.list.insertBefore(node, next);
    this.#group(key, index);
    if (nextKey !== undefined) this.#group(nextKey, index + 1);
  }

  #isBeforeWindow(index) {
    return this.firstKey !== null && index < timelineIndex(this.call, this.firstKey);
  }

  #node(key) {
    const id = key.slice(2);
    let node = this.nodes.get(key);
    if (!node) {
      node = key.startsWith("u:") ? utteranceNode(id) : el("li", { class: "gap", "data-key": key, tabindex: "-1" });
      this.nodes.set(key, node);
    }
    if (key.startsWith("u:")) this.#fillUtterance(node, this.call.utterances.get(id));
    else setText(node, gapText(this.call.gaps.get(id)));
    return node;
  }

  #fillUtterance(node, utterance) {
    const [head, text, translated] = node.children;
    setText(head.firstElementChild, speakerText(utterance.speaker));
    setText(head.lastElementChild, clockText(utterance.start_ms));
    setText(text, utterance.text);
    node.classList.toggle("customer", utterance.speaker === "customer");
    node.classList.toggle("interim", !utterance.is_final);
    node.classList.toggle("spoken-for-agent", utterance.origin === "tts");
    if (utterance.language && text.lang !== utterance.language) text.lang = utterance.language;
    if (utterance.utterance_id === this.selectedId) node.setAttribute("aria-current", "true");
    const languages = this.call.translations.get(utterance.utterance_id);
    translated.hidden = !languages;
    if (languages) {
      const [[language, { text: words }]] = languages;
      translated.lang = language;
      setText(translated, words);
    }
  }

  /** A turn shows its speaker once. */
  #group(key, index) {
    const node = this.nodes.get(key);
    const before = this.call.timeline[index - 1];
    if (!node || !key.startsWith("u:")) return;
    const mine = this.call.utterances.get(key.slice(2));
    const other = before?.startsWith("u:") ? this.call.utterances.get(before.slice(2)) : undefined;
    const isContinued = other !== undefined && other.speaker === mine.speaker && mine.start_ms - other.end_ms < GROUP_GAP_MS;
    node.classList.toggle("continued", isContinued);
  }

  /** Take the oldest bubbles out of the document. */
  #trim() {
    while (this.list.childElementCount > MAX_FOLLOWING) {
      const oldest = this.list.firstElementChild;
      if (oldest.contains(document.activeElement)) return;
      oldest.remove();
      this.nodes.delete(keyOf(oldest));
      this.firstKey = keyOf(this.list.firstElementChild);
    }
  }

  #showEarlier() {
    const anchor = this.list.firstElementChild;
    const offset = anchor.getBoundingClientRect().top;
    this.isFollowing = false;
    this.#mountNewest(this.list.childElementCount + EARLIER_STEP);
    this.scroll.scrollTop += anchor.getBoundingClientRect().top - offset;
    this.#setTabStop(anchor);
    anchor.focus({ preventScroll: true });
  }

  #onScroll() {
    const isAtEnd = this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < AT_END_PX;
    if (isAtEnd === this.isFollowing) return;
    this.isFollowing = isAtEnd;
    this.#renderChrome();
  }

  #scrollToEnd() {
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  /** One bubble can be reached by Tab: the reader's, or the newest. */
  #setTabStop(node) {
    if (this.tabStop === node) return;
    if (this.tabStop) this.tabStop.tabIndex = -1;
    this.tabStop = node;
    if (node) node.tabIndex = 0;
  }

  #renderChrome() {
    if (!this.tabStop?.isConnected || (this.isFollowing && !this.list.contains(document.activeElement))) {
      this.#setTabStop(this.list.lastElementChild);
    }
    this.toLive.hidden = this.isFollowing;
    this.earlier.hidden = this.firstKey === null;
    this.end.hidden = this.call.state !== "ended" && this.call.timeline.length > 0;
    setText(this.end, this.call.state === "ended" ? "The call has ended." : "Nobody has spoken yet.");
  }

  #onKey(event) {
    const here = event.target.closest("li");
    if (!here || event.ctrlKey || event.altKey || event.metaKey) return;
    const target = {
      ArrowUp: here.previousElementSibling,
      ArrowDown: here.nextElementSibling,
      Home: this.list.firstElementChild,
      End: this.list.lastElementChild,
    }[event.key];
    if (event.key === "Enter" && here.dataset.id !== undefined) this.onSelect(here.dataset.id);
    else if (target) {
      this.#setTabStop(target);
      target.focus();
    } else return;
    event.preventDefault();
  }
}

function utteranceNode(id) {
  return el(
    "li",
    { class: "line", "data-id": id, tabindex: "-1" },
    el("div", { class: "head" }, el("span", { class: "speaker" }), el("span", { class: "at" })),
    el("p", { class: "text", dir: "auto" }),
    el("p", { class: "translated", dir: "auto" }),
  );
}

function keyOf(node) {
  return node.dataset.id === undefined ? node.dataset.key : `u:${node.dataset.id}`;
}
