/** The help dialog: every key, and a switch for those that are single letters. */

import { el } from "./dom.js";

const KEYS = [
  ["g", "Go to guidance"],
  ["t", "Go to the transcript"],
  ["a", "Ask the knowledge base"],
  ["l", "Jump to live"],
  ["w", "Timing panel on or off"],
  ["q", "Quiet mode: final words only, no motion"],
  ["?", "This help"],
  ["Esc", "Close a panel"],
  ["↑ ↓ Home End", "Move among cards, or among utterances"],
  ["Enter or e", "On a card: why is it shown"],
  ["u", "On a card: used (copies a suggested reply)"],
  ["d", "On a card: dismiss"],
  ["x", "On a card: wrong"],
  ["Enter", "On an utterance: its timing"],
];

export class HelpView {
  /** @param {HTMLDialogElement} root @param {{hasKeys: boolean, onKeys: (isOn: boolean) => void}} options */
  constructor(root, { hasKeys, onKeys }) {
    this.root = root;
    const keys = el("input", { type: "checkbox", id: "single-keys", on: { change: () => onKeys(keys.checked) } });
    keys.checked = hasKeys;
    this.version = el("p", { class: "note" });
    root.append(
      el("h2", { id: "help-title", text: "Keyboard" }),
      el("dl", { class: "keys" }, ...KEYS.flatMap(([key, text]) => [el("dt", {}, el("kbd", { text: key })), el("dd", { text })])),
      el("p", { class: "row" }, keys, el("label", { for: "single-keys", text: "Use single-letter keys" })),
      this.version,
      el("button", { type: "button", text: "Close", on: { click: () => root.close() } }),
    );
  }

  open() {
    if (!this.root.open) this.root.showModal();
  }
}
