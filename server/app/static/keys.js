/** Single-letter keys, which must never act while someone types and can be switched off (WCAG 2.1.4). */

const TYPING = "input, textarea, select, [contenteditable]";

/**
 * @param {Record<string, () => void>} actions by key
 * @param {() => boolean} areOn
 */
export function listenToKeys(actions, areOn) {
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    if (event.target.closest?.(TYPING) || document.querySelector("dialog[open]")) return;
    const action = actions[event.key];
    if (!action || (event.key.length === 1 && !areOn())) return;
    event.preventDefault();
    action();
  });
}
