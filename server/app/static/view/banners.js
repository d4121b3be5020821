/** Lines above the page: lost connection, gaps, notices. Keyed, calm, and gone when their cause is. */

import { openGaps } from "../state.js";
import { gapText } from "../words.js";
import { el } from "./dom.js";

/** How long a connection may be away before the reader is told. Source: OPERATIONS d3. */
export const TELL_AFTER_MS = 3_000;
const GOOD_NEWS_MS = 5_000;

export class BannersView {
  /** @param {HTMLElement} root @param {{onReconnect: () => void, onSignIn: (token: string) => void}} actions */
  constructor(root, actions) {
    this.root = root;
    this.actions = actions;
    /** @type {Map<string, HTMLElement>} */
    this.nodes = new Map();
    this.timer = undefined;
    this.wasTold = false;
    this.dismissed = new Set();
  }

  /** @param {import("../feed.js").Connection} connection @param {number} nowMs local time */
  connection(connection, nowMs) {
    clearTimeout(this.timer);
    if (connection.status === "open") {
      this.#remove("connection");
      return;
    }
    if (connection.status === "closed") {
      this.wasTold = true;
      if (connection.reason === "sign_in") this.#signIn();
      else this.#connectionLine(`Disconnected by the server (${connection.code}).`, "Reconnect", "error");
      return;
    }
    const tell = () => {
      this.wasTold = true;
      this.#connectionLine("Connection lost. Reconnecting…", "Try now", "warning");
    };
    const leftMs = TELL_AFTER_MS - (nowMs - connection.lostSinceMs);
    if (leftMs <= 0) tell();
    else this.timer = setTimeout(tell, leftMs);
  }

  /** The call's channel is subscribed again. @param {boolean} recovered */
  recovered(recovered) {
    if (!this.wasTold) return;
    this.wasTold = false;
    const text = recovered
      ? "Reconnected. Nothing was lost."
      : "Reconnected. The screen was refreshed from the server.";
    this.#line("recovered", text, "info");
    setTimeout(() => this.#remove("recovered"), GOOD_NEWS_MS);
  }

  /** Gaps and notices of the call. @param {import("../state.js").Call|null} call */
  render(call) {
    const wanted = new Set();
    for (const gap of call ? openGaps(call) : []) {
      wanted.add(`gap:${gap.speaker}`);
      this.#line(`gap:${gap.speaker}`, gapText(gap), "warning");
    }
    for (const notice of call ? call.notices.values() : []) {
      const key = `notice:${notice.code}`;
      if (this.dismissed.has(`${key}:${notice.off}`)) continue;
      wanted.add(key);
      this.#line(key, notice.message, notice.severity, {
        text: "Dismiss",
        onClick: () => {
          this.dismissed.add(`${key}:${notice.off}`);
          this.#remove(key);
        },
      });
    }
    for (const key of [...this.nodes.keys()]) {
      if ((key.startsWith("gap:") || key.startsWith("notice:")) && !wanted.has(key)) this.#remove(key);
    }
  }

  /** The server refused something. @param {{code: string, message: string}} error */
  error(error) {
    this.#line(`error:${error.code}`, error.message, "error", {
      text: "Dismiss",
      onClick: () => this.#remove(`error:${error.code}`),
    });
  }

  #connectionLine(text, button, severity) {
    this.#line("connection", text, severity, { text: button, onClick: this.actions.onReconnect });
  }

  #signIn() {
    if (this.nodes.has("sign-in")) return;
    const field = el("input", { type: "password", id: "token", autocomplete: "off", required: "" });
    const form = el(
      "form",
      {
        class: "banner sign-in",
        on: {
          submit: (event) => {
            event.preventDefault();
            this.#remove("sign-in");
            this.actions.onSignIn(field.value.trim());
          },
        },
      },
      el("label", { for: "token", text: "Access token" }),
      field,
      el("button", { type: "submit", text: "Sign in" }),
    );
    this.root.append(form);
    this.nodes.set("sign-in", form);
  }

  #line(key, text, severity, button) {
    let node = this.nodes.get(key);
    if (!node) {
      node = el("div", { class: "banner", role: severity === "error" ? "alert" : "status" });
      this.nodes.set(key, node);
      this.root.append(node);
    }
    if (node.dataset.text === text && node.dataset.severity === severity) return;
    node.dataset.text = text;
    node.dataset.severity = severity;
    node.replaceChildren(
      el("span", { text }),
      button ? el("button", { type: "button", text: button.text, on: { click: button.onClick } }) : "",
    );
  }

  #remove(key) {
    this.nodes.get(key)?.remove();
    this.nodes.delete(key);
  }
}
