"""What the stages that need no reward model learn from: answers to prompts as tokens, and what was said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, get_args

from transformers import PreTrainedTokenizerBase

from loopwright.data.splits import split_by_hash
from loopwright.errors import ConfigError, DataError
from loopwright.feedback.pairs import check_settings, convert
from loopwright.runtime.runtime import Runtime
from loopwright.training.direct_config import DirectConfig, PreferenceConfig
from loopwright.training.judged_groups import Group, Labelled, as_continuations, group, keys_of, that_fit
from loopwright.training.judgement_files import Source, ages_of, read_all

Given = Mapping[str, Source]  # of each kind


class Judged(NamedTuple):
    """What a stage trains on, and what it is assessed on."""

    train: list[Group]
    held_out: list[Group]
    counts: dict[str, int]


def read_judged(
    config: DirectConfig,
    given: Given,
    ages: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    runtime: Runtime,
) -> Judged:
    """Judgements by prompt, with rows of tokens, split so that no prompt is on both sides.

    What is said of a response that is longer than max_length with its prompt is left out, and counted: a response that
    was cut would be another one, and teach that answers end where they do not.

    Args:
        ages: of the files of each kind, in rounds; none: all are of this one.

    Raises:
        ConfigError: a setting finds nothing to act on.
        DataError: nothing is left to train on, a response answers no prompt, or too many rows are bad.
    """
    judgements, bad_rows, places = read_all(given, runtime, config.max_bad_share)
    rounds = ages_of(judgements, places, ages)
    stray = next((one for one in judgements if not one.prompt), None)
    if stray is not None:
        raise DataError(
            f"{stray.responses[0]!r:.60} answers no prompt, and a policy learns to answer; "
            f"give {runtime.stage} judgements of answers to prompts"
        )
    split = split_by_hash(keys_of(judgements), config.held_out_share, runtime.seed_for("split"))
    settings, by_prompt = config.judgements, config.judgements.weigh_by == "prompt"
    sides, too_long, ties = [], 0, 0
    for numbers in (split.train, split.held_out):
        converted = convert([judgements[i] for i in numbers], settings.conversion())
        if numbers is split.train:
            check_settings(settings, converted, runtime.stage)
        groups = group(converted)
        as_continuations(groups, tokenizer, append_eos=True)
        kept, left_out = that_fit(groups, max_length=config.max_length, by_prompt=by_prompt)
        for one in kept:
            one.scale(config.earlier_rounds_weight ** rounds[one.messages])
        sides.append(kept)
        too_long, ties = too_long + left_out, ties + converted.counts["ties"]
    train, held_out = sides
    if not train:
        raise DataError(
            f"no judgement is left to train on ({ties} ties, {too_long} of responses longer than "
            f"max_length = {config.max_length}); give judgements of more prompts"
        )
    if too_long:
        runtime.log(f"{too_long} judgements speak of rows longer than max_length = {config.max_length}: left out")
    counts = {"prompts": len(train), "prompts_held_out": len(held_out)}
    return Judged(train, held_out, counts | {"ties": ties, "too_long": too_long, "bad_rows": bad_rows})


def check_kinds(config: DirectConfig, given: Given) -> None:
    """Raise ConfigError where judgements of a kind that the stage's setting names are not given, or others are."""
    if "kinds" in config.model_fields_set and (missing := [kind for kind in config.kinds if kind not in given]):
        raise ConfigError(f"{config.section}.kinds names {missing[0]}, but none were given; leave it out")
    known = get_args(get_args(type(config).model_fields["kinds"].annotation)[0])
    if stray := [kind for kind in given if kind not in known]:
        raise ConfigError(
            f"{config.section} learns nothing from {stray[0]}, only from {', '.join(known)}; leave them out"
        )


def as_thumbs(groups: Sequence[Group], settings: PreferenceConfig) -> list[Group]:
    """The same with two labels for each pair: the better response is desirable, the other one is not.

    So Ethayarajh et al. 2024 (arXiv:2402.01306) break preferences up. A soft label stays soft.
    """
    found = []
    for one in groups:
        labels = list(one.labels)
        for pair in one.pairs:
            first = float(pair.choice == 0) if pair.probability is None else pair.probability
            for place, target in ((pair.first, first), (pair.second, 1 - first)):
                labels.append(Labelled(place, "thumb", target, pair.weight))
        own = replace(one, pairs=[], labels=labels)
        if settings.weigh_by == "prompt":
            own.scale(one.weight() / own.weight())
        found.append(own)
    return found
