// Passages of an answer, and what is the matter with them (Wu et al. 2023): selected with the mouse or the keyboard.

import { Row } from "../choices.js";
import { h, kbd, setServerHtml } from "../dom.js";
import { Form, Missing } from "../form.js";
import { keyOf } from "../keys.js";
import { Shown, cutAt, parts, select, slice } from "../places.js";

const QUOTED = 80; // characters of a passage in the list
const STYLES = 6; // of underlines; labels beyond take them again

export class SpansForm extends Form {
  usualQuestion = "Mark what is the matter with the answer.";

  constructor(...given) {
    super(...given);
    this.raw = this.task.answers[0];
    this.places = new Shown(this.raw);
    this.spans = [];
    this.selected = null; // {start, end} in the raw text
    this.text = this.#markable();
    this.labels = this.project.span_labels.map((label, place) => this.#label(label, place));
    this.list = h("ol", { class: "found-list", "aria-label": "Marked passages" });
    this.none = new Row({
      title: "Or", describe: this.screen.describe, className: "none", required: false,
      options: [{ value: true, label: "nothing is wrong", key: "0" }],
      changed: () => this.screen.changed(),
    });
    const help = h("p", { class: "help" }, "Select text, then press a label's letter. By keyboard: ", kbd(this.screen.keyOf("mark")),
      " goes to the text, the arrows move in it, with Shift they select.");
    this.below.append(
      h("h2", { class: "question" }, this.question), help,
      h("div", { class: "labels", role: "group", "aria-label": "Labels" }, ...this.labels), this.list,
    );
    this.add(this.none);
    this.#draw();
  }

  get beside() {
    return true;
  }

  focus() {
    this.labels[0].focus();
  }

  mark() {
    const at = this.selected ? this.places.toShown[this.selected.start] : 0;
    this.text.focus();
    select(this.text, at, this.selected ? this.places.toShown[this.selected.end] : at);
  }

  check() {
    if (!this.spans.length && !this.none.answered) {
      throw new Missing("Mark a passage, or say that nothing is wrong (0).", () => this.focus());
    }
  }

  partial() {
    return this.spans.length || this.none.answered ? { spans: this.spans } : {};
  }

  fill(draft) {
    const fits = ({ start, end, label }) =>
      0 <= start && start < end && end < this.places.toShown.length && this.project.span_labels.includes(label);
    this.spans = (draft.spans ?? []).filter(fits);
    if (draft.spans && !this.spans.length) this.none.restore(true);
    this.#draw();
  }

  /** The raw text, in which there is a caret but nothing can be changed. */
  #markable() {
    const pane = this.texts.panes[0];
    this.texts.shown = this.texts.shown.filter(([element]) => element !== pane.text); // it is never rendered
    const text = pane.text;
    text.classList.add("raw", "markable");
    for (const [name, value] of Object.entries({
      contenteditable: "true", role: "textbox", "aria-readonly": "true", "aria-multiline": "true", spellcheck: "false",
      "aria-label": "The answer, to mark passages in",
    })) text.setAttribute(name, value);
    text.addEventListener("beforeinput", (event) => event.preventDefault());
    text.addEventListener("dragstart", (event) => event.preventDefault());
    text.addEventListener("compositionend", () => this.#draw());
    text.addEventListener("keydown", (event) => this.#key(event));
    this.listener = () => this.#selectionChanged();
    document.addEventListener("selectionchange", this.listener);
    return text;
  }

  leave() {
    document.removeEventListener("selectionchange", this.listener);
  }

  #selectionChanged() {
    const selection = document.getSelection();
    if (!selection.rangeCount || !this.text.contains(selection.anchorNode)) return;
    this.selected = this.places.rawOf(this.text, selection.getRangeAt(0));
    for (const button of this.labels) button.classList.toggle("ready", this.selected !== null);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const place = keyOf(event).length === 1 ? keyOf(event).charCodeAt(0) - 97 : -1;
    if (place < 0 || place >= this.labels.length) return;
    event.preventDefault();
    this.#add(this.project.span_labels[place]);
  }

  #label(label, place) {
    const key = String.fromCharCode(97 + place);
    return h(
      "button",
      {
        type: "button", class: `choice style-${place % STYLES}`, "data-choice": true, "aria-keyshortcuts": key,
        onpointerdown: (event) => event.preventDefault(), // which would take the selection away
        onclick: () => this.#add(label),
      },
      kbd(key),
      h("span", { class: "label" }, label),
    );
  }

  #add(label) {
    this.#selectionChanged(); // its event comes later than the key
    if (!this.selected) {
      this.screen.say("Select a passage first.", { loud: true });
      return;
    }
    const { start, end } = this.selected;
    const same = (span) => span.start === start && span.end === end && span.label === label;
    if (!this.spans.some(same)) this.spans.push({ start, end, label });
    this.spans.sort((one, other) => one.start - other.start || one.end - other.end);
    this.none.restore(undefined);
    this.#draw();
    if (document.activeElement === this.text) select(this.text, this.places.toShown[end]);
    this.screen.say(`Marked as ${label}: ${quote(this.raw, start, end)}`);
    this.screen.changed();
  }

  #remove(span) {
    const place = this.spans.indexOf(span);
    this.spans.splice(place, 1);
    this.#draw();
    (this.list.querySelectorAll("button")[Math.min(place, this.spans.length - 1)] ?? this.labels[0]).focus();
    this.screen.changed();
  }

  #draw() {
    setServerHtml(this.text, this.task.html.answers[0].raw);
    const shown = this.spans.map((span) => ({
      ...span, start: this.places.toShown[span.start], end: this.places.toShown[span.end],
      style: this.project.span_labels.indexOf(span.label),
    }));
    cutAt(this.text, shown.flatMap(({ start, end }) => [start, end]));
    for (const part of parts(this.text)) {
      if (part.isMark) part.node.setAttribute("contenteditable", "false");
      const over = shown.filter((span) => span.start <= part.start && part.end <= span.end && part.end > part.start);
      if (over.length) underline(part, over);
    }
    this.list.replaceChildren(...this.spans.map((span) => this.#listed(span)));
  }

  #listed(span) {
    const place = this.project.span_labels.indexOf(span.label);
    const passage = quote(this.raw, span.start, span.end);
    return h(
      "li",
      {},
      h("span", { class: `tag style-${place % STYLES}` }, span.label),
      h("q", { dir: "auto" }, passage),
      h("button", { type: "button", class: "quiet", "aria-label": `Remove ${span.label}: ${passage}`, onclick: () => this.#remove(span) }, "Remove"),
    );
  }
}

function underline(part, over) {
  const ends = over.filter((span) => span.end === part.end);
  const names = ends.map((span) => String.fromCharCode(97 + span.style)).join(" ");
  const wrapper = h("span", { class: `found style-${over.at(-1).style % STYLES}`, ...(names ? { "data-names": names } : {}) });
  part.node.replaceWith(wrapper);
  wrapper.append(part.node);
}

function quote(raw, start, end) {
  const passage = slice(raw, start, Math.min(end, start + QUOTED));
  return end - start > QUOTED ? `${passage}…` : passage;
}
