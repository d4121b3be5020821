/** The steps of this call: the next one in a line, all of them unfolded; a done one leads to the words that did it. */

import { clockText } from "../words.js";
import { arrange, el, icon, setText } from "./dom.js";

export class ChecklistView {
  /** @param {HTMLDetailsElement} root @param {{onJump: (utteranceId: string) => void}} actions */
  constructor(root, { onJump }) {
    this.root = root;
    this.onJump = onJump;
    this.count = el("span", { class: "count" });
    this.bar = el("progress", { "aria-label": "Steps done" });
    this.list = el("ol", { class: "items" });
    this.next = el("span", { class: "value" });
    root.append(el("summary", { class: "signal" }, el("h2", { text: "Steps" }), this.next, this.count, this.bar), this.list);
    this.items = new Map();
  }

  /** @param {import("../state.js").Call} call */
  render({ checklist }) {
    this.root.hidden = !checklist || checklist.items.length === 0;
    if (this.root.hidden) return;
    const numDone = checklist.items.filter((item) => item.is_done).length;
    setText(this.count, `${numDone} of ${checklist.items.length}`);
    const next = checklist.items.find((item) => !item.is_done);
    setText(this.next, next ? `Next: ${next.title}` : "All done");
    this.bar.max = checklist.items.length;
    this.bar.value = numDone;
    arrange(this.list, checklist.items.map((item) => this.#item(item)));
  }

  #item(item) {
    const signature = JSON.stringify(item);
    const known = this.items.get(item.id);
    if (known?.signature === signature) return known.node;
    const when = item.is_done && typeof item.at_ms === "number" ? ` at ${clockText(item.at_ms)}` : "";
    const status = item.is_done ? `done${when}` : "to do";
    const node = el(
      "li",
      { class: item.is_done ? "done" : "" },
      el("span", { class: "box" }, item.is_done && icon("check")),
      el("span", { class: "step", text: item.title }),
      item.is_done && item.done_by
        ? el("button", { type: "button", class: "link note", text: status, on: { click: () => this.onJump(item.done_by) } })
        : el("span", { class: item.is_done ? "note" : "note sr", text: status }),
    );
    this.items.set(item.id, { signature, node });
    return node;
  }
}
