// Which key does what.

// [action, key, what it does]; Escape, which leaves fields and closes panels, and the digits, which choose, are fixed.
export const ACTIONS = [
  ["submit", "Enter", "Submit, and on to the next"],
  ["skip", "s", "Skip; then a digit says why"],
  ["flag", "f", "Report that something is the matter"],
  ["undo", "u", "Take the last answer or skip back"],
  ["previous", "ArrowLeft", "Change an earlier answer"],
  ["next", "ArrowRight", "Back towards the open task"],
  ["up", "ArrowUp", "Question before"],
  ["down", "ArrowDown", "Next question"],
  ["reason", "r", "Write a reason"],
  ["mark", "h", "Mark passages: select with Shift and arrows, then press a label's letter"],
  ["edit", "e", "Edit the better answer"],
  ["diff", "d", "Show how the answers differ"],
  ["raw", "m", "Text as it is, or rendered"],
  ["blur", "v", "Show texts that are blurred, or blur them again"],
  ["lock", "l", "Scroll both answers together"],
  ["guideline", "g", "Guideline"],
  ["history", "y", "Your last answers"],
  ["keys", "?", "This list"],
];

export class Keys {
  /** `custom`: action -> key, where it is not the usual one. */
  constructor(custom = {}) {
    this.custom = custom;
  }

  of(action) {
    return this.custom[action] ?? ACTIONS.find(([name]) => name === action)[1];
  }

  action(event) {
    const pressed = keyOf(event);
    return ACTIONS.find(([name]) => this.of(name) === pressed)?.[0] ?? null;
  }

  /** The custom keys with `key` given to `action`; who had it gets what `action` had. */
  changed(action, key) {
    const before = this.of(action);
    const custom = { ...this.custom, [action]: key };
    const other = ACTIONS.find(([name]) => name !== action && this.of(name) === key);
    if (other) custom[other[0]] = before;
    for (const [name, usual] of ACTIONS) if (custom[name] === usual) delete custom[name];
    return custom;
  }
}

/** The key's name. On keyboards without Latin letters, the letter that is printed there on one with them. */
export function keyOf(event) {
  if (event.key.length > 1 || /^[!-~]$/.test(event.key)) {
    return event.key.length > 1 ? event.key : event.key.toLowerCase();
  }
  return event.code.startsWith("Key") ? event.code.slice(3).toLowerCase() : event.key;
}

/** 0 to 9, or null. Where digits need Shift (French keyboards), without it too. */
export function digitOf(event) {
  if (/^[0-9]$/.test(event.key)) return Number(event.key);
  const place = /^(?:Digit|Numpad)([0-9])$/.exec(event.code);
  return place && !event.shiftKey ? Number(place[1]) : null;
}

/** What may be a key of an action; the server takes the same. */
export const isUsable = (key) => /^([!-/:-@[-~]|Enter|Arrow(Up|Down|Left|Right)|Page(Up|Down)|Home|End|F\d{1,2})$/.test(key);
