"""People where it matters: they label the pairs on which the judge is unsure or contradicts itself, and some at random.

What they say of the random ones also tells how often the judge errs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, PositiveInt, model_validator

from loopwright.config import Config
from loopwright.feedback.annotators import on_simulated_clocks, reading_seconds, team
from loopwright.feedback.asking import Question, StoreUrl, ask, key_of, projects_for, source_of, write_sources
from loopwright.feedback.client import FeedbackClient
from loopwright.feedback.intervals import wilson_interval
from loopwright.feedback.items import OFF_TOPIC, Item
from loopwright.responders.judge import Verdict
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison

if TYPE_CHECKING:
    from loopwright.stages.ai_feedback import AIFeedbackInputs, Pair

Share = Annotated[float, Field(ge=0, le=1)]


class PeopleConfig(Config):
    """Who labels what beside the judge."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.2  # of all pairs, the random ones included
    control_share: Share = 0.05  # of all pairs are drawn at random
    annotators: PositiveInt = 12  # simulated
    store: StoreUrl | None = None  # the annotation server whose people label; None: annotators are simulated
    project: str | None = None  # that asks them, of the kind comparison

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.control_share > self.share:
            raise ValueError(
                f"control_share = {self.control_share:g} is more than share = {self.share:g}, which includes it"
            )
        if (self.store is None) != (self.project is None):
            raise ValueError("store and project belong together: the server, and which of its projects asks")
        if self.store is not None and "annotators" in self.model_fields_set:
            raise ValueError("annotators has no effect with store, where people label; leave it out")
        return self


@dataclass(frozen=True)
class LabelsOfPeople:
    """What people said, by the number of the pair."""

    control: frozenset[int] = frozenset()  # pairs that were drawn at random
    records: Mapping[int, Sequence[Comparison]] = field(default_factory=dict)
    simulated: bool = True

    def figures(self, pairs: Sequence[Pair], labels: Sequence[Comparison | None]) -> dict[str, Any]:
        """Minutes of work, those of labelling everything, and how often the judge errs by people's word.

        The estimate of its errors is over the random pairs alone; ties of either side are left out.
        """
        said = [record for records in self.records.values() for record in records]
        seconds = sum(record.seconds or 0.0 for record in said)
        everything = self._seconds_for_all(pairs)
        against = [
            float(record.choice != label.choice)
            for i in sorted(self.control)
            for record in self.records.get(i, ())
            if (label := labels[i]) is not None and None not in (label.choice, record.choice)
        ]
        errs = wilson_interval(sum(against) / len(against), len(against)) if against else None
        return {
            "pairs": len(self.records),
            "control_pairs": len(self.control),
            "minutes": seconds / 60,
            "minutes_for_all": None if everything is None else everything / 60,
            "judge_errs": None if errs is None else errs.as_dict() | {"pairs": len(against)},
        }

    def _seconds_for_all(self, pairs: Sequence[Pair]) -> float | None:
        """Of labelling every pair: what simulated people would take; of others, the mean of the random pairs, which are
        no harder than all are, times all. None: nobody's time on a random pair is known.
        """
        if self.simulated:
            rng = random.Random(0)
            return sum(reading_seconds(pair.responses, rng) for pair in pairs)
        known = []
        for said in (self.records.get(i, ()) for i in sorted(self.control)):
            seconds = [record.seconds for record in said if record.seconds is not None]
            known += [sum(seconds)] if seconds and len(seconds) == len(said) else []
        return sum(known) / len(known) * len(pairs) if known else None


def run(
    config: PeopleConfig | None,
    pairs: Sequence[Pair],
    verdicts: Sequence[Verdict],
    inputs: AIFeedbackInputs,
    runtime: Runtime,
) -> LabelsOfPeople:
    """Choose pairs, and have them labelled."""
    if config is None:
        return LabelsOfPeople()
    control, chosen = choose(verdicts, config, random.Random(runtime.seed_for("control")))
    label = simulated if config.store is None else at_the_store
    return LabelsOfPeople(control, label(config, pairs, control, chosen, inputs, runtime), config.store is None)


def choose(
    verdicts: Sequence[Verdict], config: PeopleConfig, rng: random.Random
) -> tuple[frozenset[int], tuple[int, ...]]:
    """The random pairs; and all pairs to label: those, and the least sure of the others.

    Pairs on which the judge contradicts itself come first, then those with a probability near one half.
    """
    control = frozenset(rng.sample(range(len(verdicts)), round(config.control_share * len(verdicts))))
    others = [i for i in range(len(verdicts)) if i not in control]
    others.sort(key=lambda i: (verdicts[i].consistent, abs(verdicts[i].probability - 0.5), i))
    wanted = round(config.share * len(verdicts)) - len(control)
    return control, tuple(sorted([*control, *others[: max(wanted, 0)]]))


def simulated(  # noqa: PLR0913 -- who labels which pairs of what
    config: PeopleConfig,
    pairs: Sequence[Pair],
    control: frozenset[int],
    chosen: Sequence[int],
    inputs: AIFeedbackInputs,
    runtime: Runtime,
) -> dict[int, list[Comparison]]:
    """One annotator of a team labels each pair."""
    annotators = team(config.annotators, runtime.seed_for("annotators"))
    said = []
    for i in chosen:
        rng = random.Random(runtime.seed_for("judging", pairs[i].id))
        annotator = rng.choice(annotators)
        said.append(
            annotator.compare(
                pairs[i].prompt,
                pairs[i].responses,
                inputs.judges,
                rng,
                id=f"{pairs[i].id}/{annotator.id}",
                policy=inputs.policy_id,
                off_topic=pairs[i].off_topic,
                selection_probability=config.control_share if i in control else 1.0,
            )
        )
    clocked = on_simulated_clocks(said)
    return {i: [record] for i, record in zip(chosen, clocked, strict=True) if isinstance(record, Comparison)}


def at_the_store(  # noqa: PLR0913 -- who labels which pairs of what
    config: PeopleConfig,
    pairs: Sequence[Pair],
    control: frozenset[int],
    chosen: Sequence[int],
    inputs: AIFeedbackInputs,
    runtime: Runtime,
) -> dict[int, list[Comparison]]:
    """People label them at an annotation server; nobody sees what the judge said."""
    assert config.store is not None and config.project is not None
    items: dict[str, int] = {}
    asked = []
    for i in chosen:
        pair, messages = pairs[i], pairs[i].prompt.messages
        tags: dict[str, Any] = {"prompt": pair.prompt.id}
        tags |= {OFF_TOPIC: list(pair.off_topic)} if pair.off_topic else {}
        key = key_of(inputs.policy_id, messages, pair.responses)
        items[key] = i
        asked.append(Item(key=key, prompt=messages, responses=pair.responses, tags=tags, policy=inputs.policy_id))
    with FeedbackClient(config.store) as client:
        (project,) = projects_for(client, config.project, {"comparisons": len(asked)}, f"{runtime.stage}.people")
        question = Question(project, asked, len(asked))
        (lines,) = ask(client, [question], batch=f"{inputs.policy_id[:80]}.unsure", watch=runtime)
        write_sources(runtime.output, [source_of(client, project, inputs.policy_id, lines)])
    found: dict[int, list[Comparison]] = {}
    for line in lines:
        if isinstance(line.record, Comparison):
            key = key_of(inputs.policy_id, line.record.prompt, line.record.responses)
            if key in items:
                found.setdefault(items[key], []).append(line.record)
    return found
