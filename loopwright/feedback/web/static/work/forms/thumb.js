// Good or bad.

import { Row } from "../choices.js";
import { Form, Missing } from "../form.js";

export class ThumbForm extends Form {
  usualQuestion = "Is this a good answer?";

  constructor(...given) {
    super(...given);
    this.thumb = new Row({
      title: this.question, className: "thumbs", describe: this.screen.describe, changed: () => this.screen.changed(),
      options: [
        { value: true, label: "good", key: "1", definition: "You would be glad to get it." },
        { value: false, label: "bad", key: "2", definition: "It should not have been given." },
      ],
    });
    this.add(this.thumb);
  }

  check() {
    if (!this.thumb.answered) throw new Missing("Choose first: 1 good, 2 bad.", () => this.thumb.focus());
  }

  partial() {
    return this.thumb.answered ? { good: this.thumb.value } : {};
  }

  fill(draft) {
    this.thumb.restore(draft.good);
  }
}
