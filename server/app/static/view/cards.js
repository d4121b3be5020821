/**
 * Action cards through their life: active ones by priority, what became of the others below.
 *
 * While someone points or types in the list nothing in it moves: new cards wait at its end and old ones stay dimmed, so
 * that no button slips away from under a finger. Shortly after, all is put in order.
 */

import { activeCards, isActiveAction, pastCards, remainingMs } from "../state.js";
import { becameText, remainingText } from "../words.js";
import { fillCard } from "./card.js";
import { arrange, el, rove, setText } from "./dom.js";

/** How long the note of a withdrawn card stays. */
const WITHDRAWN_MS = 8_000;
/** How long after the last movement or key in the list its order is held. */
const HOLD_MS = 2_000;
const MAX_PAST = 50;

/**
 * @typedef {import("../state.js").Call} Call
 * @typedef {import("../state.js").Card} Card
 * @typedef {object} CardActions
 * @property {(id: string, event: "used"|"dismissed"|"wrong") => void} onMark
 * @property {(utteranceId: string) => void} onJump
 * @property {(text: string) => void} onAnnounce
 */

export class CardsView {
  /**
   * @param {{list: HTMLElement, none: HTMLElement, withdrawn: HTMLElement, past: HTMLDetailsElement,
   *   pastCount: HTMLElement, pastList: HTMLElement, region: HTMLElement, scroll: HTMLElement,
   *   above: HTMLButtonElement}} parts  `above` leads to new cards that came above what is in view
   * @param {CardActions} actions
   */
  constructor(parts, actions) {
    Object.assign(this, parts);
    this.actions = actions;
    /** @type {Map<string, any>} */
    this.nodes = new Map();
    this.revisions = new Map();
    this.call = null;
    this.marks = null;
    this.pastSignature = "";
    this.holdTimer = undefined;
    this.unseen = new Set();
    this.list.addEventListener("keydown", (event) => this.#onKey(event));
    this.list.addEventListener("focusin", (event) => rove(this.list.children, event.target.closest("li.card")));
    for (const type of ["pointermove", "pointerdown", "keydown"]) this.list.addEventListener(type, () => this.#hold());
    this.list.addEventListener("pointerleave", () => this.#settle());
    this.scroll.addEventListener("scroll", () => this.#renderAbove(), { passive: true });
    this.above.addEventListener("click", () => {
      this.list.firstElementChild?.scrollIntoView({ block: "center" });
      this.above.hidden = true;
    });
  }

  /**
   * @param {Call} call
   * @param {Map<string, string>} marks what the agent did with a card, by its id
   * @returns {string[]} as `render`
   */
  reset(call, marks) {
    this.call = call;
    this.marks = marks;
    this.nodes.clear();
    this.revisions.clear();
    this.list.replaceChildren();
    this.unseen.clear();
    clearTimeout(this.holdTimer);
    this.holdTimer = undefined;
    this.withdrawn.replaceChildren();
    this.pastSignature = "";
    return this.render(new Set());
  }

  /**
   * Draw the cards that changed and put all in order.
   *
   * @param {Set<string>} ids
   * @returns {string[]} ids of cards that are shown now and were not before
   */
  render(ids) {
    for (const id of ids) {
      const card = this.call.cards.get(id);
      if (card?.action.state === "retract" && this.nodes.has(id)) this.#noteWithdrawn(card.action);
    }
    const wanted = activeCards(this.call).filter((card) => !this.marks.has(card.action.id));
    const fresh = wanted.filter((card) => !this.nodes.has(card.action.id)).map((card) => card.action.id);
    for (const card of wanted) this.#fill(card);
    const order = wanted.map((card) => this.nodes.get(card.action.id));
    if (this.holdTimer !== undefined) {
      const held = [...this.list.children];
      arrange(this.list, [...held, ...order.filter((node) => !held.includes(node))]);
      for (const node of held) node.classList.toggle("over", !order.includes(node));
    } else {
      this.#putInOrder(order);
    }
    if (!this.list.contains(document.activeElement)) rove(this.list.children, this.list.firstElementChild);
    this.none.hidden = this.list.childElementCount > 0;
    for (const id of fresh) this.unseen.add(this.nodes.get(id));
    this.#renderAbove();
    this.#renderPast();
    return fresh;
  }

  /** What is left of each card's time, in words. @param {number} serverNowMs */
  tick(serverNowMs) {
    for (const [id, node] of this.nodes) {
      const card = this.call.cards.get(id);
      const leftMs = this.call.state === "started" ? remainingMs(card, serverNowMs) : null;
      setText(node.querySelector(".ttl"), leftMs === null ? "" : remainingText(leftMs));
    }
  }

  /** Put the focus on the card that holds the tab stop, or on the region where there is none. */
  focus() {
    (this.list.querySelector("[tabindex='0']") ?? this.region).focus();
  }

  #hold() {
    clearTimeout(this.holdTimer);
    this.holdTimer = setTimeout(() => this.#settle(), HOLD_MS);
  }

  #settle() {
    clearTimeout(this.holdTimer);
    this.holdTimer = undefined;
    if (this.call) this.render(new Set());
  }

  /** A card that arrives above what the reader has scrolled to would go unseen. */
  #renderAbove() {
    const topPx = this.scroll.getBoundingClientRect().top;
    for (const node of this.unseen) {
      if (!node.isConnected || node.getBoundingClientRect().bottom > topPx) this.unseen.delete(node);
    }
    this.above.hidden = this.unseen.size === 0;
  }

  #putInOrder(order) {
    const focused = this.list.contains(document.activeElement) ? document.activeElement : null;
    const kept = new Set(order);
    for (const [id, node] of this.nodes) {
      if (kept.has(node)) continue;
      this.nodes.delete(id);
      this.revisions.delete(id);
    }
    arrange(this.list, order);
    // Moving or removing the element that has the focus would drop it to the top of the page.
    if (focused && document.activeElement !== focused) (focused.isConnected ? focused : this.region).focus({ preventScroll: true });
  }

  #fill({ action }) {
    let node = this.nodes.get(action.id);
    if (!node) this.nodes.set(action.id, (node = el("li", { class: "card", tabindex: "-1" })));
    if (this.revisions.get(action.id) === action.revision) return;
    this.revisions.set(action.id, action.revision);
    fillCard(node, action, this.call.timings, {
      onMark: (event) => this.#mark(action, event),
      onJump: this.actions.onJump,
      onAnnounce: this.actions.onAnnounce,
    });
  }

  #mark(action, event) {
    const node = this.nodes.get(action.id);
    const neighbour = node.nextElementSibling ?? node.previousElementSibling;
    const hadFocus = node.contains(document.activeElement);
    this.actions.onMark(action.id, event);
    node.remove();
    this.nodes.delete(action.id);
    this.revisions.delete(action.id);
    // The focus must land somewhere near: a removed element would drop it to the top of the page.
    if (hadFocus) (neighbour ?? this.region).focus();
    this.render(new Set());
  }

  #noteWithdrawn(action) {
    const text = `${becameText(action)}: ${action.title}`;
    const note = el("p", { class: "hint", text });
    this.withdrawn.append(note);
    this.actions.onAnnounce(text);
    setTimeout(() => note.remove(), WITHDRAWN_MS);
  }

  #renderPast() {
    const past = [...pastCards(this.call)];
    for (const id of this.marks.keys()) {
      const card = this.call.cards.get(id);
      if (card && isActiveAction(card.action)) past.push(card);
    }
    past.sort((a, b) => b.off - a.off);
    this.past.hidden = past.length === 0;
    setText(this.pastCount, String(past.length));
    if (this.past.hidden) return;
    const signature = past.map(({ action }) => `${action.id}/${action.revision}/${this.marks.get(action.id) ?? ""}`).join();
    if (signature === this.pastSignature) return;
    this.pastSignature = signature;
    this.pastList.replaceChildren(
      ...past.slice(0, MAX_PAST).map(({ action }) =>
        el("li", {}, el("span", { text: action.title }), el("span", { class: "note", text: becameText(action, this.marks.get(action.id)) })),
      ),
    );
  }

  #onKey(event) {
    const here = event.target.closest("li.card");
    if (!here || event.ctrlKey || event.altKey || event.metaKey) return;
    const target = {
      ArrowUp: here.previousElementSibling,
      ArrowDown: here.nextElementSibling,
      Home: this.list.firstElementChild,
      End: this.list.lastElementChild,
    }[event.key];
    const name = { e: "why", u: "used", d: "dismissed", x: "wrong", Delete: "dismissed" }[event.key];
    if (target) target.focus();
    else if (event.key === "Enter" && event.target === here) here.querySelector(".why").click();
    else if (name) here.querySelector(`[data-do="${name}"]`).click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}
