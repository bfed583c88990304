// What is judged: the conversation so far, and the answers side by side.

import { call } from "./api.js";
import { h, letter, setServerHtml } from "./dom.js";

const ROLES = { system: "Instructions", user: "Person", assistant: "Assistant" };

export class Texts {
  /** view: {text: "rendered" | "raw", lock: bool}, which outlives the task. blurred: until they are asked for. */
  constructor(task, view, blurred) {
    this.task = task;
    this.view = view;
    this.all = []; // elements
    this.difference = null;
    this.showsDifference = false;
    this.shown = []; // [element, html]
    this.panes = task.html.answers.map((html, place) => this.#pane(html, place));
    this.context = this.#context();
    this.element = h(
      "div",
      { class: `panes many-${this.panes.length}` },
      ...this.panes.map((pane) => pane.element),
    );
    this.refresh();
    this.blur(blurred);
  }

  /** Blur the texts, or show them. Screen readers, the keyboard and the browser's search do not come to blurred ones. */
  blur(on) {
    this.blurred = on;
    for (const element of this.all) element.inert = on;
  }

  /** Show the texts as `view` says. */
  refresh() {
    const raw = this.view.text === "raw";
    for (const [element, html] of this.shown) {
      setServerHtml(element, raw ? html.raw : html.rendered);
      element.classList.toggle("raw", raw);
    }
    if (this.showsDifference && this.difference) this.#showDifference();
  }

  get canDiffer() {
    return this.panes.length === 2;
  }

  async toggleDifference() {
    this.showsDifference = !this.showsDifference && this.canDiffer;
    if (this.showsDifference && !this.difference) {
      this.difference = await call("GET", `/api/v1/tasks/${this.task.ticket}/difference?first=0&second=1`);
    }
    this.refresh();
  }

  #showDifference() {
    [this.difference.first, this.difference.second].forEach((html, place) => {
      setServerHtml(this.panes[place].text, html).classList.add("raw");
    });
  }

  #context() {
    const messages = this.task.prompt.map((message, place) => {
      const text = h("div", { class: "text", dir: "auto" });
      this.shown.push([text, this.task.html.prompt[place]]);
      this.all.push(text);
      return h(
        "article",
        { class: `message ${message.role}` },
        h("h2", { class: "role" }, ROLES[message.role]),
        text,
      );
    });
    if (!messages.length) return h("div", { hidden: true });
    const last = messages.pop();
    const earlier = messages.length ? scrolling("Conversation before", "earlier", ...messages) : null;
    const context = h(
      "section",
      { class: "context", "aria-label": "Conversation" },
      earlier,
      scrolling("What is answered", "latest", last),
    );
    if (earlier) requestAnimationFrame(() => (earlier.scrollTop = earlier.scrollHeight));
    return context;
  }

  #pane(html, place) {
    const alone = this.task.answers.length === 1;
    const name = alone ? "Answer" : `Answer ${letter(place)}`;
    const text = h("div", { class: "text", dir: "auto" });
    const body = scrolling(name, "body", text);
    const head = h(
      "header",
      {},
      alone ? null : h("span", { class: "badge", "aria-hidden": "true" }, letter(place)),
      h("h2", {}, name),
      h("div", { class: "slot" }),
    );
    body.addEventListener("scroll", () => this.#scrollTogether(body), { passive: true });
    this.shown.push([text, html]);
    this.all.push(text);
    const element = h("article", { class: "pane", "data-answer": letter(place) }, head, body);
    return { element, text, body, slot: head.lastChild };
  }

  #scrollTogether(from) {
    if (!this.view.lock || from.follows) {
      from.follows = false;
      return;
    }
    const share = from.scrollTop / Math.max(from.scrollHeight - from.clientHeight, 1);
    for (const { body } of this.panes) {
      const target = Math.round(share * (body.scrollHeight - body.clientHeight));
      if (body === from || Math.abs(body.scrollTop - target) < 1) continue;
      body.follows = true; // its own scroll event moves nothing
      body.scrollTop = target;
    }
  }
}

/** A part of the page that scrolls by itself: the keyboard can go there. */
function scrolling(name, className, ...children) {
  return h("div", { class: className, tabindex: "0", role: "region", "aria-label": name }, ...children);
}
