"""Collect human feedback: sample answers from the current policy and let annotators judge them.

Ouyang et al. 2022 (arXiv:2203.02155), sec. 3.4: annotators rank K answers of one prompt. Here they also
compare pairs and rate single answers, and they are simulated (`loopwright.feedback.annotators`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, PositiveInt

from loopwright.data.chat import render_prompts
from loopwright.data.readers import read_records, write_records
from loopwright.feedback.annotators import SimulatedAnnotator, on_simulated_clocks, team, worth
from loopwright.generation.base import SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Judge, Judgement, Prompt, Ranking, Rating
from loopwright.stages.base import Stage, StageConfig, StageOutput
from loopwright.tracking.artifacts import Artifact
from loopwright.worlds import WORLDS

Share = Annotated[float, Field(ge=0, le=1)]


class FeedbackConfig(StageConfig):
    prompts: PositiveInt = 3_000
    responses_per_prompt: Annotated[int, Field(ge=2, le=4)] = 4
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=40)
    annotators: PositiveInt = 12
    rank_share: Share = 0.7  # of the prompts; the others' answers are compared in pairs
    overlap_share: Share = 0.05  # of the prompts are judged by a second annotator, to see how far people agree
    criteria_share: Share = 0.05  # are also ranked by each criterion
    rate_share: Share = 0.05  # are also rated, answer by answer
    off_topic_share: Share = 0.4  # get another prompt's answer among their own: else a reward model never learns
    # that an answer must fit its question, and PPO finds one good answer for everything
    prompts_at_once: PositiveInt = 256
    save_batches: PositiveInt = 3  # batches between two checkpoints


@dataclass(frozen=True)
class FeedbackInputs:
    policy: Path  # a Hugging Face folder
    policy_id: str  # stored in each record
    prompts: Path  # jsonl of Prompt
    judges: Mapping[str, Judge]  # what answers are truly worth; annotators see it through their faults


class Item(NamedTuple):
    """A prompt and the answers to judge."""

    number: int
    prompt: Prompt
    responses: tuple[str, ...]
    off_topic: tuple[int, ...] = ()  # which of them were written to another prompt


def run(config: FeedbackConfig, inputs: FeedbackInputs, runtime: Runtime) -> StageOutput:
    """Sample, assign, judge, and keep who said what about which policy."""
    prompts = read_records(inputs.prompts, Prompt).records[: config.prompts]
    answers = sample_answers(prompts, config, inputs.policy, runtime)
    items = [Item(i, prompt, tuple(answers[i])) for i, prompt in enumerate(prompts)]
    items = mix_in_off_topic(items, config.off_topic_share, random.Random(runtime.seed_for("off topic")))

    annotators = team(config.annotators, runtime.seed_for("annotators"))
    records: list[Judgement] = []
    for item in items:
        rng = random.Random(runtime.seed_for("judging", item.number))
        judged_by = rng.sample(annotators, 1 + (rng.random() < config.overlap_share and len(annotators) > 1))
        ranked = rng.random() < config.rank_share
        for annotator in judged_by:
            records += judge_overall(item, annotator, inputs, ranked, rng)
        if rng.random() < config.criteria_share:
            records += judge_criteria(item, judged_by[0], inputs, rng)
        if rng.random() < config.rate_share:
            records += rate_each(item, judged_by[0], inputs, rng)
    records = on_simulated_clocks(records)

    for name, kind in (("comparisons", Comparison), ("rankings", Ranking), ("ratings", Rating)):
        write_records(runtime.output / f"{name}.jsonl", [r for r in records if isinstance(r, kind)])
    return StageOutput(summarise(records, prompts, inputs.judges))


def sample_answers(prompts: list[Prompt], config: FeedbackConfig, policy: Path, runtime: Runtime) -> list[list[str]]:
    """K responses to each prompt, in the order of the prompts."""
    tokenizer = load_tokenizer(policy)
    engine = make_engine(load_causal_lm(policy, runtime.device), tokenizer, runtime.log)
    found = runtime.restore()
    answers: list[list[str]] = found.state["answers"] if found else []
    copies = config.responses_per_prompt
    with runtime.progress("sampling answers", len(prompts), start=len(answers)) as bar:
        while len(answers) < len(prompts):
            first = len(answers)
            batch = prompts[first : first + config.prompts_at_once]
            rendered = render_prompts(tokenizer, [prompt.messages for prompt in batch])
            tokens = [ids for ids in rendered for _ in range(copies)]
            seeds = [runtime.seed_for("answer", first + i, k) for i in range(len(batch)) for k in range(copies)]
            texts = decode_responses(tokenizer, engine.generate(tokens, config.sampling, seeds))
            answers += [texts[i * copies : (i + 1) * copies] for i in range(len(batch))]
            bar.advance(len(batch))
            if (first // config.prompts_at_once + 1) % config.save_batches == 0:
                runtime.checkpoint(len(answers), {"answers": answers})
    return answers


def mix_in_off_topic(items: list[Item], share: float, rng: random.Random) -> list[Item]:
    """In `share` of the items, the last answer is replaced by one that was given to another prompt."""
    mixed = []
    for item in items:
        if rng.random() < share and len(items) > 1:
            other = items[(item.number + rng.randrange(1, len(items))) % len(items)]
            *own, _ = item.responses
            item = item._replace(responses=(*own, other.responses[0]), off_topic=(len(own),))
        mixed.append(item)
    return mixed


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
    item: Item, annotator: SimulatedAnnotator, inputs: FeedbackInputs, rng: random.Random
) -> Iterator[Ranking]:
    """One ranking for each criterion that applies to the prompt."""
    for criterion, judge in inputs.judges.items():
        if judge(item.prompt, item.responses[0]) is not None:
            id = f"{item.prompt.id}/{annotator.id}/{criterion}"
            about = origin(item, range(len(item.responses)), inputs)
            yield annotator.rank(item.prompt, item.responses, inputs.judges, criterion, rng, id=id, **about)


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
    policy, world = artifacts["policy"], artifacts["world"]
    return FeedbackInputs(
        policy=policy.file("model"),
        policy_id=policy.id,
        prompts=world.file("prompts_train.jsonl"),
        judges=WORLDS[world.manifest.config["name"]].judges,
    )


STAGE = Stage(
    "feedback",
    FeedbackConfig,
    needs={"policy": ("sft", "pretrain"), "world": ("world",)},
    bind=bind,
    run=run,
    files=lambda config: [],
)
