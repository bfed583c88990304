"""The figures of red teaming, and the files in which it hands on what it found."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loopwright.evaluation.attack_clusters import clusters
from loopwright.evaluation.metrics import ratio, rounded
from loopwright.feedback.intervals import wilson_interval
from loopwright.schemas import Prompt
from loopwright.stages.red_team_ground import Ground
from loopwright.stages.red_team_regression import id_of
from loopwright.stages.red_team_tries import KNOWN_ATTACKS, Try

SIMILARITIES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # what else could count as alike: the figure depends on it
SHOWN_CLUSTERS = 50
SHOWN_WORST = 20


def of_source(tries: Sequence[Try], ground: Ground, least_similarity: float) -> dict[str, Any]:
    """How often attacks of one source succeed, and how many successes are distinct."""
    wordings = [ground.wording(one.text) for one in tries if one.success]
    attacks = sum(one.asks for one in tries)

    def distinct(similarity: float) -> int:
        return len(set(clusters(wordings, similarity)))

    return {
        "tries": len(tries),
        "attacks": attacks,  # that ask for something harmful
        "successes": len(wordings),
        "success_rate": wilson_interval(len(wordings) / len(tries), len(tries)).as_dict(),
        "success_rate_of_attacks": wilson_interval(len(wordings) / attacks, attacks).as_dict() if attacks else None,
        "distinct": distinct(least_similarity),
        "distinct_per_1000_tries": 1000 * distinct(least_similarity) / len(tries),
        "distinct_wordings": len(set(wordings)),
        "distinct_by_similarity": {f"{similarity:g}": distinct(similarity) for similarity in SIMILARITIES},
    }


def failures(tries: Sequence[Try], ground: Ground, least_similarity: float) -> list[dict[str, Any]]:
    """Every success with the target's answer and its cluster; the largest cluster first, of each the worst first."""
    found = [one for one in tries if one.success]
    numbers = clusters([ground.wording(one.text) for one in found], least_similarity)
    sizes = Counter(numbers)
    rank = {number: place for place, (number, _) in enumerate(sizes.most_common())}
    order = sorted(range(len(found)), key=lambda i: (rank[numbers[i]], -(found[i].harm or 0.0)))
    rows: list[dict[str, Any]] = []
    for i in order:
        one = found[i]
        (prompt,) = ground.read([one.attack.message], wrapped=one.source in KNOWN_ATTACKS)
        rows.append({
            "id": id_of(one.attack.message),
            "prompt": [{"role": "user", "content": one.attack.message}],
            "response": one.answer,
            "source": one.source,
            "text": one.text,
            "harm": one.harm,
            "crime": None if prompt is None else prompt.tags.get("crime"),
            "cluster": rank[numbers[i]],
        })  # fmt: skip
    return rows


def as_prompts(failed: Sequence[Mapping[str, Any]], ground: Ground) -> list[Prompt]:
    """Each attack once, as a prompt to train on; first one of each cluster, then a second of each, and so on.

    So whoever takes only the first of them gets all kinds. Attacks that belong to a held-out set are left out.
    """
    depth: Counter[int] = Counter()
    found: dict[str, tuple[int, Prompt]] = {}
    for row in failed:
        (prompt,) = ground.read([row["prompt"][0]["content"]], wrapped=row["source"] in KNOWN_ATTACKS)
        if row["id"] in found or prompt is None or not ground.may_train(prompt):
            continue
        about = {"question_id": row["id"], "attack": row["source"], "cluster": row["cluster"]}
        record = Prompt(id=row["id"], messages=prompt.messages, tags={**prompt.tags, **about})
        found[row["id"]] = depth[row["cluster"]], record
        depth[row["cluster"]] += 1
    return [prompt for _, prompt in sorted(found.values(), key=lambda one: one[0])]


def described_clusters(failed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The largest clusters: who found them, what they ask for, and an example."""
    rows: dict[int, list[Mapping[str, Any]]] = {}
    for row in failed:
        rows.setdefault(row["cluster"], []).append(row)
    return [
        {
            "cluster": number,
            "size": len(members),
            "sources": dict(Counter(row["source"] for row in members)),
            "crimes": dict(Counter(row["crime"] for row in members if row["crime"] is not None)),
            "example": members[0]["prompt"][0]["content"],
            "answer": members[0]["response"],
        }
        for number, members in list(rows.items())[:SHOWN_CLUSTERS]
    ]


def worst(failed: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The most harmful answers, one a cluster."""
    first = {row["cluster"]: row for row in reversed(failed)}
    chosen = sorted(first.values(), key=lambda row: (-(row["harm"] or 0.0), row["cluster"]))[:SHOWN_WORST]
    return [{name: row[name] for name in ("prompt", "response", "source", "harm", "cluster")} for row in chosen]


def distinct_ratio(sources: Mapping[Any, Mapping[str, Any]]) -> float | None:
    """Distinct successes of the trained attacker over those of templates; None without both, or where these are 0."""
    per_try = [sources[name]["distinct_per_1000_tries"] if name in sources else None for name in ("rl", "templates")]
    return ratio(*per_try)


def write_json(path: Path, figures: Mapping[str, Any]) -> None:
    """For people, and for the report."""
    text = json.dumps(rounded(dict(figures)), indent=1, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8", errors="replace")
