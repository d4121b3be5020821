/**
 * Elements from values. Text is only ever set as text: a customer's words are data.
 */

const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {string} tag
 * @param {Record<string, any>} [props] `class`, `text`, `on` (event handlers), `hidden` and the like as
 *   properties, everything with a dash or an attribute's name as attributes
 * @param {...(Node|string|null|undefined|false)} children
 * @returns {any}
 */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name === "class") node.className = value;
    else if (name === "text") node.textContent = value;
    else if (name === "on") for (const [type, handler] of Object.entries(value)) node.addEventListener(type, handler);
    else if (typeof value === "boolean" && name in node) node[name] = value;
    else node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An SVG element. @returns {any} */
export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, String(value));
  node.append(...children);
  return node;
}

/** Set text only where it differs, so that an unchanged line costs no layout and no announcement. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/**
 * Make the children of `parent` exactly `nodes`, in order, moving as few as possible.
 * A node already in place is not touched: it keeps its focus, selection and scroll.
 */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let next = parent.firstElementChild;
  for (const node of nodes) {
    if (node === next) next = next.nextElementSibling;
    else parent.insertBefore(node, next);
  }
}

const ICONS = {
  check: "M3 8.5l3.2 3.2L13 5",
  close: "M4 4l8 8M12 4l-8 8",
  down: "M8 3v9M4 8.5L8 12.5 12 8.5",
};

/** A small decorative line drawing. @param {keyof typeof ICONS} name */
export function icon(name) {
  return svg("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));
}

/** Move the roving tab stop of a list to `target`. @param {Iterable<any>} items @param {any} target */
export function rove(items, target) {
  for (const item of items) {
    const tabIndex = item === target ? 0 : -1;
    if (item.tabIndex !== tabIndex) item.tabIndex = tabIndex;
  }
}

/** Elements of a parsed card body. @param {import("../markdown.js").Block[]} blocks */
export function markdownNodes(blocks) {
  const inline = ({ tag, text }) => (tag === "" ? text : el(tag, { text }));
  return blocks.map((block) =>
    block.tag === "p"
      ? el("p", {}, ...block.inlines.map(inline))
      : el(block.tag, {}, ...block.items.map((item) => el("li", {}, ...item.map(inline)))),
  );
}

/** Says things to screen readers without moving the focus. */
export class Announcer {
  /** @param {HTMLElement} region an `aria-live` element */
  constructor(region) {
    this.region = region;
  }

  /** @param {string} text */
  say(text) {
    this.region.append(el("p", { text }));
    while (this.region.childElementCount > 8) this.region.firstElementChild.remove();
  }
}
