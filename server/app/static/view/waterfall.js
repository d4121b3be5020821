/** Where one utterance's time went, stage by stage against the budget, and the call's percentiles beside it. */

import { STAGES, percentiles, stageSpans, totalMs } from "../stages.js";
import { STAGE_TEXTS, clockText, labelText, momentText, msNumber, msText, percentText, speakerText } from "../words.js";
import { el, setText } from "./dom.js";

export class WaterfallView {
  /** @param {HTMLElement} root @param {{onClose: () => void, onLive: () => void}} actions */
  constructor(root, { onClose, onLive }) {
    this.root = root;
    this.about = el("p", { class: "about" });
    this.live = el("button", { type: "button", text: "Follow newest", on: { click: onLive } });
    this.rows = new Map();
    const head = ["Stage", "This, ms", "", "Budget", "p50", "p95"];
    this.body = el("tbody");
    this.table = el(
      "table",
      {},
      el("caption", { class: "sr", text: "Stage durations against the latency budget, in milliseconds; p50 and p95 over this call" }),
      el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col", text })))),
      this.body,
    );
    this.outputs = el("p", { class: "note outputs" });
    root.append(
      el(
        "div",
        { class: "waterfall-head" },
        el("h2", { id: "waterfall-title", text: "Timing" }),
        this.about,
        this.live,
        el("button", { type: "button", text: "Close", on: { click: onClose } }),
      ),
      el("div", { class: "table-scroll" }, this.table),
      this.outputs,
    );
    for (const stage of [...STAGES, "total"]) this.#addRow(stage);
  }

  /**
   * @param {import("../state.js").Call} call
   * @param {string|null} utteranceId the chosen utterance; null follows the newest with guidance
   * @param {import("../stages.js").Budget|null} budget
   */
  render(call, utteranceId, budget) {
    const id = utteranceId ?? newestTimed(call);
    const utterance = id === null ? undefined : call.utterances.get(id);
    const timing = id === null ? undefined : call.timings.get(id);
    const spans = timing ? stageSpans(timing) : [];
    const total = totalMs(spans);
    const scaleMs = Math.max(total ?? 0, budget?.total_ms ?? 0, 1);
    const overCall = percentiles(call.timings.values());
    this.live.hidden = utteranceId === null;
    setText(this.about, aboutText(utterance, timing, total, budget));
    for (const stage of STAGES) {
      const span = spans.find((each) => each.stage === stage);
      this.#fillRow(stage, span, budget?.stages[stage], overCall.get(stage), scaleMs);
    }
    const whole = total === null ? undefined : { startMs: 0, ms: total };
    this.#fillRow("total", whole, budget?.total_ms, overCall.get("total"), scaleMs);
    setText(this.outputs, outputsText(id === null ? undefined : call.annotations.get(id)));
  }

  #addRow(stage) {
    const bar = el("span", { class: "bar" });
    const cells = {
      ms: el("td", { class: "number" }),
      track: el("td", { class: "track", "aria-hidden": "true" }, bar),
      budget: el("td", { class: "number" }),
      p50: el("td", { class: "number" }),
      p95: el("td", { class: "number" }),
    };
    const name = el("th", { scope: "row", text: stage === "total" ? "All" : STAGE_TEXTS[stage] });
    this.body.append(el("tr", { "data-stage": stage }, name, ...Object.values(cells)));
    this.rows.set(stage, { ...cells, bar });
  }

  #fillRow(stage, span, budgetMs, over, scaleMs) {
    const row = this.rows.get(stage);
    const isOver = span !== undefined && budgetMs !== undefined && span.ms > budgetMs;
    setText(row.ms, span === undefined ? "–" : msNumber(span.ms) + (isOver ? `, ${msNumber(span.ms - budgetMs)} over` : ""));
    setText(row.budget, budgetMs === undefined ? "–" : msNumber(budgetMs));
    setText(row.p50, over ? msNumber(over.p50) : "–");
    setText(row.p95, over ? msNumber(over.p95) + (over.p95 > budgetMs ? ", over" : "") : "–");
    row.p95.classList.toggle("over", over !== undefined && over.p95 > budgetMs);
    row.ms.classList.toggle("over", isOver);
    row.bar.classList.toggle("over", isOver);
    row.bar.hidden = span === undefined;
    if (span === undefined) return;
    // A span may be negative where clocks disagree; the text says so, the bar shows a hairline.
    row.bar.style.marginInlineStart = `${((100 * Math.max(0, span.startMs)) / scaleMs).toFixed(2)}%`;
    row.bar.style.width = `${((100 * Math.max(0, span.ms)) / scaleMs).toFixed(2)}%`;
  }
}

/** The newest final that led to guidance or an annotation, else the newest utterance with any stamps. */
function newestTimed(call) {
  let plain = null;
  for (let index = call.timeline.length - 1; index >= 0 && index > call.timeline.length - 50; index -= 1) {
    const id = call.timeline[index].slice(2);
    const timing = call.timings.get(id);
    if (timing?.isFinal && timing.rank > 1) return id;
    if (timing) plain ??= id;
  }
  return plain;
}

function aboutText(utterance, timing, total, budget) {
  if (!utterance || !timing) return "No utterance has been timed yet.";
  const until = { 1: "its transcript", 2: `its annotation (${labelText(timing.what).toLowerCase()})`, 3: "its action" }[timing.rank];
  const verdict = budget && total !== null ? (total <= budget.total_ms ? ", within budget" : ", over budget") : "";
  const time = total === null ? "" : `: ${msText(total)}${verdict}`;
  const absent = timing.receivedMs === null ? "; not received live, so without delivery" : "";
  return `${speakerText(utterance.speaker)} at ${clockText(utterance.start_ms)}, to ${until}${time}${absent}`;
}

/** Nearest to a phrase that means nothing: not worth a word. */
const NOTHING_MEANT = "negatives";

/** What the models said of the utterance, one line; which model and how long once, where all are alike. */
function outputsText(outputs) {
  const said = [...(outputs?.values() ?? [])]
    .filter(({ value }) => !(Array.isArray(value) && (value.length === 0 || value[0].label === NOTHING_MEANT)))
    .map(({ output, value, score, model, version, queue_ms: queueMs = 0, compute_ms: computeMs = 0 }) => {
      const first = Array.isArray(value) ? value[0] : value;
      const name = first?.label === undefined ? "" : String(first.label);
      const label = output === "moments" ? momentText(name) : labelText(name.toLowerCase());
      const sure = percentText(score ?? first?.score);
      const what = [`${labelText(output)}:`, label, sure].filter((word) => word !== "").join(" ");
      return { what, how: `${model} v${version}, queued ${msText(queueMs)}, ran ${msText(computeMs)}` };
    });
  if (said.length === 0) return "";
  if (said.every(({ how }) => how === said[0].how)) return [...said.map(({ what }) => what), said[0].how].join(" · ");
  return said.map(({ what, how }) => `${what} (${how})`).join(" · ");
}
