// A question and the buttons that answer it. Digits press the buttons of the row that has the focus.

import { h, kbd } from "./dom.js";

let rows = 0;

export class Row {
  /**
   * options: [{value, label, name, definition, side, key}]: `name` is the whole sentence for who does not see the row.
   * title: the question; definition: what it means. required: an answer cannot be taken away again.
   */
  constructor({ title, definition = "", options, changed, describe, required = true, className = "" }) {
    this.options = options;
    this.chosen = -1;
    this.changed = changed;
    this.describe = describe;
    this.required = required;
    rows += 1;
    const id = `row-${rows}`;
    this.buttons = options.map((option, place) => this.#button(option, place, `${id}-${place}`));
    const about = definition ? h("span", { class: "about" }, definition) : null;
    this.element = h(
      "div",
      { class: `row ${className}`, role: "group", "aria-labelledby": id, tabindex: "-1" },
      h("p", { class: "asked", id }, h("span", { class: "title" }, title), about),
      h("div", { class: "options" }, ...this.#sides()),
      ...options.map((option, place) => h("span", { hidden: true, id: `${id}-${place}` }, option.definition ?? "")),
    );
  }

  get value() {
    return this.chosen < 0 ? undefined : this.options[this.chosen].value;
  }

  get answered() {
    return this.chosen >= 0;
  }

  /** Show a value that was kept. */
  restore(value) {
    this.#mark(this.options.findIndex((option) => JSON.stringify(option.value) === JSON.stringify(value)));
  }

  /** Press the button with this digit. Whether there is one. */
  press(digit) {
    const place = this.options.findIndex((option) => option.key === String(digit));
    if (place < 0) return false;
    this.#choose(place);
    return true;
  }

  has(element) {
    return this.element.contains(element);
  }

  /** To what is chosen. Where nothing is, to the row itself: a first button in a frame looks like a proposal. */
  focus() {
    (this.answered ? this.buttons[this.chosen] : this.element).focus();
  }

  #button(option, place, definition) {
    const explain = () => this.#explain(option);
    return h(
      "button",
      {
        type: "button", class: `choice ${option.className ?? ""}`, "data-choice": true, "aria-pressed": "false",
        "aria-label": option.name ?? option.label, "aria-describedby": option.definition ? definition : false,
        "aria-keyshortcuts": option.key ?? false,
        onclick: () => this.#choose(place), onfocus: explain, onpointerenter: explain, onpointerleave: () => this.#explain(this.options[this.chosen]),
      },
      option.key === undefined ? null : kbd(option.key),
      h("span", { class: "label" }, option.label),
    );
  }

  /** The buttons, those of one side (A, B) together under its name. */
  #sides() {
    const sides = [...new Set(this.options.map((option) => option.side ?? ""))];
    return sides.map((side) =>
      h(
        "div",
        { class: `side ${side ? "named" : ""}` },
        side ? h("span", { class: "side-name", "aria-hidden": "true" }, side) : null,
        h("div", { class: "buttons" }, ...this.buttons.filter((_, place) => (this.options[place].side ?? "") === side)),
      ),
    );
  }

  #choose(place) {
    const again = place === this.chosen;
    if (again && this.required) {
      this.changed(this, { again });
      return;
    }
    this.#mark(again ? -1 : place);
    this.#explain(this.options[this.chosen]);
    this.changed(this, { again: false });
  }

  #explain(option) {
    this.describe(option?.definition ? `${option.label}: ${option.definition}` : "");
  }

  #mark(place) {
    this.chosen = place;
    this.buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === place)));
    this.element.classList.toggle("answered", place >= 0);
  }
}

/** A question with any number of answers: buttons that stay pressed, and digits that press them. */
export class Several {
  /** options: texts. */
  constructor({ title, options, changed }) {
    Object.assign(this, { options, changed, required: false });
    rows += 1;
    const id = `row-${rows}`;
    this.buttons = options.map((text, place) => {
      const key = place < 9 ? String(place + 1) : undefined;
      return h(
        "button",
        {
          type: "button", class: "choice", "data-choice": true, "aria-pressed": "false", "aria-keyshortcuts": key ?? false,
          onclick: () => this.#turn(place),
        },
        key === undefined ? null : kbd(key),
        h("span", { class: "label", dir: "auto" }, text),
      );
    });
    this.element = h(
      "div",
      { class: "row several", role: "group", "aria-labelledby": id, tabindex: "-1" },
      h("p", { class: "asked", id }, h("span", { class: "title" }, title)),
      h("div", { class: "options" }, h("div", { class: "buttons" }, ...this.buttons)),
    );
  }

  get value() {
    return this.options.filter((_, place) => this.buttons[place].getAttribute("aria-pressed") === "true");
  }

  get answered() {
    return this.value.length > 0;
  }

  restore(texts) {
    this.options.forEach((text, place) => this.#mark(place, texts.includes(text)));
  }

  press(digit) {
    if (!digit || digit > this.buttons.length) return false;
    this.#turn(digit - 1);
    return true;
  }

  has(element) {
    return this.element.contains(element);
  }

  focus() {
    this.element.focus();
  }

  #turn(place) {
    this.#mark(place, this.buttons[place].getAttribute("aria-pressed") !== "true");
    this.changed();
  }

  #mark(place, pressed) {
    this.buttons[place].setAttribute("aria-pressed", String(pressed));
  }
}
