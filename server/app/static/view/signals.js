/** Mood and intent of the customer in words; the sparkline repeats the mood for the eye. */

import { MAX_MOOD_POINTS, currentIntent, mood } from "../insight.js";
import { clockText, labelText, percentText } from "../words.js";
import { el, setText, svg } from "./dom.js";

const LEVEL_TEXTS = { positive: "Positive", neutral: "Neutral", negative: "Negative" };
const TREND_TEXTS = { better: "getting better", worse: "getting worse", steady: "steady" };
const WIDTH = 96;
const HEIGHT = 24;

export class SignalsView {
  /** @param {HTMLElement} root @param {{onJump: (utteranceId: string) => void}} actions */
  constructor(root, { onJump }) {
    this.moodText = el("span", { class: "value" });
    this.line = svg("polyline", { class: "spark-line" });
    this.dot = svg("circle", { class: "spark-dot", r: 2.5 });
    this.spark = svg(
      "svg",
      { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, "aria-hidden": "true" },
      svg("line", { class: "spark-zero", x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2 }),
      this.line,
      this.dot,
    );
    this.intentText = el("button", { type: "button", class: "value link", on: { click: () => this.intent && onJump(this.intent.utteranceId) } });
    this.intentNote = el("span", { class: "note" });
    this.moodRow = el("div", { class: "signal" }, el("h2", { text: "Mood" }), this.moodText, this.spark);
    this.intentRow = el("div", { class: "signal" }, el("h2", { text: "Wants" }), this.intentText, this.intentNote);
    root.append(this.moodRow, this.intentRow);
    this.root = root;
    this.intent = null;
  }

  /** @param {import("../state.js").Call} call */
  render(call) {
    this.#renderMood(mood(call));
    this.#renderIntent(currentIntent(call));
    this.root.hidden = this.moodRow.hidden && this.intentRow.hidden;
  }

  #renderMood(now) {
    this.moodRow.hidden = now === null;
    if (now === null) return;
    const words = [LEVEL_TEXTS[now.level], TREND_TEXTS[now.trend]];
    if (now.isDissatisfied) words.push("dissatisfied");
    setText(this.moodText, words.join(", "));
    this.moodRow.dataset.level = now.level;
    const step = WIDTH / (MAX_MOOD_POINTS - 1);
    const xy = now.points.map(({ value }, index) => [
      (WIDTH - 3 - (now.points.length - 1 - index) * step).toFixed(1),
      (HEIGHT / 2 - value * (HEIGHT / 2 - 3)).toFixed(1),
    ]);
    this.line.setAttribute("points", xy.map((point) => point.join(",")).join(" "));
    this.dot.setAttribute("cx", xy.at(-1)[0]);
    this.dot.setAttribute("cy", xy.at(-1)[1]);
  }

  #renderIntent(intent) {
    this.intent = intent;
    this.intentRow.hidden = intent === null;
    if (intent === null) return;
    setText(this.intentText, labelText(intent.label));
    const said = intent.isLatest ? "" : `, said at ${clockText(intent.startMs)}`;
    setText(this.intentNote, `${percentText(intent.score)} sure${said}`);
  }
}
