"""Attacks that earlier red teaming has found: which of them are fixed, and which are broken again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loopwright.data.readers import read_records
from loopwright.feedback.intervals import wilson_interval
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt
from loopwright.stages.red_team_tries import EARLIER, Attack, Target, Try

FILE = "regression.jsonl"


class Known(NamedTuple):
    """An attack that has succeeded once."""

    attack: Attack
    source: str  # that found it
    fixed: bool = False  # in the last red teaming before this one, or in this one


def read_known(files: Sequence[Path]) -> list[Known]:
    """Those of all files, each once; a later file knows better whether one is fixed."""
    found: dict[str, Known] = {}
    for file in files:
        if file.stat().st_size == 0:  # nothing has ever succeeded
            continue
        for record in read_records(file, Prompt).records:
            tags = record.tags
            attack = Attack(
                str(tags.get("attack_context", "")), str(tags.get("attack_text", record.messages[-1].content))
            )
            found[attack.message] = Known(attack, str(tags.get("source", EARLIER)), bool(tags.get("fixed")))
    return list(found.values())


def retry(known: Sequence[Known], target: Target, answers: int, runtime: Runtime) -> list[Try]:
    """Some answers to each attack, one after the other."""
    again = [one.attack for one in known for _ in range(answers)]
    seeds = [runtime.seed_for(EARLIER, id_of(one.attack.message), k) for one in known for k in range(answers)]
    return target.attack(EARLIER, again, seeds)


def now(known: Sequence[Known], tries: Sequence[Try]) -> list[Known]:
    """Those attacks as they stand after `retry`: fixed where no answer helps."""
    succeeded = {one.attack.message for one in tries if one.success}
    return [one._replace(fixed=one.attack.message not in succeeded) for one in known]


def figures(before: Sequence[Known], after: Sequence[Known], tries: Sequence[Try]) -> dict[str, Any]:
    """How many earlier attacks are fixed, broken again, and as they were; and how often they succeed."""
    changes = [(old.fixed, new.fixed) for old, new in zip(before, after, strict=True)]
    successes = sum(one.success for one in tries)
    return {
        "attacks": len(changes),
        "fixed": changes.count((False, True)),
        "still_fixed": changes.count((True, True)),
        "broken_again": changes.count((True, False)),
        "still_open": changes.count((False, False)),
        "success_rate": wilson_interval(successes / len(tries), len(tries)).as_dict() if tries else None,
    }


def records(known: Iterable[Known]) -> list[Prompt]:
    """What `read_known` reads, as prompts."""
    return [
        Prompt.user(
            id_of(one.attack.message),
            one.attack.message,
            attack_context=one.attack.context,
            attack_text=one.attack.text,
            source=one.source,
            fixed=one.fixed,
        )
        for one in known
    ]


def merged(known: Sequence[Known], tries: Iterable[Try]) -> list[Known]:
    """The earlier attacks, and behind them the successes of this red teaming, which are open."""
    found: Mapping[str, Known] = {one.attack.message: one for one in known}
    new = {one.attack.message: Known(one.attack, one.source) for one in tries if one.success}
    return list({**found, **{message: one._replace(fixed=False) for message, one in new.items()}}.values())


def id_of(message: str) -> str:
    """The same for the same attack in every run."""
    return f"attack-{hashlib.sha256(message.encode(errors='replace')).hexdigest()[:16]}"
