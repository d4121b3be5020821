/**
 * What a reader of the page could stumble over, as a list of sentences: controls without a name, lists and ids that are
 * wrong, text that is hard to read against what is behind it, content wider than the window. Evaluated in the page.
 */
() => {
  const faults = [];
  const isVisible = (node) => node.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && node.getClientRects().length > 0;
  const isForReadersOnly = (node) => node.closest(".sr, .skip") !== null;
  const describe = (node) => `${node.tagName.toLowerCase()}${node.id ? `#${node.id}` : ""}.${node.className?.baseVal ?? node.className}`;

  const byIds = (ids) => ids.split(/\s+/).map((id) => document.getElementById(id)?.textContent ?? "").join(" ");
  const nameOf = (node) =>
    (node.getAttribute("aria-label") ?? (node.hasAttribute("aria-labelledby") ? byIds(node.getAttribute("aria-labelledby")) : null) ??
      ([...(node.labels ?? [])].map((label) => label.textContent).join(" ") || node.textContent || node.title || "")).trim();
  for (const node of document.querySelectorAll("button, a[href], input, select, summary, dialog, progress, [role=region], section")) {
    if (isVisible(node) && nameOf(node) === "") faults.push(`${describe(node)} has no name`);
  }

  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  for (const id of new Set(ids)) if (ids.filter((each) => each === id).length > 1) faults.push(`the id ${id} is not unique`);
  for (const attribute of ["aria-labelledby", "for"]) {
    for (const node of document.querySelectorAll(`[${attribute}]`)) {
      for (const id of node.getAttribute(attribute).split(/\s+/)) {
        if (isVisible(node) && !document.getElementById(id)) faults.push(`${describe(node)} points at ${id}, which is not there`);
      }
    }
  }
  for (const list of document.querySelectorAll("ul, ol")) {
    for (const child of list.children) if (child.tagName !== "LI") faults.push(`${describe(child)} stands in a list and is no item`);
  }
  for (const list of document.querySelectorAll("#cards, #lines")) {
    if (list.children.length > 0 && list.querySelectorAll(":scope > [tabindex='0']").length !== 1) faults.push(`${describe(list)} has not one tab stop`);
  }
  if (document.querySelectorAll("main").length !== 1 || document.querySelectorAll("h1").length !== 1) faults.push("not one main, one h1");
  if (!document.documentElement.lang) faults.push("the page has no language");

  // Colours computed by the browser, whatever the style sheet says. Source: WCAG 2.2, contrast ratio.
  const parse = (colour) => {
    const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
    return { red, green, blue, alpha };
  };
  const luminance = ({ red, green, blue }) => {
    const [r, g, b] = [red, green, blue].map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const over = (top, under) => {
    const mix = (key) => top[key] * top.alpha + under[key] * (1 - top.alpha);
    return { red: mix("red"), green: mix("green"), blue: mix("blue"), alpha: 1 };
  };
  const groundOf = (node) => {
    const layers = [];
    for (let each = node; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.alpha > 0) layers.push(colour);
      if (colour.alpha === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), parse(getComputedStyle(document.body).backgroundColor));
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || seen.has(node) || !isVisible(node) || isForReadersOnly(node)) continue;
    seen.add(node);
    const ground = groundOf(node);
    const text = over(parse(getComputedStyle(node).color), ground);
    const [dark, light] = [luminance(ground), luminance(text)].sort((a, b) => a - b);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 4.5) faults.push(`${describe(node)} has a contrast of ${ratio.toFixed(2)}`);
    if (parseFloat(getComputedStyle(node).fontSize) < 12) faults.push(`${describe(node)} is smaller than 12 px`);
  }

  if (document.documentElement.scrollWidth > innerWidth) faults.push(`the page is ${document.documentElement.scrollWidth} px wide`);
  for (const node of document.querySelectorAll("button, select, summary, input:not(.sr)")) {
    if (!isVisible(node) || isForReadersOnly(node)) continue;
    const { left, right, height, width } = node.getBoundingClientRect();
    if (left < 0 || right > innerWidth + 0.5) faults.push(`${describe(node)} leaves the window`);
    // Source: WCAG 2.2, target size (minimum): 24 px, or words in a line of text.
    if (Math.min(height, width) < 23.5 && !node.closest("dl, .cites") && node.type !== "checkbox") faults.push(`${describe(node)} is only ${width.toFixed(0)} × ${height.toFixed(0)} px`);
  }
  return faults;
}
