"""How long the figures behind the dashboard of feedback take.

    OMP_NUM_THREADS=1 python benchmarks/feedback_statistics.py [--items 1000000] [--votes 3]

Simulates people who judge as many items, so many of them each, and prints the seconds of each figure, by the clock and
of the processor (they differ where other processes run); last, one JSON line. `agreement_seconds` is the sum of what
says how far people agree, building the table included.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from loopwright.feedback.statistics.adjudication import to_adjudicate
from loopwright.feedback.statistics.agreement import cohen_kappas, fleiss_kappa, krippendorff_alpha, percent_agreement
from loopwright.feedback.statistics.estimates import estimate_share
from loopwright.feedback.statistics.pulls import pull
from loopwright.feedback.statistics.reliability import dawid_skene
from loopwright.feedback.statistics.selection import active_lift
from loopwright.feedback.statistics.votes import Votes
from loopwright.feedback.statistics.work import labels_per_period, time_on_task

KINDS = 8  # the buttons of a comparison
ENOUGH_IN_COMMON = 20
SECONDS_OF_A_MONTH = 30 * 86_400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--votes", type=int, default=3, help="people who judge each item")
    parser.add_argument("--annotators", type=int, default=200)
    arguments = parser.parse_args()
    columns = simulate(arguments.items, arguments.votes, arguments.annotators)
    seconds: dict[str, float] = {}
    cpu_seconds: dict[str, float] = {}

    def timed(name: str, figure: Callable[[], Any]) -> Any:
        start, cpu_start = time.perf_counter(), time.process_time()
        found = figure()
        seconds[name] = round(time.perf_counter() - start, 3)
        cpu_seconds[name] = round(time.process_time() - cpu_start, 3)
        print(f"{name:<34}{seconds[name]:>9.3f}{cpu_seconds[name]:>9.3f}")
        return found

    print(f"{'seconds':<34}{'clock':>9}{'CPU':>9}")
    votes = timed("votes from arrays", lambda: Votes.of_arrays(*columns))
    for level in ("nominal", "ordinal", "interval"):
        timed(f"alpha, {level}", lambda level=level: krippendorff_alpha(votes, level))
    kappas = timed("Cohen's kappas", lambda: cohen_kappas(votes, at_least=ENOUGH_IN_COMMON))
    timed("Fleiss' kappa", lambda: fleiss_kappa(votes))
    timed("percent agreement", lambda: percent_agreement(votes))
    together = round(sum(seconds.values()), 3), round(sum(cpu_seconds.values()), 3)
    model = timed("Dawid-Skene", lambda: dawid_skene(votes))
    timed("to adjudicate, by votes", lambda: to_adjudicate(votes))
    timed("to adjudicate, by posterior", lambda: to_adjudicate(votes, model.posterior))

    rng = np.random.default_rng(1)
    right, active = rng.random(len(votes)) < 0.6, rng.random(len(votes)) < 0.8
    finished = rng.uniform(0, SECONDS_OF_A_MONTH, len(votes))
    timed("pull", lambda: pull(right, votes.item))
    timed("lift of active selection", lambda: active_lift(right, active, clusters=votes.item))
    chance = np.where(active, 0.4, 0.1)
    timed("weighted share", lambda: estimate_share(right, probabilities=chance, clusters=votes.item))
    timed("time on task", lambda: time_on_task(rng.lognormal(3, 0.5, len(votes)), votes.annotator))
    timed("labels per day", lambda: labels_per_period(finished, now=SECONDS_OF_A_MONTH))
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    timed("votes from rows", lambda: Votes.of(rows))
    found = {
        "items": len(votes.items),
        "labels": len(votes),
        "annotators": len(votes.annotators),
        "kappas": len(kappas),
        "agreement_seconds": together[0],
        "agreement_cpu_seconds": together[1],
        "dawid_skene_iterations": model.iterations,
        "dawid_skene_converged": model.converged,
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),  # kibibytes on Linux
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }
    print(f"{'agreement together':<34}{together[0]:>9.3f}{together[1]:>9.3f}")
    print(json.dumps(found))


def simulate(items: int, votes: int, annotators: int) -> list[np.ndarray]:
    """Item, annotator and value of each vote in no order: everyone has an accuracy, errors lie near the truth."""
    rng = np.random.default_rng(0)
    accuracy = rng.uniform(0.4, 0.9, annotators)
    truth = rng.integers(0, KINDS, items)
    item = np.repeat(np.arange(items), votes)
    steps = rng.permutation(np.arange(1, annotators))[: votes - 1].cumsum()
    annotator = (rng.integers(0, annotators, items)[:, None] + np.append(0, steps)) % annotators
    annotator = annotator.reshape(-1)
    slip = np.where(rng.random(len(item)) < accuracy[annotator], 0, rng.choice((-2, -1, 1, 2), len(item)))
    value = np.clip(truth[item] + slip, 0, KINDS - 1)
    order = rng.permutation(len(item))
    return [column[order] for column in (item, annotator, value)]


if __name__ == "__main__":
    main()
