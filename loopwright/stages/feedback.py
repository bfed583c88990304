"""Collect human feedback: sample answers from the current policy and let annotators judge them.

Ouyang et al. 2022 (arXiv:2203.02155), sec. 3.4: annotators rank K answers of one prompt. Here they also
compare pairs and rate single answers. They are people at a feedback store (feedback_people.py), or simulated
(`loopwright.feedback.annotators`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, PositiveInt, model_validator

from loopwright.data.readers import write_records
from loopwright.errors import ConfigError
from loopwright.feedback.annotators import SimulatedAnnotator, on_simulated_clocks, team, worth
from loopwright.feedback.asking import Names, StoreUrl, Wait, may_be_written
from loopwright.generation.answers import Item
from loopwright.rewards import PreferenceJudge, RewardModel
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import AI, Comparison, Judge, Judgement, Prompt, Ranking, Rating
from loopwright.stages import asked, feedback_people
from loopwright.stages.asked import AskedConfig, AskedInputs
from loopwright.stages.base import Stage, StageOutput
from loopwright.tracking.artifacts import Artifact, id_of_file

Share = Annotated[float, Field(ge=0, le=1)]


class FeedbackConfig(AskedConfig):
    section: ClassVar[str] = "feedback"
    labels: PositiveInt | None = None  # simulated annotators stop when so many are given; with people `wait` says it
    annotators: PositiveInt = 12
    rank_share: Share = 0.7  # of the prompts; the others' answers are compared in pairs
    overlap_share: Share = 0.05  # of the prompts are judged by a second annotator, to see how far people agree
    criteria_share: Share = 0.05  # are also ranked by each criterion
    rate_share: Share = 0.05  # are also rated, answer by answer
    store: StoreUrl | None = None  # the annotation server whose people judge; None: annotators are simulated
    project: Names | None = None  # that asks them; several where several kinds are waited for
    wait: Wait | None = None  # {comparisons: 500, ratings: 100}: how many labels must be there
    reward: Path | None = None  # a reward model's folder: its scores go with the answers, unseen by labelers

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        if self.store is None:
            for name in ("project", "wait", "reward", "prompts_file"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect without store, the address of an annotation server")
            if self.responses_per_prompt == 1:
                raise ValueError("responses_per_prompt = 1 leaves nothing to compare; sample 2 to 4")
            return self
        for name in ("annotators", "rank_share", "overlap_share", "criteria_share", "rate_share", "labels"):
            if name in self.model_fields_set:
                raise ValueError(f"{name} has no effect with store, where people judge; leave it out")
        for name in ("project", "wait"):
            if getattr(self, name) is None:
                raise ValueError(f"store needs {name}: who is asked, and how many labels must be there")
        if "demonstrations" in (self.wait or {}):
            raise ValueError(
                "wait names demonstrations, which judge no answer; people write them in a section so named"
            )
        return self


@dataclass(frozen=True)
class FeedbackInputs(AskedInputs):
    taste: Path | None = None  # a reward model that simulated annotators like things by, where there are no judges


def run(config: FeedbackConfig, inputs: FeedbackInputs, runtime: Runtime) -> StageOutput:
    """Sample, assign, judge, and keep who said what about which policy."""
    if config.store is not None:
        return feedback_people.run(config, inputs, partial(asked.prompts_of, config, inputs), runtime)
    prompts = asked.prompts_of(config, inputs)
    inputs, annotators = with_taste(inputs, runtime), team_of(config, inputs, runtime)
    _, items = asked.answer(prompts, config, inputs, runtime)
    differing = [item for item in map(Item.without_repetitions, items) if len(item.responses) > 1]
    records = on_simulated_clocks(judge_all(differing, annotators, config, inputs, runtime)[: config.labels])

    for name, kind in (("comparisons", Comparison), ("rankings", Ranking), ("ratings", Rating)):
        write_records(runtime.output / f"{name}.jsonl", [r for r in records if isinstance(r, kind)])
    return StageOutput(summarise(records, prompts, inputs.judges) | {"alike": len(items) - len(differing)})


def judge_all(
    items: Sequence[Item],
    annotators: Sequence[SimulatedAnnotator],
    config: FeedbackConfig,
    inputs: FeedbackInputs,
    runtime: Runtime,
) -> list[Judgement]:
    """What simulated annotators say of the items, at least as many labels as are wanted."""
    records: list[Judgement] = []
    for item in items:
        if config.labels is not None and len(records) >= config.labels:
            break
        rng = random.Random(runtime.seed_for("judging", item.number))
        judged_by = rng.sample(annotators, 1 + (rng.random() < config.overlap_share and len(annotators) > 1))
        ranked = rng.random() < config.rank_share
        first, *others = [list(judge_overall(item, annotator, inputs, ranked, rng)) for annotator in judged_by]
        if rng.random() < config.criteria_share:
            first = list(judge_criteria(first, item, judged_by[0], inputs, rng))
        records += chain(first, *others)
        if rng.random() < config.rate_share:
            records += rate_each(item, judged_by[0], inputs, rng)
    return records


def with_taste(inputs: FeedbackInputs, runtime: Runtime) -> FeedbackInputs:
    """The reward model that annotators follow in the place of judges, if there is one."""
    if inputs.taste is None:
        return inputs
    return replace(inputs, judges={"liked": PreferenceJudge(RewardModel(inputs.taste, device=runtime.device))})


def team_of(config: FeedbackConfig, inputs: FeedbackInputs, runtime: Runtime) -> list[SimulatedAnnotator]:
    """Simulated people. Those who follow a reward model are marked as a model's, and want no length of their own."""
    people = team(config.annotators, runtime.seed_for("annotators"))
    if inputs.taste is None:
        return people
    name = f"{AI}{id_of_file(inputs.taste)[:12]}"
    return [one.model_copy(update={"id": f"{name}/{one.id}", "length_bias": 0.0}) for one in people]


def judge_overall(
    item: Item, annotator: SimulatedAnnotator, inputs: FeedbackInputs, ranked: bool, rng: random.Random
) -> Iterator[Judgement]:
    """One ranking of all answers, or a comparison of every pair."""
    id = f"{item.prompt.id}/{annotator.id}"
    everything = range(len(item.responses))
    if ranked:
        about = origin(item, everything, inputs) | {"selection_probability": 1.0}
        yield annotator.rank(item.prompt, item.responses, inputs.judges, None, rng, id=id, **about)
        return
    for a, b in combinations(everything, 2):
        pair = (item.responses[a], item.responses[b])
        about = origin(item, (a, b), inputs) | {"selection_probability": 1.0}
        yield annotator.compare(item.prompt, pair, inputs.judges, rng, id=f"{id}/{a}{b}", **about)


def judge_criteria(
    overall: Sequence[Judgement],
    item: Item,
    annotator: SimulatedAnnotator,
    inputs: FeedbackInputs,
    rng: random.Random,
) -> Iterator[Judgement]:
    """What was said overall, and by each criterion that applies to the prompt: in comparisons, or a ranking each."""
    judges = inputs.judges
    criteria = [name for name, judge in judges.items() if judge(item.prompt, item.responses[0]) is not None]
    for one in overall:
        if isinstance(one, Comparison):
            yield annotator.compare_by(criteria, one, item.prompt, judges, rng)
            continue
        yield one
        for criterion in criteria:
            about = origin(item, range(len(item.responses)), inputs) | {"id": f"{one.id}/{criterion}"}
            yield annotator.rank(item.prompt, item.responses, judges, criterion, rng, again=True, **about)


def rate_each(
    item: Item, annotator: SimulatedAnnotator, inputs: FeedbackInputs, rng: random.Random
) -> Iterator[Rating]:
    """Every answer on its own, 1 to 3 on each criterion."""
    for k, response in enumerate(item.responses):
        id = f"{item.prompt.id}/{annotator.id}/rating-{k}"
        yield annotator.rate(item.prompt, response, inputs.judges, rng, id=id, **origin(item, (k,), inputs))


def origin(item: Item, shown: Sequence[int], inputs: FeedbackInputs) -> dict[str, Any]:
    """Who wrote the answers shown, and which of them to another prompt."""
    return {
        "policy": inputs.policy_id,
        "policies": tuple(item.policies[number] for number in shown) if item.policies else (),
        "off_topic": tuple(place for place, number in enumerate(shown) if number in item.off_topic),
    }


def summarise(records: list[Judgement], prompts: list[Prompt], judges: Mapping[str, Judge]) -> dict[str, Any]:
    """How much was said, by whom, how often it is right, and how far two people agree on the same pair."""
    by_messages = {prompt.messages: prompt for prompt in prompts}
    said: dict[tuple[str, str, str], list[int]] = {}
    right: dict[str, list[bool]] = {}
    ties = pairs = 0
    for record in records:
        for better, worse, tied in ordered_pairs(record):
            pairs += 1
            ties += tied
            if tied:
                continue
            prompt = by_messages[record.prompt]
            gap = worth(prompt, better, judges, None) - worth(prompt, worse, judges, None)
            if gap:
                right.setdefault(record.annotator or "?", []).append(gap > 0)
            a, b = sorted((better, worse))
            said.setdefault((prompt.id, a, b), []).append(1 if better == a else -1)
    repeated = [votes for votes in said.values() if len(votes) > 1]
    agreement = [abs(sum(votes)) == len(votes) for votes in repeated]
    return {
        "prompts": len(prompts),
        "labels": len(records),
        "comparisons": sum(isinstance(r, Comparison) for r in records),
        "rankings": sum(isinstance(r, Ranking) for r in records),
        "ratings": sum(isinstance(r, Rating) for r in records),
        "pairs": pairs,
        "tie_share": ties / max(pairs, 1),
        "agreement": sum(agreement) / len(agreement) if agreement else None,
        "annotators": {
            name: {"pairs": len(votes), "accuracy": sum(votes) / len(votes)} for name, votes in sorted(right.items())
        },
        "hours": sum(record.seconds or 0.0 for record in records) / 3600,
    }


def ordered_pairs(record: Judgement) -> Iterator[tuple[str, str, bool]]:
    """(better, worse, tied) of each pair that an overall judgement orders."""
    if isinstance(record, Comparison):
        first, second = record.responses
        yield (second, first, False) if record.choice == 1 else (first, second, record.choice is None)
    elif isinstance(record, Ranking) and record.criterion is None:
        for a, b in combinations(range(len(record.responses)), 2):
            if record.ranks[a] > record.ranks[b]:
                a, b = b, a
            yield record.responses[a], record.responses[b], record.ranks[a] == record.ranks[b]


def bind(config: FeedbackConfig, artifacts: Mapping[str, Artifact]) -> FeedbackInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: one is given neither way, or both ways, simulated annotators have no world, or a taste was taught
            and people are asked.
    """
    world = artifacts.get("world")
    if config.store is not None and "annotator" in artifacts:
        raise ConfigError(
            f"annotator has no effect where people judge (feedback.store = {config.store}); drop that section "
            "(annotator: false), and give its part of the data to training (dataset.annotators_share: 0)"
        )
    taste = artifacts.get("annotator")
    if world is not None and taste is not None:
        raise ConfigError(
            "annotator has no effect beside a world, by whose judges simulated people judge; drop either section"
        )
    if config.store is None and world is None and taste is None:
        raise ConfigError(
            "feedback has nobody to ask; add a world section, an annotator section beside a dataset, or name an "
            "annotation server in store"
        )
    return FeedbackInputs(
        **vars(asked.bind(config, artifacts, may_be_written=config.wait is not None and may_be_written(config.wait))),
        taste=None if taste is None else taste.file("model"),
    )


def files(config: FeedbackConfig) -> list[Path]:
    return [path for path in (config.policy, config.prompts_file, config.reward) if path is not None]


STAGE = Stage(
    "feedback",
    FeedbackConfig,
    needs=asked.NEEDS | {"annotator": ("annotator",)},
    needs_besides=asked.needs_besides,
    leaves=asked.leaves,
    bind=bind,
    run=run,
    files=files,
)
