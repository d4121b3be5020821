/** The call's line: whose it is, how long, in which state, by which policy; other live calls to switch to. */

import { elapsedMs } from "../state.js";
import { clockText, endReasonText } from "../words.js";
import { arrange, el, setText } from "./dom.js";

const STATE_TEXTS = { unknown: "Connecting", started: "Live", held: "On hold", ended: "Ended" };

export class HeaderView {
  /** @param {HTMLElement} root @param {{onSwitch: (conversationId: string) => void}} actions */
  constructor(root, { onSwitch }) {
    this.state = el("span", { class: "state" });
    this.time = el("span", { class: "time" });
    this.who = el("span", { class: "who" });
    this.policy = el("span", { class: "policy" });
    this.calls = el("select", { "aria-label": "Live calls", on: { change: () => onSwitch(this.calls.value) } });
    root.append(this.state, this.time, this.who, this.policy, this.calls);
    this.root = root;
  }

  /** @param {import("../state.js").Call|null} call @param {import("../calls.js").KnownCall[]} live */
  render(call, live) {
    this.root.hidden = call === null;
    if (call === null) return;
    const reason = call.state === "ended" ? endReasonText(call.reason) : "";
    setText(this.state, STATE_TEXTS[call.state] + (reason ? `: ${reason}` : ""));
    this.state.dataset.state = call.state;
    setText(this.who, call.conversationId);
    this.who.title = call.agentId ? `Call ${call.conversationId}, agent ${call.agentId}` : `Call ${call.conversationId}`;
    // The hash behind the version is for the one who asks.
    setText(this.policy, call.policy.split("+")[0]);
    this.policy.title = call.policy ? `Policy ${call.policy}` : "";
    this.calls.hidden = live.length < 2;
    if (!this.calls.hidden) {
      const ids = live.map((each) => each.conversationId);
      if (!ids.includes(call.conversationId)) ids.unshift(call.conversationId);
      if (ids.join() !== [...this.calls.options].map((option) => option.value).join()) {
        arrange(this.calls, ids.map((id) => el("option", { value: id, text: id })));
      }
      this.calls.value = call.conversationId;
    }
  }

  /** The clock goes on between publications. @param {number} serverNowMs */
  tick(call, serverNowMs) {
    setText(this.time, clockText(elapsedMs(call, serverNowMs)));
  }
}
