"""What crowd-kit's Dawid and Skene says of a table of votes, for tests/feedback/statistics/test_reliability.py.

    pip install crowd-kit==1.4.2        (775 MB; in an environment of its own)
    python benchmarks/golden_crowd_kit.py

Draws votes with gaps, each on an item that another person judged, too, and writes them and what crowd-kit makes of
them to tests/golden/crowd_kit.json: the prior and the confusion matrices after a number of iterations.
"""

import json
import random
from pathlib import Path

import pandas as pd
from crowdkit.aggregation.classification.dawid_skene import DawidSkene

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "crowd_kit.json"
PEOPLE, ITEMS, KINDS, ITERATIONS = 4, 40, 3, 9
RIGHT = (0.9, 0.8, 0.6, 0.4)  # how often each is


def main() -> None:
    rng = random.Random(0)
    votes = [(item, who, value) for item in range(ITEMS) for who, value in drawn(rng)]
    model = DawidSkene(n_iter=ITERATIONS, tol=float("-inf")).fit(
        pd.DataFrame(votes, columns=["task", "worker", "label"])
    )
    confusion = [
        [[float(model.errors_.loc[(who, said), truth]) for said in range(KINDS)] for truth in range(KINDS)]
        for who in range(PEOPLE)
    ]
    prior = [float(model.priors_[kind]) for kind in range(KINDS)]
    found = {"crowd-kit": "1.4.2", "iterations": ITERATIONS, "votes": votes, "prior": prior, "confusion": confusion}
    GOLDEN.write_text(json.dumps(found) + "\n")


def drawn(rng: random.Random) -> list[tuple[int, int]]:
    """(annotator, vote) of two to four people on an item."""
    truth, people = rng.randrange(KINDS), rng.sample(range(PEOPLE), rng.randint(2, PEOPLE))
    wrong = [kind for kind in range(KINDS) if kind != truth]
    return [(who, truth if rng.random() < RIGHT[who] else rng.choice(wrong)) for who in people]


if __name__ == "__main__":
    main()
