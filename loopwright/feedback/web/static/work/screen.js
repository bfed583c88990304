// One task on the screen: texts above, questions below or beside.

import { h, kbd } from "./dom.js";
import { Missing } from "./form.js";
import { ComparisonForm } from "./forms/comparison.js";
import { RankingForm } from "./forms/ranking.js";
import { RatingForm } from "./forms/rating.js";
import { SpansForm } from "./forms/spans.js";
import { ThumbForm } from "./forms/thumb.js";
import { CorrectionForm, DemonstrationForm } from "./forms/writing.js";
import { byId } from "./status.js";
import { Texts } from "./texts.js";

const FORMS = {
  comparison: ComparisonForm, ranking: RankingForm, rating: RatingForm, thumb: ThumbForm,
  demonstration: DemonstrationForm, correction: CorrectionForm, spans: SpansForm,
};
const THEMES = ["system", "light", "dark"];

export class Screen {
  /** project: what it asks for. work: the day. */
  constructor(project, work) {
    this.project = project;
    this.work = work;
    this.view = work.preferences;
    byId("form").addEventListener("submit", (event) => event.preventDefault());
    byId("layout").addEventListener("click", () => this.toggle("layout"));
    byId("theme").addEventListener("click", () => this.#nextTheme());
    this.printKeys();
    this.#showSettings();
  }

  show(task, answer) {
    this.form?.leave?.();
    this.texts = new Texts(task, this.view, this.project.blur && !task.seen);
    const { changed, describe, say, keyOf } = this.#forForms();
    this.form = new FORMS[task.kind](task, this.project, this.texts, { changed, describe, say, keyOf });
    this.form.offerReasons();
    byId("context").replaceChildren(this.texts.context);
    byId("answers").replaceChildren(this.texts.element);
    byId("questions").replaceChildren(this.form.below);
    byId("reason-place").replaceChildren(this.form.reason.element);
    const place = byId("task");
    place.className = `${task.kind} ${this.form.beside ? "beside" : "below"}`;
    if (this.form.question && task.kind === "ranking") this.form.below.prepend(h("h2", { class: "question" }, this.form.question));
    byId("improve").hidden = !this.form.improves;
    this.form.restore(answer);
    this.#past(task);
    this.#only("task");
    this.#showSettings();
    describe("");
    scrollTo(0, 0);
    this.form.focus();
    const blurred = this.texts.blurred ? " The texts are blurred." : "";
    say(`${task.past ? "An earlier answer" : "Next task"}. ${this.form.question}${blurred}`);
  }

  /** No task. sending: some may come once the answers are sent. */
  nothing(sending) {
    this.form?.leave?.();
    this.form = null;
    this.#only(sending ? "loading" : "empty");
    byId("past")?.remove();
    if (!sending) byId("empty").querySelector("h2").focus();
  }

  draft() {
    return this.form.draft();
  }

  /** The answer; null: something is missing, and the screen says what. */
  answer() {
    try {
      if (this.texts.blurred) throw new Missing("The texts are blurred; show them first.", () => byId("blurred").querySelector("button").focus());
      return this.form.answer();
    } catch (missing) {
      if (!(missing instanceof Missing)) throw missing;
      this.work.say(missing.message, { loud: true });
      missing.focus();
      return null;
    }
  }

  leaveField() {
    document.activeElement.blur();
    const first = document.querySelector("#form [data-choice]");
    if (this.form?.rows.length || first) (this.form.rows[0] ?? first).focus();
    else document.querySelector("[data-do=submit]").focus();
  }

  /** Change how texts are shown: text, lock, layout, diff. */
  toggle(what) {
    const { view } = this;
    if (what === "diff") return this.#toggleDifference();
    if (what === "blur") return this.#toggleBlur();
    if (what === "text") view.text = view.text === "raw" ? "rendered" : "raw";
    if (what === "lock") view.lock = !view.lock;
    if (what === "layout") view.layout = view.layout === "rows" ? "columns" : "rows";
    this.texts?.refresh();
    this.#showSettings();
    this.work.savePreferences();
    return undefined;
  }

  /** The keys, on the buttons. */
  printKeys() {
    for (const button of document.querySelectorAll("[data-do]")) {
      const key = this.work.keys.of(button.dataset.do);
      const printed = button.querySelector("kbd");
      if (printed) printed.replaceWith(kbd(key));
      else button.append(" ", kbd(key));
      button.setAttribute("aria-keyshortcuts", key);
    }
  }

  #forForms() {
    return {
      changed: () => this.work.keep(),
      describe: (text) => (byId("hint").textContent = text),
      say: (sentence, options) => this.work.say(sentence, options),
      keyOf: (action) => this.work.keys.of(action),
    };
  }

  #toggleBlur() {
    if (!this.project.blur) return;
    this.texts.blur(!this.texts.blurred);
    this.work.current.seen = !this.texts.blurred; // it stays so where the task comes back
    this.#showSettings();
    this.form.focus();
    this.work.say(this.texts.blurred ? "The texts are blurred." : "The texts are shown.");
  }

  async #toggleDifference() {
    if (!this.texts.canDiffer) return;
    await this.texts.toggleDifference();
    this.#showSettings();
  }

  /** That an earlier answer is being changed. */
  #past(task) {
    byId("past")?.remove();
    if (!task.past) return;
    const at = new Date(task.past.at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    const back = h("button", { type: "button", onclick: () => this.work.leavePast() }, "Leave it as it was ", kbd("Esc"));
    byId("task").before(h("div", { id: "past", class: "note" }, `You are changing your answer of ${at}.`, back));
  }

  #only(shown) {
    for (const id of ["task", "empty", "loading"]) byId(id).hidden = id !== shown;
  }

  #showSettings() {
    const pressed = (selector, on) => document.querySelector(selector).setAttribute("aria-pressed", String(on));
    pressed("[data-do=raw]", this.view.text === "raw");
    pressed("[data-do=lock]", this.view.lock);
    pressed("[data-do=diff]", this.texts?.showsDifference ?? false);
    pressed("#layout", this.view.layout === "rows");
    byId("blurred").hidden = !this.texts?.blurred;
    document.querySelector(".views [data-do=blur]").hidden = !this.project.blur || (this.texts?.blurred ?? true);
    document.querySelector("[data-do=diff]").hidden = !this.texts?.canDiffer;
    const several = (this.texts?.panes.length ?? 0) > 1;
    for (const selector of ["[data-do=lock]", "#layout"]) document.querySelector(selector).hidden = !several;
    document.querySelector("[data-do=raw]").hidden = this.project.kind === "spans";
    byId("answers").className = this.view.layout;
    if (this.view.theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = this.view.theme;
    byId("theme").textContent = `Theme: ${this.view.theme}`;
  }

  #nextTheme() {
    this.view.theme = THEMES[(THEMES.indexOf(this.view.theme) + 1) % THEMES.length];
    this.#showSettings();
    this.work.savePreferences();
  }
}
