// What the page says about itself: saved or not, how far one is, what was just done and can be taken back.

import { call } from "./api.js";
import { h, kbd, timeOfDay } from "./dom.js";

export const byId = (id) => document.getElementById(id);

const TOLD_MS = 6_000; // that a sentence stays

/** Say a sentence to screen readers, and where it is `loud` to everybody. */
export function label(sentence, { loud = false } = {}) {
  byId("said").textContent = sentence;
  if (!loud) return;
  const banner = byId("banner");
  banner.textContent = sentence;
  banner.hidden = false;
  clearTimeout(label.timer);
  label.timer = setTimeout(() => (banner.hidden = true), TOLD_MS);
}

/** "saved 12:03", or why not yet. */
export class Saved {
  show(outbox) {
    const unsent = outbox.waiting.filter((one) => one.type !== "draft" && one !== outbox.sending).length;
    if (outbox.failure) this.failed(outbox.failure, unsent);
    else if (outbox.waiting.length) this.#say("saving…", "busy");
    else if (outbox.savedAt) this.#say(`saved ${timeOfDay(outbox.savedAt)}`, "");
  }

  failed(error, unsent = 0) {
    const kept = unsent ? `${unsent} ${unsent === 1 ? "answer" : "answers"} kept here` : "kept here";
    if (error.status === 401) {
      const link = h("a", { href: "/login", target: "_blank" }, "log in again");
      this.#say("", "problem", h("span", {}, "You are logged out: ", link, `; ${kept}`));
    } else this.#say(`offline, ${kept}`, "problem");
  }

  #say(sentence, className, ...more) {
    const place = byId("saved");
    place.className = className;
    if (more.length) place.replaceChildren(...more);
    else if (place.textContent !== sentence) place.textContent = sentence;
  }
}

/** Own numbers: today, in this project, seconds a task. */
export class Progress {
  constructor(project) {
    this.project = project;
    this.numbers = null;
  }

  async load() {
    const midnight = new Date().setHours(0, 0, 0, 0) / 1000;
    this.numbers = await call("GET", `/api/v1/projects/${this.project}/progress?since=${midnight}`).catch(() => null);
    this.#show();
  }

  /** One more, that took so long; one less where it is negative. */
  add(seconds) {
    if (!this.numbers) return;
    this.numbers.today += seconds < 0 ? -1 : 1;
    this.numbers.project += seconds < 0 ? -1 : 1;
    this.numbers.seconds ??= Math.max(seconds, 0);
    this.#show();
  }

  #show() {
    const { today, project, seconds } = this.numbers ?? {};
    if (today === undefined) return;
    const pace = seconds === null ? [] : [h("span", {}, h("b", {}, String(Math.round(seconds))), " s each")];
    byId("progress").replaceChildren(
      h("span", {}, h("b", {}, String(today)), " today"),
      h("span", { class: "wide" }, h("b", {}, String(project)), " in this project"),
      ...pace,
    );
  }
}

/** The last answer or skip can be taken back for some seconds. */
export class Undo {
  constructor(seconds, work) {
    this.seconds = seconds;
    this.work = work;
    this.uid = null;
  }

  offer(uid, said) {
    if (!this.seconds) return;
    this.uid = uid;
    this.left = this.seconds;
    const again = h("button", { type: "button", "data-do": "undo" }, "Undo ", kbd(this.work.keys.of("undo")));
    this.count = h("span", { class: "soft", "aria-hidden": "true" });
    byId("toast").replaceChildren(h("span", {}, said), again, this.count);
    byId("toast").hidden = false;
    clearInterval(this.timer);
    this.#tick();
    this.timer = setInterval(() => {
      this.left -= 1;
      this.#tick();
    }, 1000);
  }

  /** The uid of what is taken back, or null: it is too late. */
  take() {
    const { uid } = this;
    this.away();
    return uid;
  }

  away() {
    this.uid = null;
    clearInterval(this.timer);
    byId("toast").hidden = true;
  }

  #tick() {
    if (this.left <= 0) this.away();
    else this.count.textContent = `${this.left} s`;
  }
}
