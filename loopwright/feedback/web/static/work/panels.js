// The panels beside the work: guideline, history, keys, why a task is skipped or reported.

import { call } from "./api.js";
import { h, isField, kbd, setServerHtml, timeOfDay } from "./dom.js";
import { ACTIONS, Keys, digitOf, isUsable, keyOf } from "./keys.js";

const byId = (id) => document.getElementById(id);

export class Panels {
  /** work: {project, preferences, savePreferences(), skip(reason, note), flag(note), change(label), say(text)}. */
  constructor(work) {
    this.work = work;
    this.path = `/api/v1/projects/${work.project.id}`;
    for (const dialog of document.querySelectorAll("dialog")) {
      dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
      dialog.addEventListener("click", (event) => event.target === dialog && !this.mustRead && dialog.close());
      dialog.addEventListener("close", () => this.work.panelClosed());
    }
    byId("guideline").addEventListener("cancel", (event) => this.mustRead && event.preventDefault());
    byId("guideline-seen").addEventListener("click", () => this.#seen());
    byId("keys-usual").addEventListener("click", () => this.#setKeys({}));
    byId("flag-send").addEventListener("click", () => this.#sendFlag());
    for (const button of document.querySelectorAll("[data-skip]")) {
      button.addEventListener("click", () => this.#sendSkip(button.dataset.skip));
    }
  }

  get open() {
    return document.querySelector("dialog[open]");
  }

  /** A key while a panel is open. */
  key(event) {
    if (this.listens) {
      this.#hear(event);
      return;
    }
    const { id } = this.open;
    if (id === "flag" && event.key === "Enter" && event.ctrlKey) this.#sendFlag();
    if (isField(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
    const digit = digitOf(event);
    const reason = id === "skip" && digit ? document.querySelectorAll("[data-skip]")[digit - 1] : null;
    if (reason) {
      event.preventDefault();
      this.#sendSkip(reason.dataset.skip);
    } else if (this.work.keys.action(event) === id && !this.mustRead) {
      event.preventDefault();
      this.open.close();
    }
  }

  // -- guideline ------------------------------------------------------------------------------------------------------

  /** Show it; `mustRead`: nothing else goes on before it is acknowledged. */
  async guideline({ mustRead = false } = {}) {
    const guideline = await call("GET", `${this.path}/guideline`);
    this.version = guideline.version;
    this.mustRead = mustRead && !guideline.seen;
    byId("guideline-version").textContent = guideline.version ? `version ${guideline.version}` : "";
    if (guideline.html) setServerHtml(byId("guideline-text"), guideline.html.rendered);
    else byId("guideline-text").textContent = "This project has no guideline.";
    byId("guideline-new").hidden = guideline.seen;
    byId("guideline").querySelector("[data-close]").hidden = this.mustRead;
    show("guideline");
    if (!guideline.seen) byId("guideline-seen").focus();
  }

  async #seen() {
    await call("POST", `${this.path}/guideline/seen`, { version: this.version });
    const waited = this.mustRead;
    this.mustRead = false;
    byId("guideline").close();
    if (waited) this.work.refill();
  }

  // -- history --------------------------------------------------------------------------------------------------------

  async history() {
    const { labels } = await call("GET", `${this.path}/history`);
    const rows = labels.map((label) => this.#past(label));
    byId("history-list").replaceChildren(...(rows.length ? rows : [h("li", {}, "You have given no answer yet.")]));
    show("history");
  }

  #past(label) {
    const at = new Date(label.at * 1000);
    const asked = label.prompt.at(-1)?.content ?? label.answers[0] ?? "";
    const change = h("button", { type: "button", onclick: () => {
      byId("history").close();
      this.work.change(label);
    } }, "Change");
    return h(
      "li",
      {},
      h("time", { datetime: at.toISOString() }, timeOfDay(at)),
      h("span", { class: "excerpt", dir: "auto" }, asked.slice(0, 140)),
      h("strong", {}, inWords(label.answer)),
      label.frozen ? h("span", { class: "soft" }, "in use, cannot be changed") : change,
    );
  }

  // -- keys -----------------------------------------------------------------------------------------------------------

  showKeys() {
    this.#listKeys();
    show("keys");
  }

  #listKeys() {
    const rows = ACTIONS.map(([action, , what]) => {
      const change = h("button", { type: "button", class: "quiet", "aria-label": `Change the key for: ${what}`, onclick: () => {
        this.listens = action;
        byId("keys-problem").textContent = `Press the key for: ${what}. Escape: leave it.`;
      } }, "Change");
      const key = this.work.keys.of(action);
      return h("tr", {}, h("td", {}, kbd(key), h("span", { class: "hidden" }, key)), h("td", {}, what), h("td", {}, change));
    });
    byId("keys-list").replaceChildren(...rows);
  }

  #hear(event) {
    event.preventDefault();
    if (["Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
    const action = this.listens;
    this.listens = null;
    const key = keyOf(event);
    byId("keys-problem").textContent = "";
    if (event.key === "Escape") return;
    if (isUsable(key)) this.#setKeys(this.work.keys.changed(action, key));
    else byId("keys-problem").textContent = `${key} cannot be used.`;
    byId("keys-list").querySelectorAll("button")[ACTIONS.findIndex(([name]) => name === action)].focus();
  }

  #setKeys(custom) {
    this.work.keys = new Keys(custom);
    this.work.preferences.keys = custom;
    this.work.savePreferences();
    this.work.screen.printKeys();
    this.#listKeys();
  }

  // -- skip and report ------------------------------------------------------------------------------------------------

  skip() {
    byId("skip-note").value = "";
    show("skip");
    document.querySelector("[data-skip]").focus();
  }

  flag() {
    byId("flag-note").value = "";
    show("flag");
    byId("flag-note").focus();
  }

  #sendSkip(reason) {
    byId("skip").close();
    this.work.skip(reason, byId("skip-note").value.trim() || null);
  }

  #sendFlag() {
    const note = byId("flag-note").value.trim();
    if (!note) {
      byId("flag-note").focus();
      return;
    }
    byId("flag").close();
    this.work.flag(note);
  }
}

function show(id) {
  const dialog = byId(id);
  if (!dialog.open) dialog.showModal();
}

/** An answer in a few words. */
function inWords(answer) {
  const { strength, choice, both_bad: bothBad, ranks, scores, good, spans, broke } = answer;
  if (strength) return `${"AB"[choice]} ${strength}`;
  if (bothBad) return "both bad";
  if (ranks?.length) return ranks.map((rank, place) => `${String.fromCharCode(65 + place)} ${rank}`).join(", ");
  if (scores) return Object.entries(scores).map(([name, score]) => `${name} ${score}`).join(", ");
  if (good !== undefined) return good ? "good" : "bad";
  if (broke !== undefined) return broke ? "it broke" : "it held";
  if (answer.response !== undefined) return `${answer.response.length} characters written`;
  if (answer.edited !== undefined) return "corrected";
  return spans?.length ? `${spans.length} marked` : "nothing wrong";
}
