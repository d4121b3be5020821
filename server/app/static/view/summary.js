/** The call's summary: rolled along while it lasts, final after it. */

import { parseMarkdown } from "../markdown.js";
import { el, markdownNodes } from "./dom.js";

export class SummaryView {
  /** @param {HTMLElement} root @param {{onJump: (utteranceId: string) => void}} actions */
  constructor(root, { onJump }) {
    this.root = root;
    this.onJump = onJump;
  }

  /** @param {import("../state.js").Call} call */
  render({ summary }) {
    this.root.hidden = !summary || summary.sections.length === 0;
    if (this.root.hidden) return;
    const title = el("h2", { id: "summary-title", text: summary.is_final ? "Summary" : "Summary so far" });
    this.root.replaceChildren(title, ...summary.sections.map((section) => this.#section(section)));
  }

  #section({ title, text, evidence = [] }) {
    const jumps = evidence.map((utteranceId, index) =>
      el("button", {
        type: "button",
        class: "link note",
        text: `said ${index + 1}`,
        on: { click: () => this.onJump(utteranceId) },
      }),
    );
    return el("div", { class: "summary-part" }, el("h3", { text: title }), ...markdownNodes(parseMarkdown(text)), ...jumps);
  }
}
