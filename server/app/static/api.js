/**
 * The page's HTTP calls. Answers are parsed JSON; refusals are `ApiError` with the server's code and message.
 *
 * A deployment with sign-in hands the page an access token through the sign-in form. It lives in this
 * module's memory only, so that closing or reloading the page forgets it.
 */

let accessToken = "";

/** @param {string} token sent as bearer token from now on; empty for none */
export function setAccessToken(token) {
  accessToken = token;
}

export class ApiError extends Error {
  /** @param {number} status 0 where the server did not answer */
  constructor(status, code, message, field = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.field = field;
  }
}

async function request(method, path, body, contentType) {
  const headers = {};
  if (accessToken) headers.Authorization = `Bearer ${accessToken}`;
  if (contentType) headers["Content-Type"] = contentType;
  let response;
  try {
    response = await fetch(path, { method, headers, body, cache: "no-store" });
  } catch {
    throw new ApiError(0, "unreachable", "The server does not answer.");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  throw new ApiError(
    response.status,
    answer.code ?? String(response.status),
    answer.message ?? `The server answered ${response.status}.`,
    answer.field ?? null,
  );
}

/** A ticket that opens one feed socket. @returns {Promise<{ticket: string, agent_id: string|null}>} */
export const getTicket = () => request("POST", "/v1/tickets");

/** @returns {Promise<{version: string, ready: boolean, demo: boolean, features: Record<string, boolean>}>} */
export const getStatus = () => request("GET", "/v1/status");

/** @returns {Promise<import("./stages.js").Budget>} */
export const getBudget = () => request("GET", "/v1/budget");

/**
 * Play a call through the whole service: the scripted one, or a two-channel WAV of one's own.
 *
 * @param {Blob|null} wav
 * @returns {Promise<{conversation_id: string, duration_ms?: number}>}
 */
export const playDemo = (wav = null) => request("POST", "/v1/demo/calls", wav ?? undefined, wav ? "audio/wav" : undefined);
