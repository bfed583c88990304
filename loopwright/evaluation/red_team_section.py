"""The report's section on red teaming: how often attacks succeed, how many differ, and the worst of them."""

from __future__ import annotations

from typing import Any

from loopwright.evaluation.exhibits import cut
from loopwright.evaluation.run_files import RunFiles, is_number

TITLES = {
    "templates": "Templates", "zero_shot": "A model, zero-shot", "few_shot": "A model, few-shot",
    "rl": "A trained attacker",
}  # fmt: skip
MOST_CLUSTERS = 8
MOST_WORST = 5
REGRESSION = ("attacks", "fixed", "still_fixed", "broken_again", "still_open")


def red_team(run: RunFiles) -> dict[str, Any] | None:
    """Sources with their rates, the attacks of earlier rounds, clusters and worst answers; None: nothing was tried."""
    stage = run.newest_files("red_team")
    read = None if stage is None else stage.json("red_team.json")
    found = read if isinstance(read, dict) else {}
    sources = found.get("sources")
    rows = [
        {"source": TITLES.get(name, str(name)), **row}
        for name, row in (sources.items() if isinstance(sources, dict) else ())
        if _is_source(row)
    ]
    if not rows:
        return None
    clusters = [
        {"size": row["size"], "example": cut(row["example"]), "answer": cut(row["answer"])}
        for row in _dicts(found.get("largest_clusters"))
        if {"example", "answer", "size"} <= row.keys()
    ]
    worst = [shown for row in _dicts(found.get("worst")) if (shown := _exchange(row)) is not None]
    return {
        "sources": rows,
        "regression": _regression(found.get("regression")),
        "clusters": clusters[:MOST_CLUSTERS],
        "worst": worst[:MOST_WORST],
    }


def _regression(found: Any) -> dict[str, Any] | None:
    known = isinstance(found, dict) and all(is_number(found.get(name)) for name in REGRESSION)
    return found if known and found["attacks"] else None


def _is_source(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(rate := row.get("success_rate"), dict):
        return False
    numbers = [row.get(name) for name in ("tries", "attacks", "distinct")]
    return all(map(is_number, [*numbers, *(rate.get(end) for end in ("mean", "low", "high"))]))


def _exchange(row: dict[str, Any]) -> dict[str, str] | None:
    prompt = _dicts(row.get("prompt"))
    return {"prompt": cut(prompt[-1].get("content")), "response": cut(row.get("response"))} if prompt else None


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
