// Where in a text something is: in code points of the raw text, as the store counts, from and to places in the page.
//
// Three counts differ. JavaScript counts UTF-16 units: an emoji is two. The page shows a run of hidden characters as one
// <mark data-characters="N">, and never shows the CR of a CR LF. The store counts what was written, one a code point.

/** The parts of an element that stand for characters, in order: text nodes, and marks, which have no inside. */
export function parts(root) {
  const found = [];
  let seen = 0;
  const walk = (node) => {
    for (const child of node.childNodes) {
      const isMark = child instanceof HTMLElement && child.dataset.characters !== undefined;
      if (isMark || child.nodeType === Node.TEXT_NODE) {
        const count = isMark ? Number(child.dataset.characters) : length(child.data);
        found.push({ node: child, isMark, start: seen, end: seen + count });
        seen += count;
      } else walk(child);
    }
  };
  walk(root);
  return found;
}

/** How many code points a string has. */
export function length(text) {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}

/** The part of a string from one code point to another. */
export const slice = (text, start, end) => [...text].slice(start, end).join("");

/** Between what the page shows of a text and the text: the CR of each CR LF is not shown. */
export class Shown {
  constructor(raw) {
    const characters = [...raw];
    this.toRaw = []; // shown place -> raw place
    this.toShown = []; // raw place -> shown place
    characters.forEach((character, place) => {
      this.toShown.push(this.toRaw.length);
      if (character !== "\r" || characters[place + 1] !== "\n") this.toRaw.push(place);
    });
    this.toShown.push(this.toRaw.length);
    this.toRaw.push(characters.length);
  }

  /** {start, end} in the raw text of a range in the page; null: it holds no character of the text. */
  rawOf(root, range) {
    const start = shownPlace(root, range.startContainer, range.startOffset, "start");
    const end = shownPlace(root, range.endContainer, range.endOffset, "end");
    if (start >= end) return null;
    return { start: this.toRaw[start], end: this.toRaw[end - 1] + 1 };
  }
}

/** The shown place of a boundary in the page. Within a character or a mark: all of it belongs to the range. */
function shownPlace(root, container, offset, side) {
  const all = parts(root);
  const own = all.find((part) => !part.isMark && part.node === container);
  if (own) {
    const before = container.data.slice(0, offset);
    const half = offset > 0 && offset < container.data.length && isLow(container.data.charCodeAt(offset));
    return own.start + length(before) - (half && side === "start" ? 1 : 0);
  }
  const mark = all.find((part) => part.isMark && part.node.contains(container));
  if (mark) return side === "start" ? mark.start : mark.end;
  const point = document.createRange();
  point.setStart(container, offset);
  const after = all.find((part) => point.comparePoint(part.node.parentNode, indexOf(part.node)) >= 0);
  return after ? after.start : (all.at(-1)?.end ?? 0);
}

const isLow = (unit) => unit >= 0xdc00 && unit <= 0xdfff;
const indexOf = (node) => Array.prototype.indexOf.call(node.parentNode.childNodes, node);

/** Cut the text nodes of an element at these shown places, so that each lies between two of them. */
export function cutAt(root, places) {
  for (const place of [...new Set(places)].sort((one, other) => one - other)) {
    const part = parts(root).find((one) => !one.isMark && one.start < place && place < one.end);
    if (part) part.node.splitText([...part.node.data].slice(0, place - part.start).join("").length);
  }
}

/** Put the caret, or a selection, at shown places. */
export function select(root, start, end = start) {
  const range = document.createRange();
  setBoundary(range, root, start, "setStart");
  setBoundary(range, root, end, "setEnd");
  const selection = document.getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
}

function setBoundary(range, root, place, set) {
  const part = parts(root).find((one) => place <= one.end);
  if (!part) range[set](root, 0);
  else if (part.isMark) range[set](part.node.parentNode, indexOf(part.node) + (place > part.start ? 1 : 0));
  else range[set](part.node, [...part.node.data].slice(0, place - part.start).join("").length);
}
