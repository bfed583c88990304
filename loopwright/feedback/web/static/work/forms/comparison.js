// Which of two answers is better, and how much (Llama 2, sec. 3.2.1); or that neither will do.

import { Row } from "../choices.js";
import { Form, Missing, editor } from "../form.js";

const STRENGTHS = [
  ["significantly", "The other one is wrong, harmful or no answer; anybody would choose this one."],
  ["better", "Clearly the better one, though the other could be used."],
  ["slightly", "A little better; others may choose the other one."],
  ["negligibly", "Hardly any difference, or you are not sure."],
];
const BOTH_BAD = { both_bad: true };
const CANNOT_JUDGE = { cannot_judge: true };
const SAFETY = [
  ["A safe, B not", [true, false]],
  ["Both safe", [true, true]],
  ["Both unsafe", [false, false]],
  ["B safe, A not", [false, true]],
];

export class ComparisonForm extends Form {
  usualQuestion = "Which answer is better?";

  constructor(...given) {
    super(...given);
    this.verdict = this.#row(this.question, verdicts(), { className: "scale", changed: () => this.#decided() });
    this.add(this.verdict);
    if (this.project.safety) {
      const options = SAFETY.map(([label, value], place) => ({ label, value, key: String(place + 1) }));
      this.safety = this.#row("Which answers are safe?", options, {});
      this.add(this.safety);
    }
    const [options, className] = this.project.criteria_strengths ? [scaled, "scale"] : [sides, "criterion"];
    this.criteria = this.project.criteria.map(({ name, definition }) =>
      this.#row(name, options(name), { definition, required: false, className }),
    );
    this.add(...this.criteria);
    if (this.project.improve) this.#improvement();
  }

  get improves() {
    return this.project.improve;
  }

  get skips() {
    return this.verdict.value?.cannot_judge ? "cannot_judge" : null;
  }

  check() {
    if (!this.verdict.answered) throw new Missing("Choose first: 1 to 8, 9 or 0.", () => this.verdict.focus());
    if (this.safety && !this.safety.answered) throw new Missing("Say which answers are safe.", () => this.safety.focus());
    const significant = this.verdict.value.strength === "significantly";
    if (significant && this.project.reason_when_significant && !this.explained) {
      const why = () => (this.reasons ? this.reasons.focus() : this.openReason());
      throw new Missing("Say why one answer is significantly better.", why);
    }
  }

  partial() {
    const { choice = null, strength = null, both_bad = false } = this.verdict.value ?? {};
    const said = this.criteria.filter((row) => row.answered).map((row) => [row.options[0].criterion, row.value]);
    const strengths = said.filter(([, value]) => value.strength).map(([name, value]) => [name, value.strength]);
    return {
      ...(this.verdict.answered ? { choice, strength, both_bad } : {}),
      ...(this.safety?.answered ? { safe: this.safety.value } : {}),
      ...(said.length ? { criteria: Object.fromEntries(said.map(([name, value]) => [name, value.choice])) } : {}),
      ...(strengths.length ? { strengths: Object.fromEntries(strengths) } : {}),
      ...this.#improved(),
    };
  }

  fill(draft) {
    if (draft.both_bad) this.verdict.restore(BOTH_BAD);
    else if (draft.strength) this.verdict.restore({ choice: draft.choice, strength: draft.strength });
    if (draft.safe) this.safety?.restore(draft.safe);
    for (const row of this.criteria) {
      const { criterion } = row.options[0];
      if (draft.criteria && criterion in draft.criteria)
        row.restore({ choice: draft.criteria[criterion], strength: draft.strengths?.[criterion] });
    }
    if (draft.improved) {
      this.#openEditor();
      this.editor.field.value = draft.improved;
    }
  }

  edit() {
    if (!this.editor) return;
    if (this.#better() === null) this.screen.say("Choose the better answer first; then you can edit it.", { loud: true });
    else {
      this.#openEditor();
      this.editor.field.focus();
    }
  }

  #row(title, options, { changed, ...more }) {
    const { describe } = this.screen;
    const told = () => {
      changed?.();
      this.screen.changed();
    };
    return new Row({ title, options, describe, changed: told, ...more });
  }

  #better() {
    return this.verdict.value?.choice ?? null;
  }

  #decided() {
    this.texts.panes.forEach((pane, place) => pane.element.classList.toggle("preferred", this.#better() === place));
    if (this.editor && !this.editor.element.hidden && this.edited !== this.#better()) this.#closeEditor();
  }

  #improvement() {
    this.editor = editor("The better answer, made better still", { changed: () => this.screen.changed() });
    this.editor.element.hidden = true;
    this.below.append(this.editor.element);
  }

  #openEditor() {
    if (!this.editor || this.#better() === null || this.edited === this.#better()) return;
    this.edited = this.#better();
    this.editor.field.value = this.task.answers[this.edited];
    this.editor.field.defaultValue = this.task.answers[this.edited];
    this.editor.element.hidden = false;
  }

  /** The other answer is the better one now: what was written belongs to this one, and comes back with it. */
  #closeEditor() {
    this.kept = { ...this.kept, [this.edited]: this.editor.field.value };
    this.edited = null;
    this.editor.element.hidden = true;
    const before = this.kept[this.#better()];
    if (before !== undefined) {
      this.#openEditor();
      this.editor.field.value = before;
    }
  }

  #improved() {
    if (!this.editor || this.editor.element.hidden) return {};
    const { value, defaultValue } = this.editor.field;
    return value.trim() && value !== defaultValue ? { improved: value } : {};
  }
}

function degrees(prefix = "") {
  const of = (choice, strengths, firstKey) =>
    strengths.map(([strength, definition], place) => ({
      value: { choice, strength }, label: strength, definition, side: "AB"[choice],
      name: prefix + `${"AB"[choice]} is ${strength} better`.replace("better better", "better"),
      key: String(firstKey + place), className: `${strength} side-${"ab"[choice]}`,
    }));
  return [...of(0, STRENGTHS, 1), ...of(1, STRENGTHS.toReversed(), 5)];
}

function verdicts() {
  return [
    ...degrees(),
    { value: BOTH_BAD, label: "both bad", key: "9", definition: "Nobody should get either of them.", className: "apart" },
    {
      value: CANNOT_JUDGE, label: "cannot judge", key: "0", className: "apart",
      definition: "You cannot tell, whatever you do. The task goes back without an answer.",
    },
  ];
}

function sides(criterion) {
  return [["A", 0], ["same", null], ["B", 1]].map(([label, value], place) => ({
    label, value: { choice: value }, criterion, key: String(place + 1),
    name: value === null ? `${criterion}: same` : `${criterion}: ${label} is better`,
  }));
}

function scaled(criterion) {
  const same = { value: { choice: null }, label: "same", key: "9", className: "apart", name: `${criterion}: same` };
  return [...degrees(`${criterion}: `), same].map((option) => ({ ...option, criterion }));
}
