"""What the reward stage trains on: judgements read, split, converted and tokenized, and its reference samples."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.data.chat import render_prompts
from loopwright.data.labelled import LabelledSplit, comparisons_of, thumbs_of
from loopwright.data.splits import part_by_hash, split_by_hash
from loopwright.errors import ConfigError, DataError
from loopwright.feedback.bad_answers import Sampler, compare_bad_answers, only_bad
from loopwright.feedback.leaks import require_no_leak
from loopwright.feedback.pairs import Converted, Label, check_conversion, check_decided, convert, gold_answers
from loopwright.generation.base import decode_responses
from loopwright.generation.engines import make_engine
from loopwright.models.encoders import Cut, is_encoder
from loopwright.models.layers import unwrapped
from loopwright.models.tokens import context_length
from loopwright.rewards import Reward, RewardModel, Sample
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import (
    Attack,
    Comparison,
    Correction,
    Judge,
    Judgement,
    Prompt,
    Ranking,
    Rating,
    SpanFeedback,
    Thumb,
    is_ai,
)
from loopwright.stages.reward_config import RewardConfig
from loopwright.training.judged_groups import Group, Pair, as_continuations, as_text_pairs, group, keys_of, that_fit
from loopwright.training.judgement_files import RECORDS, ages_of, read_all, read_judgements

Files = Path | Sequence[Path]  # one, or those of several rounds
SAMPLES_AT_ONCE = 256
HELD_OUT = "held_out/comparisons.jsonl"  # of a dataset: what every reward model is assessed on


@dataclass(frozen=True)
class RewardInputs:
    model: Path  # where the body comes from: a causal LM, whose samples normalise the scores, or an encoder
    comparisons: Files | Sequence[Comparison] = ()
    rankings: Files | Sequence[Ranking] = ()
    ratings: Files | Sequence[Rating] = ()
    thumbs: Files | Sequence[Thumb] = ()
    corrections: Files | Sequence[Correction] = ()
    attacks: Files | Sequence[Attack] = ()  # of people who talked with a policy
    spans: Files | Sequence[SpanFeedback] = ()  # alone: they make a model of tokens
    ages: Sequence[int] = ()  # of the files of each kind, in rounds before the newest
    prompts: Path | Sequence[Prompt] = ()  # optional: task tags for the assessment
    paraphrased: (
        Path | Sequence[Prompt]
    ) = ()  # optional: questions in several wordings, which are scored, never learned
    teacher: Reward | None = None  # any reward whose scores take the place of what people said; or the config's
    judges: Mapping[str, Judge] | None = None  # optional: what the answers are truly worth
    held_out: Path | Sequence[Judgement] = ()  # to assess on; none: the config's file, or a share of the prompts


class Data(NamedTuple):
    train: list[Group]
    held_out: list[Group]
    counts: dict[str, Any]
    log_odds: float  # of a thumb up among those to train on
    gold: Mapping[str | None, tuple[int, int]]  # annotator -> right and wrong answers to gold items
    judgements: tuple[Sequence[Judgement], Sequence[Judgement]]  # to train on, and held out, as they were read
    teacher: Reward | None = None


def load_teacher(config: RewardConfig, inputs: RewardInputs, runtime: Runtime) -> Reward | None:
    """The reward to learn from, if there is one."""
    if config.teacher is not None and inputs.teacher is not None:
        raise ConfigError(f"reward.teacher = {config.teacher}, but another teacher is given, too; leave one out")
    return inputs.teacher if config.teacher is None else RewardModel(config.teacher, device=runtime.device)


def teach(groups: Sequence[Group], teacher: Reward, tokenizer: PreTrainedTokenizerBase) -> list[Group]:
    """All responses to a prompt compared as the teacher scores them: with soft labels, by Bradley and Terry.

    A difference of scores means what it means in the teacher's own loss (`preference_scale`), else nats.

    Raises:
        DataError: responses stand without a prompt.
    """
    scale = (
        float(getattr(unwrapped(teacher.model).config, "preference_scale", 1.0))
        if isinstance(teacher, RewardModel)
        else 1.0
    )
    for one, scores in zip(groups, teacher_scores(groups, teacher, tokenizer), strict=True):
        one.listings, one.labels, one.pairs = [], [], []
        for a, b in combinations(range(len(scores)), 2):
            first = float(torch.sigmoid(scale * (scores[a] - scores[b])))
            one.pairs.append(Pair(a, b, int(first < 0.5), first))
        one.weigh(by_prompt=True, safety_weight=0.0)
    return [one for one in groups if one.pairs]


def teacher_scores(groups: Sequence[Group], teacher: Reward, tokenizer: PreTrainedTokenizerBase) -> list[Tensor]:
    """[K] scores of the responses of each group, which has its token rows."""
    samples = []
    for one in groups:
        if not one.messages:
            raise DataError(
                f"{one.responses[0]!r:.60} answers no prompt, which a teacher needs; give comparisons with prompts"
            )
        for response, row in zip(one.responses, one.rows, strict=True):
            prompt, ids = Prompt(id=one.key, messages=one.messages), row[len(one.prompt_ids) :]
            samples.append(Sample(prompt, response, one.prompt_ids, ids, finished=True, tokenizer=tokenizer))
    return list(teacher.score(samples).total.cpu().split([len(one.responses) for one in groups]))


def as_judgements(labels: LabelledSplit, config: RewardConfig, inputs: RewardInputs, runtime: Runtime) -> RewardInputs:
    """The same inputs with the judgements that follow from labelled sentences."""
    if any(getattr(inputs, kind) for kind in RECORDS):
        raise ConfigError(f"reward.labelled = {config.labelled} contradicts the judgements given; leave one out")
    if config.labelled_as == "thumbs":
        held_out = thumbs_of(labels.held_out) if labels.held_out is not None else []
        return replace(inputs, thumbs=thumbs_of(labels.train), held_out=held_out)
    pairs = partial(comparisons_of, per_sentence=config.pairs_per_sentence, seed=runtime.seed_for("labelled"))
    return replace(
        inputs, comparisons=pairs(labels.train), held_out=pairs(labels.held_out) if labels.held_out is not None else ()
    )


def load_data(
    config: RewardConfig,
    inputs: RewardInputs,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    runtime: Runtime,
) -> Data:
    """Judgements by prompt, split so that no prompt (and no text that stands alone) is on both sides.

    Raises:
        ConfigError: a setting finds nothing to act on.
        DataError: nothing is left to train on, a held-out pair is trained on, or too many rows are bad.
    """
    given = {kind: getattr(inputs, kind) for kind in RECORDS}
    judgements, bad_rows, places = read_all(given, runtime, config.max_bad_share)
    ages = ages_of(judgements, places, inputs.ages)
    if config.part_of_prompts is not None:
        judgements = [judgements[i] for i in part_by_hash(keys_of(judgements), *config.part_of_prompts)]
    train, held_out = _split(judgements, config, inputs, runtime)
    settings = config.judgements
    as_pairs = settings.model_copy(update={"ties": "drop", "rankings_as": "pairs", "margins": "none"})
    converted = convert(train, settings)
    to_assess = convert(held_out, as_pairs, converted.rating_scale)
    for found, said, required in ((converted, train, True), (to_assess, held_out, False)):
        if only_bad(found):
            sample = sampler(config, model, tokenizer, runtime, required=required) if config.fresh_samples else None
            compare_bad_answers(found, said, sample, required=required)
    check_fresh_samples(config, converted)
    check_conversion(settings, converted)
    groups, too_long, cut = _tokenized(group(converted), config, model, tokenizer)
    held_groups, too_long_held_out, cut_held_out = _tokenized(group(to_assess), config, model, tokenizer)
    for one in held_groups:
        one.order_by_text()
    teacher = load_teacher(config, inputs, runtime)
    if teacher is not None:
        groups = teach(groups, teacher, tokenizer)
    for one in groups:
        one.scale(config.earlier_rounds_weight ** ages[one.messages])
    if not groups:
        raise DataError(
            f"no judgement is left to train on ({converted.counts['ties']} ties, {too_long} of responses longer than "
            f"max_length = {config.max_length}); give judgements of more prompts"
        )
    check_decided(
        [pair for one in groups for pair in one.pairs],
        [listing for one in groups for listing in one.listings],
        [label for one in groups for label in one.labels],
        instead=f"raise reward.max_length = {config.max_length}, which left some out",
    )
    check_what_is_held_out(config, groups, held_groups)
    counts = {
        "prompts": len(groups),
        "pairs": sum(len(one.pairs) for one in groups),
        "pairs_held_out": sum(len(one.pairs) for one in held_groups),
        "judgements_of_ai": sum(is_ai(one.annotator) for one in [*train, *held_out]),
        **_conversion(converted.counts + to_assess.counts),
        "too_long": too_long + too_long_held_out,
        **({} if config.cut is None else {"cut": cut + cut_held_out}),
        "bad_rows": bad_rows,
    }
    gold = config.annotators.gold if config.annotators is not None else None
    answers = (
        {}
        if gold is None
        else gold_answers(train, read_judgements(gold, Comparison, "gold", runtime, config.max_bad_share)[0])
    )
    return Data(groups, held_groups, counts, _log_odds(groups), answers, (train, held_out), teacher)


def check_fresh_samples(config: RewardConfig, found: Converted) -> None:
    """Raise ConfigError where samples are asked for, and there is nothing to compare them with."""
    if config.fresh_samples and not found.counts["bad_answers_below_samples"]:
        raise ConfigError(
            "reward.fresh_samples has no effect: no answers to prompts were only called bad, and left without a "
            "correction; leave it out"
        )


def check_what_is_held_out(config: RewardConfig, train: Sequence[Group], held_out: Sequence[Group]) -> None:
    """Raise ConfigError where a setting asks for pairs that are not there, before anything is trained."""
    pairs, held_out_pairs = (any(one.pairs for one in side) for side in (train, held_out))
    if config.learning_curve is not None and not (pairs and held_out_pairs):
        raise ConfigError(
            f"reward.learning_curve = {config.learning_curve} needs pairs to train on and pairs that are held out; "
            "leave it out, or hold some out"
        )
    if "centering" in config.model_fields_set and not pairs:
        raise ConfigError(f"reward.centering = {config.centering:g} has no effect without pairs; leave it out")


def _split(
    judgements: list[Judgement], config: RewardConfig, inputs: RewardInputs, runtime: Runtime
) -> tuple[list[Judgement], list[Judgement]]:
    """To train on, and to assess on: what was given for it, or a share of the prompts."""
    given = inputs.held_out or config.held_out
    if not given:
        split = split_by_hash(keys_of(judgements), config.held_out_share, runtime.seed_for("split"))
        return [judgements[i] for i in split.train], [judgements[i] for i in split.held_out]
    held_out = read_judgements(given, Comparison, "held_out", runtime, config.max_bad_share)[0]
    require_no_leak(judgements, held_out)  # the same pair is a mistake; another pair of its prompt is left out
    keys = keys_of([*judgements, *held_out])
    known = set(keys[len(judgements) :])
    return [one for one, key in zip(judgements, keys, strict=False) if key not in known], held_out


def _tokenized(
    groups: list[Group], config: RewardConfig, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Group], int, int]:
    """Groups with their rows, how much was said of rows that are too long, and how many rows were cut."""
    cut = 0
    if is_encoder(model.config):
        cut = as_text_pairs(groups, tokenizer, None if config.cut is None else Cut(config.cut, config.max_length))
    else:
        as_continuations(groups, tokenizer, append_eos=config.append_eos)
    settings = config.judgements
    by_prompt, safety_weight = settings.weigh_by == "prompt", settings.safety_weight
    return *that_fit(groups, max_length=config.max_length, by_prompt=by_prompt, safety_weight=safety_weight), cut


def _conversion(counts: Mapping[str, int]) -> dict[str, Any]:
    """Ties, and what else was made of the records, or left out."""
    return {"ties": counts["ties"], "judgements": {k: v for k, v in sorted(counts.items()) if v and k != "ties"}}


def _log_odds(groups: Iterable[Group]) -> float:
    thumbs = [label.target for one in groups for label in one.labels if label.kind == "thumb"]
    if not thumbs:
        return 0.0
    return math.log(sum(thumbs) / (len(thumbs) - sum(thumbs)))


def sampler(
    config: RewardConfig,
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    runtime: Runtime,
    *,
    required: bool = True,
) -> Sampler:
    """What samples an answer of the starting policy to the prompt of each label, whole ones alone.

    Raises:
        ConfigError: an encoder writes no answers; the sampler, where one is `required`: no sample came to its end.
    """
    if is_encoder(lm.config):
        raise ConfigError("reward.fresh_samples is set, but an encoder writes no samples; leave it out")

    def sample(labels: Sequence[Label]) -> list[str | None]:
        prompts = render_prompts(tokenizer, [label.prompt for label in labels])
        room, engine = room_for_prompts(lm, config), make_engine(lm, tokenizer, runtime.log_once)
        fitting = [i for i, label in enumerate(labels) if label.prompt and len(prompts[i]) <= room]
        found: list[str | None] = [None] * len(labels)
        for start in range(0, len(fitting), SAMPLES_AT_ONCE):
            chosen = fitting[start : start + SAMPLES_AT_ONCE]
            seeds = [runtime.seed_for("fresh", repr(labels[i].prompt), labels[i].response) for i in chosen]
            rollouts = engine.generate([prompts[i] for i in chosen], config.sampling, seeds)
            for i, text, whole in zip(
                chosen, decode_responses(tokenizer, rollouts), rollouts.finished.tolist(), strict=True
            ):
                found[i] = text if whole else None
        if required and fitting and not any(text is not None for text in found):
            raise ConfigError(
                f"reward.fresh_samples: none of {len(fitting)} samples ended within reward.sampling.max_new_tokens = "
                f"{config.sampling.max_new_tokens}; raise it"
            )
        return found

    return sample


def room_for_prompts(lm: PreTrainedModel, config: RewardConfig) -> int:
    """Tokens that a prompt may have, for a sample to fit behind it."""
    return (context_length(lm) or 2**31) - config.sampling.max_new_tokens


def reference_rows(
    config: RewardConfig, data: Data, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, runtime: Runtime
) -> list[list[int]]:
    """Token rows on which scores get mean 0 and deviation 1: the starting policy's samples, or the judged responses."""
    groups = data.train + data.held_out
    if config.normalise_on == "policy" and is_encoder(lm.config):
        raise ConfigError("reward.normalise_on = policy, but an encoder writes no samples; set it to responses")
    rng = random.Random(runtime.seed_for("reference"))
    prompts = [one.prompt_ids for one in groups if one.messages]
    if config.normalise_on == "policy" and not prompts:
        raise ConfigError("reward.normalise_on = policy, but the judgements have no prompts; set it to responses")
    if config.normalise_on == "responses" or not prompts or is_encoder(lm.config):
        rows = [row for one in groups for row in one.rows if 0 < len(row) <= config.max_length]
        return rng.sample(rows, min(config.reference_samples, len(rows)))
    prompts = [prompt for prompt in prompts if len(prompt) <= room_for_prompts(lm, config)]
    if not prompts:
        raise ConfigError(
            f"reward.sampling.max_new_tokens = {config.sampling.max_new_tokens} leaves no room for any prompt in the "
            f"model's context of {context_length(lm)}; lower it"
        )
    chosen = [
        prompts[i % len(prompts)]
        for i in rng.sample(range(max(len(prompts), config.reference_samples)), config.reference_samples)
    ]
    seeds = [runtime.seed_for("reference", i) for i in range(len(chosen))]
    rollouts = make_engine(lm, tokenizer, runtime.log_once).generate(chosen, config.sampling, seeds)
    return [rollouts.prompt_tokens(i) + rollouts.response_tokens(i) for i in range(len(chosen))]
