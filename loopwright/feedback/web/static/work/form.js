// What all forms share: questions in rows, the reason, and what is sent.

import { Several } from "./choices.js";
import { h } from "./dom.js";

export const LONGEST = 20_000; // characters of a text, as the server counts them

/** What a form lacks: a sentence, and where to go. */
export class Missing extends Error {
  constructor(sentence, focus) {
    super(sentence);
    this.focus = focus;
  }
}

export class Form {
  /**
   * task: as the server gave it. project: what it asks for. texts: the panes, with slots for buttons.
   * screen: {changed(), describe(text), say(text), keyOf(action)}.
   */
  constructor(task, project, texts, screen) {
    this.task = task;
    this.project = project;
    this.texts = texts;
    this.screen = screen;
    this.rows = [];
    this.below = h("div", { class: "questions" });
    this.reason = this.#reasonField();
    this.reasons = null;
  }

  /** The short reasons that the project offers, below the questions of the kind. */
  offerReasons() {
    if (!this.project.reasons.length) return;
    this.reasons = new Several({ title: "Why?", options: this.project.reasons, changed: () => this.screen.changed() });
    this.add(this.reasons);
  }

  /** Whether there is any reason, short or written. */
  get explained() {
    return Boolean(this.reason.field.value.trim() || this.reasons?.answered);
  }

  /** The layout: questions under the texts, or beside them. */
  get beside() {
    return false;
  }

  get question() {
    return this.project.question || this.usualQuestion;
  }

  add(...rows) {
    this.rows.push(...rows);
    this.below.append(...rows.map((row) => row.element));
  }

  /** The row that digits press: where the focus is, else the first. */
  get active() {
    return this.rows.find((row) => row.has(document.activeElement)) ?? this.rows[0];
  }

  press(digit) {
    return this.active?.press(digit) ?? false;
  }

  move(step) {
    const place = this.rows.findIndex((row) => row.has(document.activeElement));
    this.rows[Math.min(Math.max(place + step, 0), this.rows.length - 1)]?.focus();
  }

  /** On to the next question without an answer, once this one has its. */
  advanceFrom(row) {
    const open = this.rows.slice(this.rows.indexOf(row) + 1).find((one) => one.required && !one.answered);
    (open ?? row).focus();
  }

  focus() {
    this.rows[0]?.focus();
  }

  openReason() {
    this.reason.element.hidden = false;
    this.reason.field.focus();
  }

  /** As far as it is filled in, in the words of the answer. */
  draft() {
    const reason = this.reason.field.value.trim();
    const reasons = this.reasons?.value ?? [];
    return { ...this.partial(), ...(reason ? { reason } : {}), ...(reasons.length ? { reasons } : {}) };
  }

  restore(draft) {
    if (draft.reason) {
      this.reason.field.value = draft.reason;
      this.reason.element.hidden = false;
    }
    this.reasons?.restore(draft.reasons ?? []);
    this.fill(draft);
  }

  /** The whole answer. Throws Missing. */
  answer() {
    this.check();
    return this.draft();
  }

  /** Where the answer is that there can be none: the reason to skip. */
  get skips() {
    return null;
  }

  /** Whether the better answer can be made better still. */
  get improves() {
    return false;
  }

  edit() {}
  mark() {}

  #reasonField() {
    const { element, field } = editor("Reason", { changed: () => this.screen.changed(), rows: 2 });
    element.hidden = true;
    return { element, field };
  }
}

/** A labelled field for long text. */
export function editor(label, { changed, rows = 8 }) {
  const field = h("textarea", { rows: String(rows), dir: "auto", maxlength: LONGEST, spellcheck: "true", oninput: changed });
  return { field, element: h("label", { class: "editor" }, h("span", { class: "title" }, label), field) };
}
