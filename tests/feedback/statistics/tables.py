"""Random tables of votes with gaps."""

import numpy as np

from loopwright.feedback.statistics.votes import Votes


def random_table(seed, *, items=12, people=4, values=(1, 2, 3), missing=0.3):
    """{(item, annotator): value}; people follow the item's true value more or less."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(values, items)
    return {
        (i, f"p{a}"): int(truth[i] if rng.random() < 0.3 + 0.1 * a else rng.choice(values))
        for i in range(items)
        for a in range(people)
        if rng.random() >= missing
    }


def votes_of(table) -> Votes:
    return Votes.of((item, annotator, value) for (item, annotator), value in table.items())


def of_units(units) -> Votes:
    """Votes from the values each item was given, whoever gave them; None is a gap."""
    return Votes.of(
        (item, person, value)
        for item, unit in enumerate(units)
        for person, value in enumerate(unit)
        if value is not None
    )
