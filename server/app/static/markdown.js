/**
 * The Markdown subset of card bodies, as a tree of plain values. Pure; the view turns it into elements.
 *
 * Paragraphs, line breaks, bulleted and numbered lists, `**strong**`, `*emphasis*` and `` `code` ``. No HTML, no
 * links, no images: card bodies may repeat a customer's words or a model's, and neither may lead anywhere.
 *
 * @typedef {{tag: ""|"strong"|"em"|"code"|"br", text: string}} Inline
 * @typedef {{tag: "p", inlines: Inline[]} | {tag: "ul"|"ol", items: Inline[][]}} Block
 */

const LIST_ITEM = /^\s*(?:([-*•])|(\d{1,3})[.)])\s+(.*)$/;
/** No nesting and no back-tracking over line ends, so that the cost grows with the length alone. */
const INLINE = /\*\*([^*\n]+)\*\*|\*([^*\s\n][^*\n]*)\*|`([^`\n]+)`/g;

/** @param {string} text @returns {Block[]} */
export function parseMarkdown(text) {
  /** @type {Block[]} */
  const blocks = [];
  let isOpen = false;
  for (const line of text.split(/\r?\n/)) {
    const item = LIST_ITEM.exec(line);
    const last = blocks.at(-1);
    if (item) {
      const tag = item[1] ? "ul" : "ol";
      if (isOpen && last.tag === tag) last.items.push(parseInlines(item[3]));
      else blocks.push({ tag, items: [parseInlines(item[3])] });
      isOpen = true;
    } else if (line.trim() === "") {
      isOpen = false;
    } else if (isOpen && last.tag === "p") {
      last.inlines.push({ tag: "br", text: "" }, ...parseInlines(line.trim()));
    } else {
      blocks.push({ tag: "p", inlines: parseInlines(line.trim()) });
      isOpen = true;
    }
  }
  return blocks;
}

/** @param {string} text @returns {Inline[]} */
function parseInlines(text) {
  const inlines = [];
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    if (match.index > from) inlines.push({ tag: "", text: text.slice(from, match.index) });
    const [tag, inner] = match[1] ? ["strong", match[1]] : match[2] ? ["em", match[2]] : ["code", match[3]];
    inlines.push({ tag, text: inner });
    from = match.index + match[0].length;
  }
  if (from < text.length) inlines.push({ tag: "", text: text.slice(from) });
  return inlines;
}
