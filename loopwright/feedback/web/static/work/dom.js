// Elements, made without a word of HTML: whatever text comes, it stays text.

/** h("button", {class: "quiet", onclick: f}, "Text", child): attributes that are functions listen, true ones are set. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** The one place where HTML comes in: only what the server made safe (`loopwright.feedback.web.text`). */
export function setServerHtml(element, html) {
  element.innerHTML = html;
  return element;
}

/** Whether keys that are pressed here write text, or belong to the field otherwise. */
export function isField(element) {
  if (!(element instanceof HTMLElement)) return false;
  if (element.isContentEditable || element.matches("textarea, select")) return true;
  return element.matches("input") && !element.matches("[type=checkbox], [type=radio], [type=button]");
}

/** A key as it is printed on buttons. By the style sheet: it is no part of a button's text, of which its name consists. */
export function kbd(key) {
  const signs = { Enter: "⏎", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓" };
  return h("kbd", { "aria-hidden": "true", "data-key": signs[key] ?? key });
}

export const letter = (place) => String.fromCharCode(65 + place);

/** 128 random bits: what is sent twice under one such name counts once. */
export function newUid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const timeOfDay = (date) => date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
