// Requests to the server, and the two ways in which they fail: for now, or for good.

const PATIENCE_MS = 20_000;
const FOR_NOW = [401, 408, 425, 429, 502, 503, 504];

/** The server does not answer, or wants a log-in first: the same request may succeed later. */
export class NotNow extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

/** The server understood, and says no. */
export class Refused extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

let account = null;

/** Whose page this is: where somebody else logged in since, in another tab, the server answers 401 to it. */
export function actAs(id) {
  account = id;
}

export async function call(method, path, body) {
  let reply;
  try {
    reply = await fetch(path, {
      method,
      headers: {
        ...(account === null ? {} : { "X-Account": account }),
        ...(body === undefined ? {} : { "Content-Type": "application/json" }),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch {
    throw new NotNow("the server cannot be reached", 0);
  }
  const said = await reply.json().catch(() => ({}));
  if (reply.ok) return said;
  const sentence = said.error ?? `the server answered ${reply.status}`;
  throw FOR_NOW.includes(reply.status) ? new NotNow(sentence, reply.status) : new Refused(sentence, reply.status);
}
