"""Train a reward model on what people prefer.

Stiennon et al. 2020 (arXiv:2009.01325) and Ouyang et al. 2022 (arXiv:2203.02155): a scalar head on the policy's
body, the Bradley-Terry loss on pairs, one epoch, scores normalised on samples of the starting policy.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.data.labelled import LabelledSplit, comparisons_of, read_split
from loopwright.data.readers import read_records
from loopwright.data.splits import split_by_hash
from loopwright.data.tokenizer import bos_prefix, encode_texts
from loopwright.errors import ConfigError, DataError
from loopwright.evaluation.judging import judge
from loopwright.evaluation.label_accuracy import label_accuracy
from loopwright.generation.base import SamplingConfig
from loopwright.generation.engines import make_engine
from loopwright.models.adapters import save_adapters
from loopwright.models.heads import reward_model_from
from loopwright.models.loading import load_causal_lm, load_tokenizer, merged, save_model
from loopwright.models.normalisation import fold_normalisation
from loopwright.models.tokens import context_length
from loopwright.models.trainable import LoRAConfig, make_trainable
from loopwright.objectives.preference import bradley_terry_loss, centering_penalty
from loopwright.rewards.calibration import calibration, preference_probability
from loopwright.rewards.reward_model import features_of_rows, score_rows
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Judge, Prompt, Ranking
from loopwright.stages.base import Stage, StageConfig, StageOutput, check_max_length, chosen_input
from loopwright.tracking.artifacts import Artifact
from loopwright.training.batches import EpochOrder, split_rows
from loopwright.training.config import TrainConfig, steps_to_train
from loopwright.training.loop import FitResult, MicroLoss, fit
from loopwright.training.preference_pairs import (
    Group,
    PairBatch,
    collate,
    group_by_prompt,
    may_branch,
    scores_of,
    tokenize_groups,
)
from loopwright.worlds import WORLDS


class RewardConfig(TrainConfig, StageConfig):
    """The `reward` section of a recipe. A row of a batch is a prompt with all its pairs."""

    epochs: PositiveFloat | None = 1.0  # more overfit
    batch_size_per_device: PositiveInt = 16
    average_of: PositiveInt = 1  # trainings in different orders, of whose weights the mean is taken
    model: Path | None = None  # a causal LM's folder to start from, where no stage makes one
    comparisons: Path | None = None  # jsonl of Comparison, where no stage collects feedback
    labelled: Path | None = None  # sentence<TAB>0/1, in place of comparisons: those with 1 are preferred
    pairs_per_sentence: PositiveInt = 2  # of the other label, at least; drawn from the seed
    held_out: Path | None = None  # jsonl of Comparison to assess on; None: a share of the prompts
    held_out_labelled: Path | None = None  # as labelled, to assess on
    held_out_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    append_eos: bool = True  # false where the scored responses are cut off before they end
    centering: NonNegativeFloat = 0.01  # of the squared sum of a pair's scores: keeps their mean near 0
    normalise_on: Literal["policy", "responses"] | None = None  # None: policy where there are prompts
    reference_samples: PositiveInt = 256
    sampling: SamplingConfig = SamplingConfig(max_new_tokens=40)  # of the reference samples

    @model_validator(mode="after")
    def _written_settings_have_an_effect(self) -> Self:
        if self.held_out is not None and "held_out_share" in self.model_fields_set:
            raise ValueError("held_out_share has no effect with held_out; leave one out")
        if self.normalise_on == "responses" and "sampling" in self.model_fields_set:
            raise ValueError("sampling has no effect with normalise_on = responses; leave one out")
        return self

    @model_validator(mode="after")
    def _labels_are_instead_of_comparisons(self) -> Self:
        if self.labelled is None:
            for name in sorted({"pairs_per_sentence", "held_out_labelled"} & self.model_fields_set):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect without labelled; set labelled or leave it out")
            return self
        for name in ("comparisons", "held_out"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} contradicts labelled, which makes its own comparisons; leave one out")
        if "sampling" in self.model_fields_set:
            raise ValueError("sampling has no effect with labelled, which brings no prompts; leave one out")
        if self.normalise_on == "policy":
            raise ValueError("normalise_on = policy contradicts labelled, which brings no prompts; set it to responses")
        if self.held_out_labelled is not None and "held_out_share" in self.model_fields_set:
            raise ValueError("held_out_share has no effect with held_out_labelled; leave one out")
        return self


@dataclass(frozen=True)
class RewardInputs:
    model: Path  # a causal LM's folder: where the body comes from, and the policy that reference samples come from
    comparisons: Path | Sequence[Comparison] = ()
    rankings: Path | Sequence[Ranking] = ()  # each counts as all the pairs it orders
    prompts: Path | Sequence[Prompt] = ()  # optional: task tags for the assessment
    judges: Mapping[str, Judge] | None = None  # optional: what the answers are truly worth
    held_out: Sequence[Comparison] = ()  # to assess on; none: the config's file, or a share of the prompts


class Data(NamedTuple):
    train: list[Group]
    held_out: list[Group]
    counts: dict[str, int]


def run(config: RewardConfig, inputs: RewardInputs, runtime: Runtime) -> StageOutput:
    """Pairs, a scalar head, one epoch, assessment, normalisation."""
    tokenizer = load_tokenizer(inputs.model)
    lm = load_causal_lm(inputs.model, runtime.device)
    check_max_length(config.max_length, lm)
    labels = None
    if config.labelled is not None:
        labels = read_split(config.labelled, config.held_out_labelled, runtime.output, config.max_bad_share)
        inputs = as_comparisons(labels, config, inputs, runtime)
    data = load_pairs(config, inputs, tokenizer, runtime)
    reference = reference_rows(config, data, lm, tokenizer, runtime)

    model = make_trainable(
        reward_model_from(lm, runtime.seed_for("head")), config.trainable, runtime.seed_for("adapters")
    )
    del lm
    fitted = train(model, config, data, tokenizer.pad_token_id, runtime)

    final = merged(model)
    folded = fold_normalisation(final, features_of_rows(final, reference, tokenizer.pad_token_id))
    assessment, table = assess(final, data.held_out, folded.scale, inputs, tokenizer.pad_token_id)
    if labels is not None:
        assessment |= assess_labels(final, labels, config, tokenizer)
    final.config.append_eos = config.append_eos  # so that whoever scores text knows how rows end
    save_model(final, tokenizer, runtime.output / "model")
    if config.trainable.mode == "lora":
        save_adapters(model, config.trainable.lora or LoRAConfig(), runtime.output / "model")
    (runtime.output / "calibration.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    normalisation = {
        "reference_samples": len(reference),
        "mean_before": folded.mean,
        "std_before": folded.std,
        "scale": folded.scale,
        "correlation": folded.correlation,
    }
    return StageOutput({"steps": fitted.steps, **data.counts, **assessment, "normalisation": normalisation})


def as_comparisons(labels: LabelledSplit, config: RewardConfig, inputs: RewardInputs, runtime: Runtime) -> RewardInputs:
    """The same inputs with the comparisons that follow from the labels."""
    if inputs.comparisons or inputs.rankings:
        raise ConfigError(f"reward.labelled = {config.labelled} contradicts the comparisons given; leave one out")
    pairs = partial(comparisons_of, per_sentence=config.pairs_per_sentence, seed=runtime.seed_for("labelled"))
    return replace(
        inputs, comparisons=pairs(labels.train), held_out=pairs(labels.held_out) if labels.held_out is not None else ()
    )


def load_pairs(
    config: RewardConfig, inputs: RewardInputs, tokenizer: PreTrainedTokenizerBase, runtime: Runtime
) -> Data:
    """Pairs by prompt, split so that no prompt (and no text that stands alone) is on both sides.

    Raises:
        DataError: no pair is left to train on, or too many rows are bad.
    """

    def read(given: Any, record: Any, name: str) -> tuple[list[Any], int]:
        if not isinstance(given, Path):
            return list(given), 0
        if given.is_file() and not given.stat().st_size:  # annotators may all rank, or all compare
            return [], 0
        bad = runtime.output / f"bad_{name}.jsonl"
        loaded = read_records(given, record, max_bad_share=config.max_bad_share, quarantine_file=bad)
        return loaded.records, len(loaded.bad)

    def groups_of(judgements: list[Comparison | Ranking]) -> tuple[list[Group], dict[str, int]]:
        groups, ties = group_by_prompt(judgements)
        kept, too_long = tokenize_groups(groups, tokenizer, append_eos=config.append_eos, max_length=config.max_length)
        return kept, {"ties": ties, "pairs_too_long": too_long}

    comparisons, bad_comparisons = read(inputs.comparisons, Comparison, "comparisons")
    rankings, bad_rankings = read(inputs.rankings, Ranking, "rankings")
    groups, counts = groups_of(comparisons + rankings)
    counts |= {"bad_rows": bad_comparisons + bad_rankings}
    given = inputs.held_out or config.held_out
    if given is not None:
        held_out, _ = groups_of(read(given, Comparison, "held_out")[0])
        keys = {group.key for group in held_out}
        train_groups = [group for group in groups if group.key not in keys]
    else:
        split = split_by_hash([group.key for group in groups], config.held_out_share, runtime.seed_for("split"))
        train_groups, held_out = [groups[i] for i in split.train], [groups[i] for i in split.held_out]
    if not train_groups:
        raise DataError(
            f"no pair is left to train on ({counts['ties']} ties, {counts['pairs_too_long']} pairs longer than "
            f"max_length = {config.max_length}); give comparisons of more prompts"
        )
    pairs = {"pairs": sum(len(g.pairs) for g in train_groups), "pairs_held_out": sum(len(g.pairs) for g in held_out)}
    return Data(train_groups, held_out, {"prompts": len(train_groups), **pairs, **counts})


def reference_rows(
    config: RewardConfig, data: Data, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, runtime: Runtime
) -> list[list[int]]:
    """Token rows on which scores get mean 0 and deviation 1: the starting policy's samples, or the judged responses."""
    groups = data.train + data.held_out
    rng = random.Random(runtime.seed_for("reference"))
    prompts = [group.prompt_ids for group in groups if group.messages]
    if config.normalise_on == "policy" and not prompts:
        raise ConfigError("reward.normalise_on = policy, but the comparisons have no prompts; set it to responses")
    if config.normalise_on == "responses" or not prompts:
        rows = [row for group in groups for row in group.rows if 0 < len(row) <= config.max_length]
        return rng.sample(rows, min(config.reference_samples, len(rows)))
    room = (context_length(lm) or 2**31) - config.sampling.max_new_tokens
    prompts = [prompt for prompt in prompts if len(prompt) <= room]
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
    rollouts = make_engine(lm, tokenizer).generate(chosen, config.sampling, seeds)
    return [rollouts.prompt_tokens(i) + rollouts.response_tokens(i) for i in range(len(chosen))]


def train(model: Any, config: RewardConfig, data: Data, pad_id: int, runtime: Runtime) -> FitResult:
    """The Bradley-Terry loss on all pairs; prompts and responses go through the model once a batch."""
    steps = steps_to_train(config, len(data.train))
    branches = may_branch(model, data.train, pad_id, runtime.device)
    lengths = [group.tokens() if branches else max(len(row) for row in group.rows) for group in data.train]
    order = EpochOrder(len(data.train), config.rows_per_step, runtime.seed_for("order"), lengths)

    def batch(step: int) -> list[PairBatch]:
        micros = split_rows(order.rows_of(step), config.batch_size_per_device)
        return [collate([data.train[i] for i in rows], pad_id, runtime.device, branches=branches) for rows in micros]

    def loss(micro: PairBatch) -> MicroLoss:
        found = scores_of(model, micro)
        chosen, rejected = found[micro.chosen], found[micro.rejected]
        total = bradley_terry_loss(chosen, rejected).sum()
        if config.centering:
            total = total + config.centering * centering_penalty(chosen, rejected).sum()
        margin = (chosen - rejected).detach()
        stats = {"accuracy": float((margin > 0).sum()), "margin": float(margin.sum())}
        return MicroLoss(total, len(micro.chosen), stats)

    def evaluate() -> dict[str, float]:
        first, second, choice = held_out_scores(model, data.held_out, pad_id)
        difference = torch.where(choice == 0, first - second, second - first)
        loss = -torch.nn.functional.logsigmoid(difference).mean()
        return {"eval_accuracy": float((difference > 0).double().mean()), "eval_loss": float(loss)}

    return fit(
        model,
        config,
        runtime,
        batch=batch,
        loss=loss,
        count=lambda micro: float(len(micro.chosen)),
        steps=steps,
        trainings=config.average_of,
        evaluate=evaluate if data.held_out else None,
        unit="pairs",
    )


def held_out_scores(model: Any, groups: Sequence[Group], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """[N] scores of the first and of the second response of each pair, and [N] which of them was chosen."""
    rows = [row for group in groups for row in group.rows]
    scores = score_rows(model, rows, pad_id)
    first, second, choice, start = [], [], [], 0
    for group in groups:
        first += [start + pair.first for pair in group.pairs]
        second += [start + pair.second for pair in group.pairs]
        choice += [pair.choice for pair in group.pairs]
        start += len(group.rows)
    return scores[torch.tensor(first)], scores[torch.tensor(second)], torch.tensor(choice)


def assess(
    model: PreTrainedModel, groups: Sequence[Group], scale: float, inputs: RewardInputs, pad_id: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures on held-out pairs of the normalised model, and its calibration table; empty without held-out pairs."""
    if not groups:
        return {}, {"bins": [], "ece": None, "pairs": 0}
    first, second, choice = held_out_scores(model, groups, pad_id)
    right = (first > second) == (choice == 0)
    probability = preference_probability(first, second, scale)
    table = calibration(probability, choice == 0) | {"scale": scale}
    of_chosen = torch.where(choice == 0, probability, 1 - probability)
    margin = torch.where(choice == 0, first - second, second - first)
    figures: dict[str, Any] = {
        "accuracy": float(right.double().mean()),
        "loss": float(-of_chosen.clamp(min=1e-12).log().mean()),
        "margin": float(margin.mean()),
        "ece": table["ece"],
    }
    return figures | _by_task_and_gold(first > second, right, groups, inputs), table


def assess_labels(
    model: PreTrainedModel, labels: LabelledSplit, config: RewardConfig, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Unreadable lines, sentences, and how often held-out labels are called right; sentences as in training."""
    end = [tokenizer.eos_token_id] if config.append_eos else []

    def score(texts: list[str]) -> Tensor:
        rows = [bos_prefix(tokenizer) + ids + end for ids in encode_texts(tokenizer, texts)]
        return score_rows(model, [row[: config.max_length] for row in rows], tokenizer.pad_token_id)

    figures: dict[str, float] = {"bad_rows": labels.bad_rows, "sentences": len(labels.train.texts)}
    if labels.held_out is None:
        return figures
    figures |= {"sentences_held_out": len(labels.held_out.texts)}
    return figures | label_accuracy(score, labels.train, labels.held_out)


def _by_task_and_gold(
    prefers_first: Tensor, right: Tensor, groups: Sequence[Group], inputs: RewardInputs
) -> dict[str, Any]:
    """Accuracy by the prompts' task, and against the judges' noise-free order; what the inputs allow."""
    records = read_records(inputs.prompts, Prompt).records if isinstance(inputs.prompts, Path) else inputs.prompts
    prompts = {prompt.messages: prompt for prompt in records}
    by_task: dict[str, list[bool]] = {}
    true: list[bool] = []
    pairs = [(group, pair) for group in groups for pair in group.pairs]
    for i, (group, pair) in enumerate(pairs):
        prompt = prompts.get(group.messages)
        if prompt is None:
            continue
        if "task" in prompt.tags:
            by_task.setdefault(str(prompt.tags["task"]), []).append(bool(right[i]))
        if inputs.judges is not None:
            a, b = (judge(inputs.judges, prompt, group.responses[k])["gold"] for k in (pair.first, pair.second))
            if a is not None and b is not None and a != b:
                true.append((a > b) == bool(prefers_first[i]))
    figures: dict[str, Any] = {}
    if by_task:
        figures["accuracy_by_task"] = {
            task: {"accuracy": sum(hits) / len(hits), "pairs": len(hits)} for task, hits in sorted(by_task.items())
        }
    if true:
        figures |= {"accuracy_gold": sum(true) / len(true), "pairs_gold": len(true)}
    return figures


def bind(config: RewardConfig, artifacts: Mapping[str, Artifact]) -> RewardInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: one is given neither way, or both ways.
    """
    model, feedback, world = (artifacts.get(role) for role in ("model", "feedback", "world"))
    if config.labelled is not None and feedback is not None:
        raise ConfigError(
            f"reward.labelled = {config.labelled} contradicts the stage feedback, which compares; leave one out"
        )
    return RewardInputs(
        model=chosen_input("reward.model", config.model, model, "model", "an sft or pretrain section"),
        comparisons=()
        if config.labelled is not None
        else chosen_input(
            "reward.comparisons", config.comparisons, feedback, "comparisons.jsonl", "a feedback section"
        ),
        rankings=() if feedback is None else feedback.file("rankings.jsonl"),
        prompts=() if world is None else world.file("prompts_train.jsonl"),
        judges=None if world is None else WORLDS[world.manifest.config["name"]].judges,
    )


def files(config: RewardConfig) -> list[Path]:
    """The user's files, whose content belongs to the artifact's key."""
    paths = (config.model, config.comparisons, config.labelled, config.held_out, config.held_out_labelled)
    return [path for path in paths if path is not None]


STAGE = Stage(
    name="reward",
    config=RewardConfig,
    needs={"model": ("sft", "pretrain"), "feedback": ("feedback",), "world": ("world",)},
    bind=bind,
    run=run,
    files=files,
)
