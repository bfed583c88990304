// A score on each criterion, and yes or no to what the project asks beside (InstructGPT, table 3).

import { Row } from "../choices.js";
import { h } from "../dom.js";
import { Form, Missing } from "../form.js";

export class RatingForm extends Form {
  usualQuestion = "How good is the answer?";

  constructor(...given) {
    super(...given);
    this.below.append(h("h2", { class: "question" }, this.question));
    const criteria = this.project.criteria.length ? this.project.criteria : [{ name: "overall", definition: "" }];
    this.scores = criteria.map((criterion) => this.#row(criterion));
    this.add(...this.scores);
    this.checks = this.project.checks.map((check) => new Check(check, () => this.screen.changed()));
    if (this.checks.length) {
      this.below.append(h("h3", { class: "checks-title" }, "Tick what is true of the answer"));
      this.add(...this.checks);
    }
  }

  get beside() {
    return true;
  }

  check() {
    const open = this.scores.find((row) => !row.answered);
    if (open) throw new Missing(`Rate ${open.options[0].criterion} as well.`, () => open.focus());
  }

  partial() {
    const scored = this.scores.filter((row) => row.answered);
    const scores = Object.fromEntries(scored.map((row) => [row.options[0].criterion, row.value]));
    const checks = Object.fromEntries(this.checks.map((check) => [check.name, check.box.checked]));
    return { ...(scored.length ? { scores } : {}), ...(this.checks.length ? { checks } : {}) };
  }

  fill(draft) {
    for (const row of this.scores) row.restore(draft.scores?.[row.options[0].criterion]);
    for (const check of this.checks) check.box.checked = draft.checks?.[check.name] ?? false;
  }

  #row({ name, definition, higher_is_better }) {
    const [low, high] = this.project.scale;
    const levels = Array.from({ length: high - low + 1 }, (_, step) => low + step);
    const words = wordsOf(levels, this.project.higher_is_better, higher_is_better);
    const options = levels.map((level, place) => ({
      value: level, criterion: name, key: level >= 0 && level <= 9 ? String(level) : undefined,
      label: words[place], name: `${name}: ${level}, ${words[place]}`, definition: definition || words[place],
    }));
    if (options.some((option) => option.key === undefined)) for (const one of options) one.label = `${one.value} ${one.label}`;
    const row = new Row({
      title: name, definition, options, describe: this.screen.describe,
      className: levels.length > 5 ? "likert" : "levels",
      changed: () => {
        this.screen.changed();
        this.advanceFrom(row);
      },
    });
    return row;
  }
}

/** Words for levels, worst and best by the scale's direction; a criterion with its own may be a vice, so no amounts. */
function wordsOf(levels, usual, own = null) {
  const three = own === null ? ["not", "partly", "fully"] : ["bad", "middling", "good"];
  const seven = ["very bad", "bad", "rather bad", "middling", "rather good", "good", "very good"];
  const known = { 3: three, 7: seven }[levels.length];
  const words = known ?? levels.map((_, place) => (place === 0 ? "worst" : place === levels.length - 1 ? "best" : ""));
  return (own ?? usual) ? words : words.toReversed();
}

/** One yes or no. The arrows stop at it, 1 and the space bar tick it, 0 takes the tick away. */
class Check {
  required = false;
  answered = true;

  constructor(name, changed) {
    this.name = name;
    this.changed = changed;
    this.box = h("input", { type: "checkbox", onchange: changed });
    this.element = h("label", { class: "check row" }, this.box, h("span", {}, name));
  }

  has(element) {
    return element === this.box;
  }

  focus() {
    this.box.focus();
  }

  press(digit) {
    if (digit > 1) return false;
    this.box.checked = digit === 1;
    this.changed();
    return true;
  }
}
