// Text that the labeler writes: the answer that should have been given, or a better one made from one of the answers.

import { Row } from "../choices.js";
import { h, letter } from "../dom.js";
import { Form, Missing, editor } from "../form.js";

export class DemonstrationForm extends Form {
  usualQuestion = "Write the answer that should be given.";

  constructor(...given) {
    super(...given);
    this.editor = editor(this.question, { changed: () => this.screen.changed(), rows: 16 });
    this.below.append(this.editor.element);
  }

  get beside() {
    return true;
  }

  focus() {
    this.editor.field.focus();
  }

  edit() {
    this.focus();
  }

  check() {
    if (!this.editor.field.value.trim()) throw new Missing("Write an answer first.", () => this.focus());
  }

  partial() {
    const response = this.editor.field.value;
    return response ? { response } : {};
  }

  fill(draft) {
    this.editor.field.value = draft.response ?? "";
  }
}

export class CorrectionForm extends Form {
  usualQuestion = "Correct the answer.";

  constructor(...given) {
    super(...given);
    this.kept = {}; // place -> what was made of that answer
    this.editor = editor("Corrected answer", { changed: () => this.screen.changed(), rows: 16 });
    if (this.task.answers.length > 1) {
      this.which = new Row({
        title: "Which answer is the best to begin with?", className: "which", describe: this.screen.describe,
        options: this.task.answers.map((_, place) => ({ value: place, label: letter(place), key: String(place + 1), name: `Answer ${letter(place)}` })),
        changed: () => {
          this.#open(this.which.value);
          this.screen.changed();
        },
      });
      this.add(this.which);
    } else {
      this.below.append(h("h2", { class: "question" }, this.question));
      this.#open(0);
    }
    this.editor.element.hidden = this.which !== undefined;
    this.below.append(this.editor.element);
  }

  get beside() {
    return true;
  }

  get chosen() {
    return this.which ? this.which.value : 0;
  }

  focus() {
    if (this.which && !this.which.answered) this.which.focus();
    else this.editor.field.focus();
  }

  edit() {
    this.focus();
  }

  check() {
    if (this.which && !this.which.answered) throw new Missing("Choose the best answer first.", () => this.which.focus());
    const { value, defaultValue } = this.editor.field;
    if (!value.trim() || value === defaultValue) {
      throw new Missing("Change the answer first, or skip it if nothing is to correct.", () => this.editor.field.focus());
    }
  }

  partial() {
    const { value, defaultValue } = this.editor.field;
    if (this.chosen === undefined) return {};
    return { chosen: this.chosen, ...(value !== defaultValue ? { edited: value } : {}) };
  }

  fill(draft) {
    if (this.which && draft.chosen === undefined && draft.edited === undefined) return;
    const chosen = draft.chosen ?? 0;
    this.which?.restore(chosen);
    this.#open(chosen);
    if (draft.edited !== undefined) this.editor.field.value = draft.edited;
  }

  #open(place) {
    if (this.open === place) return;
    if (this.open !== undefined) this.kept[this.open] = this.editor.field.value;
    this.open = place;
    this.editor.field.defaultValue = this.task.answers[place];
    this.editor.field.value = this.kept[place] ?? this.task.answers[place];
    this.editor.element.hidden = false;
    this.texts.panes.forEach((pane, other) => pane.element.classList.toggle("preferred", this.which && other === place));
  }
}
