// What is to be sent, in order. It is kept in the browser's storage until the server has it: a network that is away, a
// tab that is closed or a crash loses nothing. Each thing has a uid, so sending it twice does no harm.

import { NotNow, call } from "./api.js";
import { newUid } from "./dom.js";

const DRAFT_WAITS_MS = 400; // for the next letter
const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 30_000;
const FAILURES = 3; // of the server itself (500), after which the same request is given up

export class Outbox {
  /** `done(sent, reply)`, `refused(sent, error)`, `changed(outbox)`: what the screen wants to hear. */
  constructor(name, { done, refused, changed }) {
    this.prefix = `loopwright/${name}/`;
    this.heard = { done, refused, changed };
    this.failure = null; // a NotNow, while the server cannot be reached
    this.savedAt = null;
    this.waiting = this.#leftOver();
    this.drafts = new Map();
    for (const one of this.waiting) this.#noteDraft(one);
    this.sending = null;
    this.count = 0;
    addEventListener("online", () => this.send());
    document.addEventListener("visibilitychange", () => this.send());
  }

  /** The newest draft of an open task that was written here: what the server sends may be older. */
  draftOf(ticket) {
    return this.drafts.get(ticket) ?? null;
  }

  /** Whether the task is answered or skipped already, as far as this browser knows. */
  settles(ticket) {
    const last = this.waiting.findLast((one) => one.ticket === ticket && one.type !== "draft" && one.type !== "flag");
    return last !== undefined && last.type !== "undo";
  }

  add(what) {
    const older = (one) => one.type === "draft" && one.ticket === what.ticket && one !== this.sending;
    if (what.type !== "flag") {
      for (const one of this.waiting.filter(older)) this.#forget(one);
    }
    const kept = { key: `${this.prefix}${Date.now()}-${this.#next()}-${newUid().slice(0, 8)}`, failures: 0, ...what };
    this.waiting.push(kept);
    this.#noteDraft(kept);
    this.#store(kept);
    this.heard.changed(this);
    clearTimeout(this.timer);
    if (what.type === "draft") this.timer = setTimeout(() => this.send(), DRAFT_WAITS_MS);
    else this.send();
  }

  /** Send everything, one after another; on failure wait and begin again. */
  async send() {
    clearTimeout(this.timer);
    if (this.sending) return;
    while (this.waiting.length) {
      if (this.#sentElsewhere(this.waiting[0])) {
        this.#sent(this.waiting[0], {});
        this.failure = null;
        this.heard.changed(this);
        continue;
      }
      this.sending = this.waiting[0];
      const failure = await this.#sendOne(this.sending);
      this.sending = null;
      this.failure = failure;
      this.heard.changed(this);
      if (failure) {
        this.wait = Math.min((this.wait ?? FIRST_WAIT_MS / 2) * 2, LONGEST_WAIT_MS);
        this.timer = setTimeout(() => this.send(), this.wait);
        return;
      }
      this.wait = undefined;
    }
  }

  async #sendOne(one) {
    let reply;
    try {
      reply = await call(one.method, one.path, one.body);
    } catch (error) {
      if (error instanceof NotNow) return error;
      one.failures += 1;
      if (error.status >= 500 && one.failures < FAILURES) return error;
      this.#forget(one);
      this.heard.refused(one, error);
      return null;
    }
    this.#sent(one, reply);
    return null;
  }

  #sent(one, reply) {
    this.#forget(one);
    this.savedAt = new Date();
    this.heard.done(one, reply);
  }

  /** Whether another tab took it out of the storage: it is with the server, or something newer took its place. */
  #sentElsewhere(one) {
    try {
      if (!one.stored || localStorage.getItem(one.key) !== null) return false;
    } catch {
      return false; // storage is off
    }
    if (one.type === "draft" && this.drafts.get(one.ticket) === one.body.draft) this.drafts.delete(one.ticket);
    return true;
  }

  #noteDraft({ type, ticket, body }) {
    if (type === "draft") this.drafts.set(ticket, body.draft);
    else if (type !== "flag") this.drafts.delete(ticket);
  }

  #next() {
    this.count += 1;
    return String(this.count).padStart(6, "0");
  }

  #forget(one) {
    this.waiting = this.waiting.filter((other) => other !== one);
    try {
      localStorage.removeItem(one.key);
    } catch {
      // storage is off: there was nothing
    }
  }

  #store(one) {
    try {
      localStorage.setItem(one.key, JSON.stringify(one));
      one.stored = true;
    } catch {
      // storage is full or off: it is still in memory, and on its way
    }
  }

  #leftOver() {
    try {
      const keys = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix));
      return keys.sort().map((key) => ({ ...JSON.parse(localStorage.getItem(key)), stored: true }));
    } catch {
      return []; // storage is off
    }
  }
}
