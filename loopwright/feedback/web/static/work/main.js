// A labeler's day: tasks come, answers go, nothing is lost on the way.

import { NotNow, actAs, call } from "./api.js";
import { Clock } from "./clock.js";
import { isField, newUid } from "./dom.js";
import { digitOf, Keys } from "./keys.js";
import { Outbox } from "./outbox.js";
import { Panels } from "./panels.js";
import { Progress, Saved, Undo, byId, label } from "./status.js";
import { Screen } from "./screen.js";

const HELD = 2; // the task on the screen, and the next one
const LOOK_AGAIN_MS = 30_000; // when there was nothing to do
const RUNS_OUT_MS = 10 * 60_000; // a task that is kept for less longer is kept anew when it is shown
const KEEP_MS = 4 * 60_000; // a task that is worked on without a change is kept this often

class Work {
  constructor(start) {
    Object.assign(this, { project: start.project, preferences: start.preferences, current: null, next: [], sent: new Map() });
    actAs(start.account);
    this.keys = new Keys(start.preferences.keys);
    this.clock = new Clock();
    this.saved = new Saved();
    this.progress = new Progress(start.project.id);
    this.undo = new Undo(start.undo_seconds, this);
    this.panels = new Panels(this);
    this.screen = new Screen(start.form, this);
    this.outbox = new Outbox(start.account, {
      done: (sent, reply) => this.#done(sent, reply),
      refused: (sent, error) => this.#refused(sent, error),
      changed: (outbox) => this.saved.show(outbox),
    });
  }

  begin() {
    document.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("click", (event) => {
      const action = event.target.closest("[data-do]")?.dataset.do;
      if (action) this.do(action);
    });
    byId("look").addEventListener("click", () => this.refill());
    setInterval(() => this.clock.running && this.current && this.keep(), KEEP_MS);
    setInterval(() => !this.current && !this.panels.open && this.refill(), LOOK_AGAIN_MS);
    this.outbox.send();
    this.progress.load();
    this.refill();
  }

  // -- tasks come -----------------------------------------------------------------------------------------------------

  /** Fetch what is missing; show the first where nothing is shown. */
  async refill() {
    if (this.refilling) {
      this.refillAgain = true;
      return;
    }
    this.refilling = true;
    try {
      const found = await call("POST", `/api/v1/projects/${this.project.id}/tasks`, { tasks: HELD, html: true });
      if (found.new_guideline !== null) await this.panels.guideline({ mustRead: true });
      const known = [this.current, this.current?.past?.back, ...this.next].filter(Boolean);
      const here = new Set(known.map((task) => task.ticket));
      for (const task of found.tasks) task.until = Date.now() + 1000 * task.seconds_left;
      const fresh = found.tasks.filter((task) => !here.has(task.ticket) && !this.outbox.settles(task.ticket));
      const begun = (task) => Number(Boolean(this.outbox.draftOf(task.ticket) ?? task.draft));
      this.next.push(...fresh.sort((one, other) => begun(other) - begun(one))); // after a reload: on with what was begun
      if (!this.current && found.new_guideline === null) this.advance();
    } catch (error) {
      if (error instanceof NotNow) this.saved.failed(error);
      else {
        this.say(error.message, { loud: true });
        if (!this.current) this.screen.nothing(false);
      }
    } finally {
      this.refilling = false;
    }
    if (this.refillAgain) {
      this.refillAgain = false;
      this.refill();
    }
  }

  /** The next task, at once: it is there already. */
  advance() {
    this.next = this.next.filter((task) => task.draft || task.until > Date.now()); // what ran out may be another's
    const task = this.next.shift();
    this.current = null;
    if (task) this.show(task);
    else this.screen.nothing(this.outbox.waiting.length > 0);
  }

  /** Put a task on the screen, as far as it was answered. */
  show(task) {
    this.current = task;
    const draft = this.outbox.draftOf(task.ticket) ?? task.draft ?? {};
    const { screen = {}, ...answer } = draft;
    this.clock.start(screen.seconds ?? 0);
    this.screen.show(task, answer);
    if (task.until - Date.now() < RUNS_OUT_MS) this.keep();
  }

  // -- answers go -----------------------------------------------------------------------------------------------------

  /** Keep what is on the screen. */
  keep() {
    const task = this.current;
    const draft = { ...this.screen.draft(), screen: { seconds: this.clock.seconds() } };
    task.draft = draft;
    this.outbox.add({
      type: "draft", ticket: task.ticket, method: "PUT", path: `/api/v1/tasks/${task.ticket}/draft`, body: { draft },
    });
  }

  submit() {
    if (!this.current) return;
    const reason = this.screen.form.skips;
    if (reason) {
      this.skip(reason, null);
      return;
    }
    const answer = this.screen.answer();
    if (!answer) return;
    const task = this.current;
    const uid = newUid();
    const seconds = this.clock.seconds();
    this.sent.set(uid, { task, answer, seconds });
    this.outbox.add({
      type: "label", uid, ticket: task.ticket, method: "POST", path: `/api/v1/tasks/${task.ticket}/label`,
      body: { uid, answer, seconds },
    });
    if (!task.past) this.progress.add(seconds);
    this.undo.offer(uid, task.past ? "Changed." : "Submitted.");
    this.#leave();
  }

  skip(reason, note) {
    const { ticket, past } = this.current;
    if (past) {
      this.say("This task is answered; change the answer, or go back with the right arrow.", { loud: true });
      return;
    }
    const uid = newUid();
    const draft = { ...this.screen.draft(), screen: { seconds: this.clock.seconds() } };
    this.sent.set(uid, { task: this.current, draft });
    this.outbox.add({
      type: "skip", uid, ticket, method: "POST", path: `/api/v1/tasks/${ticket}/skip`, body: { uid, reason, note },
    });
    this.undo.offer(uid, "Skipped.");
    this.say("Skipped.");
    this.#leave();
  }

  flag(note) {
    const { ticket } = this.current;
    const uid = newUid();
    this.outbox.add({
      type: "flag", uid, ticket, method: "POST", path: `/api/v1/tasks/${ticket}/flag`, body: { uid, note },
    });
    this.say("Reported. The task is still yours.", { loud: true });
  }

  /** Take the last answer or skip back: its task comes again, as it was. */
  takeBack() {
    const last = this.undo.take();
    if (!last) return;
    const { task, answer, seconds, draft } = this.sent.get(last);
    const { ticket } = task;
    const uid = newUid();
    const path = answer ? `/api/v1/labels/${last}/undo` : `/api/v1/tasks/${ticket}/skip/undo`;
    this.outbox.add({ type: "undo", uid, ticket, method: "POST", path, body: { uid } });
    if (answer) this.progress.add(-seconds);
    this.#comeBack({ ...task, past: null }, draft ?? { ...answer, screen: { seconds } });
    this.say("Taken back.");
  }

  /** On to what comes next, and fetch what comes after it. */
  #leave() {
    const back = this.current.past?.back;
    if (back) this.next.unshift(back);
    this.advance();
  }

  #comeBack(task, draft) {
    if (this.current) {
      if (!this.current.past) this.next.unshift(this.current);
      else if (this.current.past.back) this.next.unshift(this.current.past.back);
    }
    this.show({ ...task, draft });
  }

  #done(sent, reply) {
    if (sent.type === "label" && reply.late) {
      this.say("Kept, but the task had run out and others answered it: this answer does not count.", { loud: true });
    }
    if (sent.type === "draft" && reply.seconds_left <= 0 && sent.ticket === this.current?.ticket && !this.current.lost) {
      this.current.lost = true;
      this.say("This task had run out, and others have it now: an answer may not count.", { loud: true });
    }
    if (sent.type !== "draft" && sent.type !== "flag") this.refill();
  }

  /** The server says no: what was sent comes back to the screen, with the reason. */
  #refused(sent, error) {
    if (sent.type === "undo" || sent.type === "draft") {
      this.say(sent.type === "undo" ? error.message : `Not saved: ${error.message}`, { loud: true });
      return;
    }
    const before = this.sent.get(sent.uid);
    if (sent.type === "label" && before) {
      this.undo.away();
      if (!before.task.past) this.progress.add(-before.seconds);
      this.#comeBack(before.task, { ...before.answer, screen: { seconds: before.seconds } });
    }
    this.say(`Not accepted: ${error.message}`, { loud: true });
    this.refill();
  }

  // -- earlier answers ------------------------------------------------------------------------------------------------

  /** Show an own answer again, to change it. */
  async change(past) {
    const task = await call("GET", `/api/v1/tasks/${past.ticket}`);
    const back = this.current?.past ? this.current.past.back : this.current;
    if (back) back.draft = { ...(this.current.past ? back.draft : { ...this.screen.draft(), screen: { seconds: this.clock.seconds() } }) };
    this.show({ ...task, past: { ...past, back }, draft: { ...past.answer, screen: { seconds: past.seconds ?? 0 } } });
  }

  /** Back to the open task; what was changed and not submitted is dropped. */
  leavePast() {
    const { back } = this.current.past;
    if (back) this.show(back);
    else this.advance();
  }

  async #previous() {
    const { labels } = await call("GET", `/api/v1/projects/${this.project.id}/history`);
    const shown = this.current?.past ? labels.findIndex((one) => one.ticket === this.current.past.ticket) : -1;
    const past = labels.slice(shown + 1).find((one) => !one.frozen && one.ticket);
    if (past) this.change(past);
    else this.say("There is no earlier answer to change.", { loud: true });
  }

  // -- keys and buttons -----------------------------------------------------------------------------------------------

  do(action) {
    const { panels, screen } = this;
    const anywhere = {
      guideline: () => panels.guideline(), history: () => panels.history(), keys: () => panels.showKeys(),
      undo: () => this.takeBack(), previous: () => this.#previous(), raw: () => screen.toggle("text"),
      lock: () => screen.toggle("lock"),
    };
    const atTask = {
      submit: () => this.submit(), skip: () => panels.skip(), flag: () => panels.flag(),
      next: () => this.current.past && this.leavePast(), up: () => screen.form.move(-1), down: () => screen.form.move(1),
      reason: () => screen.form.openReason(), mark: () => screen.form.mark(), edit: () => screen.form.edit(),
      diff: () => screen.toggle("diff"), blur: () => screen.toggle("blur"),
    };
    const todo = anywhere[action] ?? (this.current ? atTask[action] : null);
    Promise.resolve(todo?.()).catch((error) => this.say(error.message, { loud: true }));
  }

  #key(event) {
    if (event.defaultPrevented || event.isComposing) return;
    const field = isField(event.target);
    if (event.repeat) {
      if (!field && ["Enter", " "].includes(event.key)) event.preventDefault(); // a held key presses nothing twice
      return;
    }
    if (this.panels.open) {
      this.panels.key(event);
      return;
    }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.submit();
      return;
    }
    if (field || event.ctrlKey || event.metaKey || event.altKey) {
      if (field && event.key === "Escape") this.screen.leaveField();
      return;
    }
    this.#shortcut(event);
  }

  #shortcut(event) {
    const digit = digitOf(event);
    if (digit !== null) {
      if (this.current && this.screen.form.press(digit)) event.preventDefault();
      return;
    }
    if (event.key === "Escape" && this.current?.past) {
      this.leavePast();
      return;
    }
    const action = this.keys.action(event);
    if (!action || (event.key.startsWith("Arrow") && event.target.closest?.("[role=region]"))) return; // it scrolls there
    const pressable = event.target.closest?.("a, button, summary");
    if (event.key === "Enter" && pressable && !("choice" in pressable.dataset)) return; // it presses that
    event.preventDefault();
    this.do(action);
  }

  // -- what the rest of the page asks for -----------------------------------------------------------------------------

  /** Tell screen readers; `loud`: everybody. */
  say(sentence, options) {
    label(sentence, options);
  }

  panelClosed() {
    if (this.current) this.screen.form.focus();
  }

  /** One after another, or an older choice could arrive last. */
  savePreferences() {
    this.saving = (this.saving ?? Promise.resolve())
      .then(() => call("PUT", "/api/v1/preferences", this.preferences))
      .catch((error) => this.say(`Not saved: ${error.message}`, { loud: true }));
  }
}

new Work(JSON.parse(byId("work").dataset.start)).begin();
