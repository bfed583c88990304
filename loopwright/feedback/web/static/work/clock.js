// Time on task. Only time at the task counts: not while the page is hidden, and between two signs of life (a key, the
// pointer, scrolling) at most a minute, so that who goes for a coffee is not slow.

export const IDLE_SECONDS = 60;

const SIGNS = ["keydown", "input", "pointerdown", "pointermove", "wheel", "scroll", "touchmove"];

export class Clock {
  constructor() {
    this.total = 0;
    this.last = null; // of the signs of life, in milliseconds; null: hidden
    for (const sign of SIGNS) document.addEventListener(sign, () => this.#alive(), { capture: true, passive: true });
    document.addEventListener("visibilitychange", () => {
      this.#alive();
      if (document.hidden) this.last = null;
    });
  }

  /** Begin a task; or go on with one that took `seconds` before. */
  start(seconds = 0) {
    this.total = seconds;
    this.last = document.hidden ? null : Date.now();
  }

  seconds() {
    return this.total + this.#since();
  }

  /** Whether somebody is there. */
  get running() {
    return this.last !== null && Date.now() - this.last < IDLE_SECONDS * 1000;
  }

  #since() {
    if (this.last === null) return 0;
    return Math.min(Math.max(Date.now() - this.last, 0) / 1000, IDLE_SECONDS);
  }

  #alive() {
    this.total += this.#since();
    this.last = Date.now();
  }
}
