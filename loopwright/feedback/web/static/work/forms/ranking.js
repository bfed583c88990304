// Answers in order: each gets a rank from 1, the best; equal ones are ties.

import { Row } from "../choices.js";
import { letter } from "../dom.js";
import { Form, Missing } from "../form.js";

export class RankingForm extends Form {
  usualQuestion = "Rank the answers: 1 is the best, equal ranks are ties.";

  constructor(...given) {
    super(...given);
    const places = this.task.answers.map((_, place) => place);
    this.orders = [
      { name: null, rows: places.map((place) => this.#row(place, this.project.criteria.length ? "overall" : "Rank", null)) },
      ...this.project.criteria.map((criterion) => ({
        name: criterion.name,
        rows: places.map((place) => this.#row(place, criterion.name, criterion)),
      })),
    ];
    for (const { rows } of this.orders) {
      this.rows.push(...rows);
      rows.forEach((row, place) => this.texts.panes[place].slot.append(row.element));
    }
  }

  check() {
    for (const { name, rows } of this.orders) {
      const open = rows.find((row) => !row.answered);
      const begun = rows.some((row) => row.answered);
      if (open && (name === null || begun)) {
        const missing = letter(rows.indexOf(open));
        throw new Missing(`Answer ${missing} has no rank${name ? ` by ${name}` : ""} yet.`, () => open.focus());
      }
    }
  }

  partial() {
    const whole = ({ rows }) => rows.map((row) => row.value ?? null);
    const [overall, ...criteria] = this.orders;
    const begun = criteria.filter(({ rows }) => rows.some((row) => row.answered));
    return {
      ...(overall.rows.some((row) => row.answered) ? { ranks: whole(overall) } : {}),
      ...(begun.length ? { criteria: Object.fromEntries(begun.map((one) => [one.name, whole(one)])) } : {}),
    };
  }

  fill(draft) {
    for (const { name, rows } of this.orders) {
      const ranks = name === null ? draft.ranks : draft.criteria?.[name];
      rows.forEach((row, place) => row.restore(ranks?.[place] ?? undefined));
    }
  }

  #row(place, title, criterion) {
    const ranks = this.task.answers.map((_, rank) => rank + 1);
    const what = criterion ? ` by ${criterion.name}` : "";
    const options = ranks.map((rank) => ({
      value: rank, label: "", key: String(rank), name: `Answer ${letter(place)}: rank ${rank}${what}`,
      definition: criterion?.definition ?? "1 is the best; equal ranks are ties.",
    }));
    const row = new Row({
      title, options, className: "rank", required: criterion === null,
      describe: (text) => this.screen.describe(text.replace(/^: /, "")),
      changed: () => {
        this.screen.changed();
        this.#advance(row);
      },
    });
    return row;
  }

  /** To the next answer without a rank in the same order. */
  #advance(row) {
    const order = this.orders.find(({ rows }) => rows.includes(row)).rows;
    const open = order.slice(order.indexOf(row) + 1).find((one) => !one.answered) ?? order.find((one) => !one.answered);
    (open ?? row).focus();
  }
}
