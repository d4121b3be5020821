/** Plays a call through the whole service: the scripted one, or a two-channel WAV of the reader's own. */

import { ApiError, playDemo } from "../api.js";
import { clockText } from "../words.js";
import { el, setText } from "./dom.js";

export class DemoView {
  /**
   * @param {{empty: HTMLElement, beside: HTMLElement, header: HTMLElement}} places for the controls while there is no
   *   call and after one, and for the progress of one
   * @param {{onStarted: (conversationId: string) => void}} actions
   */
  constructor(places, { onStarted }) {
    this.places = places;
    this.onStarted = onStarted;
    this.isSending = false;
    this.isLive = false;
    this.durations = new Map();
    this.play = el("button", { type: "button", class: "primary", text: "Play demo call", on: { click: () => this.#start(null) } });
    this.file = el("input", { type: "file", accept: ".wav,audio/wav,audio/x-wav", id: "wav", class: "sr", on: { change: () => this.#pick() } });
    this.drop = el(
      "label",
      { class: "drop", for: "wav" },
      el("strong", { text: "Play a recording of your own" }),
      el("span", { class: "note", text: "Drop a two-channel WAV here, or choose one. Left is the customer, right the agent." }),
    );
    this.status = el("p", { class: "demo-status", role: "status" });
    this.progress = el("progress", { "aria-label": "Demo call", max: "1", value: "0", hidden: true });
    this.node = el("div", { class: "demo-controls" }, this.play, el("div", { class: "pick" }, this.file, this.drop), this.status);
    places.header.append(this.progress);
    for (const type of ["dragover", "dragleave", "drop"]) this.drop.addEventListener(type, (event) => this.#onDrag(event));
  }

  /** @param {import("../state.js").Call|null} call @param {boolean} isEnabled */
  render(call, isEnabled) {
    this.isLive = call !== null && call.state !== "ended" && call.state !== "unknown";
    const { empty, beside } = this.places;
    const home = call === null ? empty : beside;
    beside.hidden = !isEnabled || this.isLive;
    if (!isEnabled) this.node.remove();
    else if (this.node.parentElement !== home) home.append(this.node);
    this.#setSending(this.isSending);
    setText(this.play, call === null ? "Play demo call" : "Play demo call again");
    if (this.isLive && this.durations.has(call.conversationId)) setText(this.status, "");
    this.progress.hidden = !(this.isLive && this.durations.has(call?.conversationId));
  }

  /** @param {import("../state.js").Call} call @param {number} elapsedMs audio time */
  tick(call, elapsedMs) {
    const durationMs = this.durations.get(call.conversationId);
    if (!durationMs || !this.isLive) return;
    this.progress.value = Math.min(1, elapsedMs / durationMs);
    this.progress.title = `${clockText(elapsedMs)} of ${clockText(durationMs)}`;
  }

  #pick() {
    const [file] = this.file.files;
    this.file.value = "";
    if (file) this.#start(file);
  }

  #onDrag(event) {
    event.preventDefault();
    this.drop.classList.toggle("over", event.type === "dragover" && !this.file.disabled);
    if (event.type === "drop" && !this.file.disabled && event.dataTransfer.files.length > 0) {
      this.#start(event.dataTransfer.files[0]);
    }
  }

  async #start(wav) {
    if (this.isSending || this.isLive) return;
    this.#setSending(true);
    setText(this.status, wav ? `Sending ${wav.name}…` : "Starting the demo call…");
    try {
      const { conversation_id: conversationId, duration_ms: durationMs } = await playDemo(wav);
      if (durationMs) this.durations.set(conversationId, durationMs);
      setText(this.status, "");
      this.onStarted(conversationId);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      // What the server says of a field is the rest of a sentence about it.
      setText(this.status, error.field === "file" ? `The recording ${error.message}.` : error.message);
    } finally {
      this.#setSending(false);
    }
  }

  #setSending(isSending) {
    this.isSending = isSending;
    const isBusy = isSending || this.isLive;
    this.play.disabled = isBusy;
    this.file.disabled = isBusy;
    this.drop.classList.toggle("disabled", isBusy);
  }
}
