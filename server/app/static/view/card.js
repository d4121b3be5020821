/** One action card: what it says, what it stands on, and the buttons to deal with it. */

import { parseMarkdown } from "../markdown.js";
import { TYPE_TEXTS, clockText, labelText, msText, passageParts, percentText, speakerText } from "../words.js";
import { el, markdownNodes } from "./dom.js";

/**
 * @typedef {import("../state.js").Action} Action
 * @typedef {import("../state.js").Evidence} Evidence
 * @typedef {Map<string, import("../state.js").Timing>} Timings
 * @typedef {object} CardHandlers
 * @property {(event: "used"|"dismissed"|"wrong") => void} onMark
 * @property {(utteranceId: string) => void} onJump
 * @property {(text: string) => void} onAnnounce
 */

/**
 * Write an action into its list item. One that is written again keeps its evidence and sources open, and its focus.
 *
 * @param {HTMLElement} node @param {Action} action @param {Timings} timings @param {CardHandlers} handlers
 */
export function fillCard(node, action, timings, handlers) {
  const wasOpen = node.querySelector(".why")?.getAttribute("aria-expanded") === "true";
  const openSources = new Set([...node.querySelectorAll(".cites details[open]")].map((each) => each.dataset.source));
  const focused = node.contains(document.activeElement) ? document.activeElement.dataset.do : undefined;
  const titleId = `card-${action.id}`;
  node.dataset.type = action.type;
  node.dataset.id = action.id;
  node.setAttribute("aria-labelledby", titleId);
  const type = TYPE_TEXTS[action.type] ?? labelText(action.type);
  node.replaceChildren(
    el("div", { class: "card-head" }, el("span", { class: "type", text: type }), el("span", { class: "ttl" })),
    el("h3", { id: titleId, text: action.title }),
    el("div", { class: "body", dir: "auto" }, ...markdownNodes(parseMarkdown(action.body ?? ""))),
    ...(action.cites?.length ? [citesNode(action.cites)] : []),
    buttonsNode(node, action, handlers),
    evidenceNode(action, timings, handlers),
  );
  if (wasOpen) toggleEvidence(node);
  for (const each of node.querySelectorAll(".cites details")) each.open = openSources.has(each.dataset.source);
  if (focused !== undefined) (node.querySelector(`[data-do="${focused}"]`) ?? node).focus();
}

/** @param {HTMLElement} node @param {Action} action @param {CardHandlers} handlers */
function buttonsNode(node, action, { onMark, onAnnounce }) {
  const button = (name, label, text, onClick) =>
    el("button", { type: "button", "data-do": name, "aria-label": `${label}: ${action.title}`, title: label, text, on: { click: onClick } });
  const why = button("why", "Why is this shown", "Why?", () => toggleEvidence(node));
  why.classList.add("why");
  why.setAttribute("aria-expanded", "false");
  return el(
    "div",
    { class: "buttons" },
    action.type === "reply"
      ? button("used", "Copy and mark as used", "Copy", () => copyAndUse(node, onMark, onAnnounce))
      : button("used", "Mark as used", "Used", () => onMark("used")),
    button("dismissed", "Dismiss", "Dismiss", () => onMark("dismissed")),
    button("wrong", "Report as wrong", "Wrong", () => onMark("wrong")),
    why,
  );
}

async function copyAndUse(node, onMark, onAnnounce) {
  const body = node.querySelector(".body");
  try {
    await navigator.clipboard.writeText(body.innerText);
  } catch {
    // Where the browser does not let a page copy, the words must not go away before the agent has.
    getSelection().selectAllChildren(body);
    onAnnounce("Copying is not allowed here. The words are selected.");
    return;
  }
  onAnnounce("Copied.");
  onMark("used");
}

function toggleEvidence(node) {
  const list = node.querySelector(".evidence");
  list.hidden = !list.hidden;
  node.querySelector(".why").setAttribute("aria-expanded", String(!list.hidden));
}

/** @param {Action} action @param {Timings} timings @param {CardHandlers} handlers */
function evidenceNode(action, timings, { onJump }) {
  const items = (action.evidence ?? []).map((each) => evidenceItem(each, timings, onJump));
  if (items.length === 0) items.push(el("li", { text: action.type === "answer" ? "Somebody asked the knowledge base." : "No evidence was sent with this card." }));
  return el("ul", { class: "evidence", hidden: true, "aria-label": `Why: ${action.title}` }, ...items);
}

/** @param {Evidence} each @param {Timings} timings @param {CardHandlers["onJump"]} onJump */
function evidenceItem(each, timings, onJump) {
  const facts = [["Rule", each.rule]];
  if (each.phrase) facts.push(["Matched", each.phrase]);
  if (typeof each.score === "number") facts.push(["Score", percentText(each.score)]);
  if (each.model) facts.push(["Model", `${each.model} v${each.version}`]);
  const { t0, t8 } = timings.get(each.utterance_id)?.stamps ?? {};
  if (typeof t0 === "number" && typeof t8 === "number") facts.push(["Speech to here", msText(t8 - t0)]);
  return el(
    "li",
    {},
    el(
      "button",
      { type: "button", class: "quote", on: { click: () => onJump(each.utterance_id) } },
      el("span", { class: "note", text: `${speakerText(each.speaker)} at ${clockText(each.start_ms)}` }),
      el("q", { dir: "auto", text: each.text }),
    ),
    el("dl", {}, ...facts.flatMap(([term, value]) => [el("dt", { text: term }), el("dd", { text: value })])),
  );
}

/** @param {NonNullable<Action["cites"]>} cites */
function citesNode(cites) {
  const item = ({ source, title, text, highlights }) =>
    el(
      "li",
      {},
      el(
        "details",
        { "data-source": source },
        el("summary", { text: title || source }),
        el("p", { dir: "auto" }, ...passageParts(text, highlights).map((part) => el(part.isAnswer ? "mark" : "span", { text: part.text }))),
        el("p", { class: "note", text: source }),
      ),
    );
  return el("ol", { class: "cites", "aria-label": "Sources" }, ...cites.map(item));
}
