"""Train a reward model on what people said of answers.

Stiennon et al. 2020 (arXiv:2009.01325) and Ouyang et al. 2022 (arXiv:2203.02155): a scalar head on the policy's
body, the Bradley-Terry loss on pairs, one epoch, scores normalised on samples of the starting policy. Other kinds of
judgement have losses of their own, on the same score.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.data.labelled import read_split
from loopwright.errors import ConfigError
from loopwright.evaluation.learning_curve import CurvePoint, learning_curve
from loopwright.feedback.pairs import check_kinds_of
from loopwright.models.adapters import save_adapters
from loopwright.models.encoders import (
    Cut,
    encoder_reward_model,
    is_encoder,
    is_encoder_folder,
    last_linear,
    load_encoder_tokenizer,
)
from loopwright.models.heads import reward_model_from
from loopwright.models.loading import (
    load_causal_lm,
    load_tokenizer,
    merged,
    save_model,
    with_dropout,
    without_dropout,
)
from loopwright.models.normalisation import Normalisation, fold_into_bias, fold_normalisation
from loopwright.models.trainable import LoRAConfig, make_trainable
from loopwright.objectives.preference import centering_penalty, plackett_luce_loss
from loopwright.rewards.reward_model import features_of_rows, scores_by_head
from loopwright.runtime.runtime import Runtime
from loopwright.stages import reward_spans
from loopwright.stages.base import (
    FEEDBACK,
    Stage,
    StageOutput,
    ages_of_rounds,
    check_max_length,
    chosen_input,
    judged,
    judgement_files,
)
from loopwright.stages.reward_assessment import (
    accuracy_with_covariates,
    agreement,
    assess,
    assess_labels,
    assess_single,
    held_out_scores,
    whole_assessment,
)
from loopwright.stages.reward_config import RewardConfig
from loopwright.stages.reward_data import HELD_OUT, Data, RewardInputs, as_judgements, load_data, reference_rows
from loopwright.tracking.artifacts import Artifact
from loopwright.training.batches import EpochOrder, split_rows
from loopwright.training.config import steps_to_train
from loopwright.training.judged_groups import Group, Pair
from loopwright.training.judgement_files import RECORDS
from loopwright.training.label_model import LabelModel, priors_of, reliabilities, spread_of
from loopwright.training.loop import FitResult, MicroLoss, fit
from loopwright.training.preference_pairs import JudgedBatch, bootstrap, collate, may_branch, scores_of
from loopwright.worlds import WORLDS


def run(config: RewardConfig, inputs: RewardInputs, runtime: Runtime) -> StageOutput:
    """Judgements, a scalar head, one epoch, normalisation, assessment."""
    if inputs.spans:
        if any(getattr(inputs, kind) for kind in RECORDS):
            raise ConfigError("spans make a model of tokens, the other kinds one of answers; train them in two stages")
        return reward_spans.run(config, inputs, runtime)
    start, tokenizer = load_start(inputs.model, runtime, config.heads)
    check_max_length(runtime.stage, config.max_length, start)
    check_start(config, is_encoder(start.config), inputs.model)
    labels = None
    if config.labelled is not None:
        labels = read_split(config.labelled, config.held_out_labelled, runtime.output, config.max_bad_share)
        inputs = as_judgements(labels, config, inputs, runtime)
    data = load_data(config, inputs, start, tokenizer, runtime)
    reference = reference_rows(config, data, start, tokenizer, runtime)

    model = to_train(start, config, runtime)
    del start
    label_model = make_label_model(config, data).to(runtime.device)
    fitted = train(model, label_model, config, data, tokenizer.pad_token_id, runtime)
    learned = of_annotators(label_model, data, fitted.kept)

    final = without_dropout(merged(model))
    if config.cut is not None:
        final.config.cut_rows = Cut(config.cut, config.max_length)._asdict()  # so that whoever scores text cuts it, too
    folded = normalise(final, reference, tokenizer.pad_token_id)
    assessment, table = assess(final, data.held_out, folded.scale, inputs, tokenizer.pad_token_id)
    assessment |= accuracy_with_covariates(final, label_model, data.held_out, folded.scale, tokenizer.pad_token_id)
    assessment |= assess_single(final, data, folded, tokenizer.pad_token_id)
    if data.teacher is not None and data.held_out:
        assessment |= agreement(final, data.teacher, data.held_out, tokenizer)
    if labels is not None:
        assessment |= assess_labels(final, labels, config, tokenizer)
    final.config.append_eos = config.append_eos  # so that whoever scores text knows how rows end
    final.config.preference_scale = folded.scale  # and what a difference of scores means: sigmoid(scale * difference)
    final.config.preference_mean = folded.mean  # and a score itself, to the loss: scale * score + mean
    save_model(final, tokenizer, runtime.output / "model")
    if config.trainable.mode == "lora":
        save_adapters(model, config.trainable.lora or LoRAConfig(), runtime.output / "model")
    points = curve_points(config, inputs, data, assessment.get("accuracy"), tokenizer.pad_token_id, runtime)
    whole = whole_assessment(final, tokenizer, data, inputs, config, points=points, scale=folded.scale)
    (runtime.output / "assessment.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
    (runtime.output / "calibration.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    normalisation = {
        "reference_samples": len(reference),
        "mean_before": folded.mean,
        "std_before": folded.std,
        "scale": folded.scale,
        "correlation": folded.correlation,
    }
    figures = {"steps": fitted.steps, **data.counts, **assessment, **learned, "normalisation": normalisation}
    return StageOutput(figures)


def check_start(config: RewardConfig, encoder: bool, model: Path) -> None:
    """Raise ConfigError where a setting has no effect on such a model."""
    if encoder and (idle := sorted({"sampling", "append_eos"} & config.model_fields_set)):
        raise ConfigError(f"reward.{idle[0]} has no effect on an encoder, which samples nothing; leave it out")
    if not encoder and (idle := [name for name in ("cut", "dropout") if getattr(config, name)]):
        raise ConfigError(f"reward.{idle[0]} has an effect on encoders alone, and {model} is none; leave it out")


def load_start(folder: Path, runtime: Runtime, heads: int = 1) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal LM, or an encoder under new heads, and its tokenizer."""
    if is_encoder_folder(folder):
        encoder = encoder_reward_model(folder, runtime.seed_for("head"), runtime.device, heads=heads)
        return encoder, load_encoder_tokenizer(folder)
    return load_causal_lm(folder, runtime.device), load_tokenizer(folder)


def to_train(start: PreTrainedModel, config: RewardConfig, runtime: Runtime) -> Any:
    """What was loaded as a reward model, of which the parameters that are trained require gradients."""
    seed = runtime.seed_for("head")
    body = start if is_encoder(start.config) else reward_model_from(start, seed, heads=config.heads)
    if config.dropout:
        with_dropout(body, config.dropout)
    return make_trainable(body, config.trainable, runtime.seed_for("adapters"))


def make_label_model(config: RewardConfig, data: Data) -> LabelModel:
    """What is learned of labels beside the scores."""
    pairs = [pair for one in data.train for pair in one.pairs]
    words = [
        len(one.responses[pair.first].split()) - len(one.responses[pair.second].split())
        for one in data.train
        for pair in one.pairs
    ]
    if "position" in config.covariates and all(pair.shown_first is None for pair in pairs):
        raise ConfigError("reward.covariates: no comparison says which response was shown first; leave position out")
    if config.annotators is not None:
        check_annotators(data)
    priors = [] if config.annotators is None else priors_of(annotators_of(data), config.annotators, data.gold)
    ties = config.judgements.ties == "davidson"
    return LabelModel(priors, config.covariates, spread_of(words), ties=ties)


def check_annotators(data: Data) -> None:
    """Raise ConfigError where nothing names its annotator, or something whose annotators have no reliability."""
    if not any(annotators_of(data)):
        raise ConfigError("reward.annotators: no comparison and no thumb names its annotator; leave it out")
    if any(one.listings for one in data.train):
        raise ConfigError("reward.annotators knows of no errors in whole lists; set judgements.rankings_as to pairs")
    if any(label.kind == "rating" for one in data.train for label in one.labels):
        raise ConfigError(
            "reward.annotators knows of no errors in numbers; set judgements.ratings_as to pairs or thumbs"
        )


def train(
    model: Any, label_model: LabelModel, config: RewardConfig, data: Data, pad_id: int, runtime: Runtime
) -> FitResult:
    """The losses of all that was said; prompts and responses go through the model once a batch."""
    steps = steps_to_train(config, len(data.train))
    branches = may_branch(model, data.train, pad_id, runtime.device)
    lengths = [one.tokens() if branches else max(len(row) for row in one.rows) for one in data.train]
    order = EpochOrder(len(data.train), config.rows_per_step, runtime.seed_for("order"), lengths)
    annotators = {name: number for number, name in enumerate(annotators_of(data))}
    everything = sum(one.weight() for one in data.train)
    only_pairs = not any(one.listings or one.labels for one in data.train)  # else a share of them says little
    drawn = bootstrap(len(data.train), config.heads, runtime.seed_for("bootstrap"))
    if config.dropout:
        torch.manual_seed(runtime.seed_for("dropout"))  # a checkpoint keeps how far it got

    def batch(step: int) -> list[JudgedBatch]:
        micros = split_rows(order.rows_of(step), config.batch_size_per_device)
        how: dict[str, Any] = {
            "branches": branches,
            "annotators": annotators,
            "unseen": step % steps < order.steps_per_epoch,
            "witnessed": step < order.steps_per_epoch,
        }
        return [
            collate(
                [data.train[i] for i in rows],
                pad_id,
                runtime.device,
                drawn=None if drawn is None else drawn[rows],
                **how,
            )
            for rows in micros
        ]

    def loss(micro: JudgedBatch) -> MicroLoss:
        by_head, pairs, weight = scores_of(model, micro), micro.pairs, micro.weight()
        of_heads = [
            loss_of_head(own, None if micro.drawn is None else micro.drawn[:, head], micro, label_model, config, data)
            for head, own in enumerate(by_head.unbind(1))
        ]
        total, scores = torch.stack(of_heads).mean(), by_head.mean(1)
        kept = {}
        if label_model.log_odds is not None and micro.unseen:
            total = total + label_model.prior_loss() * (weight / everything)
            kept = label_model.evidence(scores, pairs, micro.labels, data.log_odds) if micro.witnessed else {}
        margin = (scores[pairs.chosen] - scores[pairs.rejected]).detach()
        right = torch.where(pairs.tie, 0.5, (margin > 0).float())
        stats = {"accuracy": float((pairs.weight * right).sum()), "margin": float((pairs.weight * margin).sum())}
        return MicroLoss(total, weight, stats if only_pairs else {}, kept)

    def evaluate() -> dict[str, float]:
        first, second, choice = held_out_scores(model, data.held_out, pad_id)
        difference = torch.where(choice == 0, first - second, second - first)
        return {
            "eval_accuracy": float((difference > 0).double().mean()),
            "eval_loss": float(-logsigmoid(difference).mean()),
        }

    trained = nn.ModuleDict({"model": model, "labels": label_model}) if list(label_model.parameters()) else model
    return fit(
        trained,
        config,
        runtime,
        batch=batch,
        loss=loss,
        count=JudgedBatch.weight,
        steps=steps,
        trainings=config.average_of,
        evaluate=evaluate if any(one.pairs for one in data.held_out) else None,
        unit="prompts" if config.judgements.weigh_by == "prompt" else "judgements",
        rates={"labels.": config.label_learning_rate},
    )


def loss_of_head(  # noqa: PLR0913 -- what a head says, and what was said
    scores: Tensor,
    drawn: Tensor | None,
    micro: JudgedBatch,
    label_model: LabelModel,
    config: RewardConfig,
    data: Data,
) -> Tensor:
    """The sum over all that was said of the responses of a microbatch.

    Args:
        scores: [N] of the responses.
        drawn: [N] how often the head learns from what was said of each; None: once.
    """
    pairs, labels = micro.pairs, micro.labels
    often = torch.ones_like(scores) if drawn is None else drawn
    weight = pairs.weight * often[pairs.chosen]
    total = (weight * label_model(scores, pairs, unseen=micro.unseen)).sum()
    for listing in micro.listings:
        own = scores[list(listing.places)]
        total = total + listing.weight * often[listing.places[0]] * plackett_luce_loss(own, listing.ranks)
    of_labels = label_model.of_labels(scores, labels, data.log_odds, unseen=micro.unseen)
    total = total + (labels.weight * often[labels.place] * of_labels).sum()
    if config.centering:
        penalty = centering_penalty(scores[pairs.chosen], scores[pairs.rejected])
        total = total + config.centering * (weight * penalty).sum()
    return total


def annotators_of(data: Data) -> list[str | None]:
    """All who compared, ranked or gave thumbs, by name; None are those without one."""
    names = {pair.annotator for one in data.train for pair in one.pairs}
    names |= {label.annotator for one in data.train for label in one.labels if label.kind == "thumb"}
    return sorted(names, key=lambda name: (name is None, name))


def of_annotators(label_model: LabelModel, data: Data, kept: Mapping[str, Tensor]) -> dict[str, Any]:
    """What was learned of labels: covariates, ties, and how reliable each annotator is."""
    figures: dict[str, Any] = dict(label_model.figures())
    if label_model.log_odds is not None:
        people = zip(annotators_of(data), reliabilities(label_model, kept["evidence"], kept["labels"]), strict=True)
        figures["annotators"] = {str(name): person._asdict() for name, person in people}
    return figures


def curve_points(
    config: RewardConfig, inputs: RewardInputs, data: Data, accuracy: float | None, pad_id: int, runtime: Runtime
) -> list[CurvePoint]:
    """Held-out accuracy after all prompts, half of them, a quarter, ...: trainings of their own, not resumed."""
    if config.learning_curve is None or accuracy is None:
        return []

    def train_and_score(labelled: Sequence[Sequence[tuple[Group, Pair]]]) -> float:
        groups = [labels[0][0] for labels in labelled]
        model = to_train(load_start(inputs.model, runtime, config.heads)[0], config, runtime)
        part = data._replace(train=groups)
        with tempfile.TemporaryDirectory() as folder:
            beside = runtime.beside(Path(folder))
            train(model, make_label_model(config, part).to(runtime.device), config, part, pad_id, beside)
        first, second, choice = held_out_scores(model, data.held_out, pad_id)
        return float(((first > second) == (choice == 0)).double().mean())

    prompts = [[(one, pair) for pair in one.pairs] for one in data.train if one.pairs]
    sizes = sorted({math.ceil(len(prompts) / 2**halving) for halving in range(1, config.learning_curve)})
    points = learning_curve(train_and_score, prompts, sizes, seed=runtime.seed_for("curve"))
    return [*points, CurvePoint(sum(map(len, prompts)), accuracy)]


def normalise(model: PreTrainedModel, reference: list[list[int]], pad_id: int) -> Normalisation:
    """Give the scores mean 0 and deviation 1 on the reference samples."""
    if is_encoder(model.config):
        return fold_into_bias(last_linear(model), scores_by_head(model, reference, pad_id))
    return fold_normalisation(model, features_of_rows(model, reference, pad_id))


def bind(config: RewardConfig, artifacts: Mapping[str, Artifact]) -> RewardInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: one is given neither way, or both ways, or the dataset holds out something else.
    """
    world, dataset, feedback = artifacts.get("world"), artifacts.get("dataset"), judged(artifacts)
    if dataset is not None and (idle := sorted({"held_out", "held_out_share"} & config.model_fields_set)):
        raise ConfigError(f"reward.{idle[0]} has no effect beside a dataset, which holds out its own; leave it out")
    if config.labelled is not None and feedback:
        raise ConfigError(
            f"reward.labelled = {config.labelled} contradicts the stage {feedback[0].manifest.kind}, which compares; "
            "leave one out"
        )
    made = artifacts.get("model")
    model = chosen_input("reward.model", config.model, made, "model", "an sft or pretrain section")
    if made is not None:
        check_start(config, encoder=False, model=model)
    return RewardInputs(
        model=model,
        **_judgements(config, feedback),  # type: ignore[arg-type]
        ages=ages_of_rounds("reward", config.earlier_rounds_weight, feedback),
        prompts=() if world is None else world.file("prompts_train.jsonl"),
        paraphrased=() if world is None else world.file("prompts_paraphrased.jsonl"),
        judges=None if world is None else WORLDS[world.manifest.config["name"]].judges,
        held_out=() if dataset is None else dataset.file(HELD_OUT),
    )


def _judgements(config: RewardConfig, feedback: Sequence[Artifact]) -> dict[str, tuple[Path, ...]]:
    """The files of each kind of judgement that is trained on, one of each artifact."""
    kinds = () if config.labelled is not None else config.kinds if config.comparisons is None else ("comparisons",)
    check_kinds_of(config.judgements, kinds, "reward")
    if config.labelled is not None:
        return {}
    if config.comparisons is not None:
        newest = feedback[-1] if feedback else None
        chosen_input("reward.comparisons", config.comparisons, newest, "comparisons.jsonl", "a feedback section")
        return {"comparisons": (config.comparisons,)}
    return judgement_files("reward", config.feedback, feedback, config.kinds)


def files(config: RewardConfig) -> list[Path]:
    """The user's files, whose content belongs to the artifact's key."""
    gold = config.annotators.gold if config.annotators is not None else None
    judgements = (config.comparisons, config.feedback, config.labelled, config.held_out, config.held_out_labelled, gold)
    return [path for path in (config.model, *judgements, config.teacher) if path is not None]


STAGE = Stage(
    name="reward",
    config=RewardConfig,
    needs={"model": ("sft", "pretrain"), "judged.*": FEEDBACK, "world": ("world",)},
    bind=bind,
    run=run,
    files=files,
)
