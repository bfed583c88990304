"""What the reward stage says of its model on judgements that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.data.labelled import LabelledSplit
from loopwright.data.readers import read_records
from loopwright.data.tokenizer import bos_prefix, encode_texts
from loopwright.evaluation.judged_pairs import judged_pairs
from loopwright.evaluation.judging import judge
from loopwright.evaluation.label_accuracy import label_accuracy
from loopwright.evaluation.learning_curve import CurvePoint
from loopwright.evaluation.reward_model import assess_pairs, data_report
from loopwright.evaluation.sensitivity import rewordings_of
from loopwright.evaluation.text_scores import text_scores
from loopwright.feedback.pairs import of_criterion
from loopwright.models.encoders import cut_of, encode_and_cut_pairs, is_encoder
from loopwright.models.normalisation import Normalisation
from loopwright.rewards import Reward
from loopwright.rewards.calibration import calibration, preference_probability
from loopwright.rewards.reward_model import score_rows
from loopwright.schemas import Judgement, Prompt, Thumb
from loopwright.stages.reward_config import RewardConfig
from loopwright.stages.reward_data import Data, RewardInputs, teacher_scores
from loopwright.training.judged_groups import Group
from loopwright.training.label_model import LabelModel
from loopwright.training.preference_pairs import pairs_of, rows_in_use


def assess(
    model: PreTrainedModel, groups: Sequence[Group], scale: float, inputs: RewardInputs, pad_id: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Figures on held-out pairs of the normalised model, and its calibration table; empty without held-out pairs."""
    if not any(one.pairs for one in groups):
        return {}, {"bins": [], "ece": None, "pairs": 0}
    first, second, choice = held_out_scores(model, groups, pad_id)
    right = torch.where(first == second, 0.5, ((first > second) == (choice == 0)).double())
    probability = preference_probability(first, second, scale)
    table = calibration(probability, choice == 0) | {"scale": scale}
    of_chosen = torch.where(choice == 0, probability, 1 - probability)
    margin = torch.where(choice == 0, first - second, second - first)
    figures: dict[str, Any] = {
        "accuracy": float(right.mean()),
        "loss": float(-of_chosen.clamp(min=1e-12).log().mean()),
        "margin": float(margin.mean()),
        "ece": table["ece"],
    }
    return figures | _by_task_and_gold(first - second, right, groups, inputs), table


@torch.no_grad()
def accuracy_with_covariates(
    model: PreTrainedModel, label_model: LabelModel, groups: Sequence[Group], scale: float, pad_id: int
) -> dict[str, float]:
    """How often the label model calls held-out pairs right: by scores, and by what else shifts labels.

    Scores alone are what answers are worth; this is what people will say of them. Empty without covariates or pairs.
    """
    pairs = pairs_of(groups, {}, model.device)
    if not (label_model.has_covariates and len(pairs.chosen)):
        return {}
    scores = score_rows(model, rows_in_use(groups), pad_id).to(model.device)
    difference = label_model.differences(scale * scores, pairs)
    return {"accuracy_with_covariates": float(torch.where(difference == 0, 0.5, (difference > 0).double()).mean())}


def whole_assessment(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: Data,
    inputs: RewardInputs,
    config: RewardConfig,
    *,
    points: Sequence[CurvePoint],
    scale: float,
) -> dict[str, Any]:
    """What assessment.json holds: docs/reward_assessment.md; of the data alone where no pairs are held out."""
    train, held_out = (of_criterion(side, config.judgements.criterion) for side in data.judgements)
    on_data = {"data": data_report([*train, *_thumbs(data.judgements[0], config)], held_out)}
    if not any(group.pairs for group in data.held_out):
        return on_data
    texts = [(group.messages, response) for group in data.held_out for response in group.responses]
    scores = score_rows(model, [row for group in data.held_out for row in group.rows], tokenizer.pad_token_id)
    known = dict(zip(texts, scores.tolist(), strict=True))
    prompts = _read(inputs.prompts)
    pairs = judged_pairs(held_out, known, {prompt.messages: prompt.tags for prompt in prompts})
    score = text_scores(model, tokenizer, append_eos=config.append_eos, max_length=config.max_length)
    rewordings = rewordings_of([*prompts, *_read(inputs.paraphrased)])
    return assess_pairs(pairs, scale=scale, score=score, rewordings=rewordings, points=points) | on_data


def _thumbs(judgements: Sequence[Judgement], config: RewardConfig) -> list[Thumb]:
    """Those that are of the criterion: thumbs are of the whole answer."""
    return [one for one in judgements if isinstance(one, Thumb) and config.judgements.criterion is None]


def assess_single(model: PreTrainedModel, data: Data, folded: Normalisation, pad_id: int) -> dict[str, Any]:
    """How often thumbs, and how far ratings, are as the scores say; empty without any.

    Args:
        folded: what the model's scores were normalised by since it learned them.
    """
    groups, threshold = data.held_out, (-data.log_odds - folded.mean) / folded.scale
    rows = [(one.rows[label.place], label) for one in groups for label in one.labels if label.kind != "safety"]
    if not rows:
        return {}
    scores = score_rows(model, [row for row, _ in rows], pad_id).double()
    figures: dict[str, Any] = {}
    thumbs = torch.tensor([label.kind == "thumb" for _, label in rows])
    targets = torch.tensor([label.target for _, label in rows], dtype=torch.float64)
    if thumbs.any():
        right = (scores[thumbs] > threshold) == (targets[thumbs] > 0.5)
        figures |= {"thumb_accuracy": float(right.double().mean()), "thumbs_held_out": int(thumbs.sum())}
    if (~thumbs).sum() > 1 and targets[~thumbs].std() > 0:
        both = torch.corrcoef(torch.stack((scores[~thumbs], targets[~thumbs])))
        figures |= {"rating_correlation": float(both[0, 1]), "ratings_held_out": int((~thumbs).sum())}
    return figures


def agreement(
    model: PreTrainedModel, teacher: Reward, groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """How often the model orders two held-out responses as its teacher does; equal scores count half."""
    right, pairs = 0.0, 0
    own = score_rows(model, [row for one in groups for row in one.rows], tokenizer.pad_token_id)
    start = 0
    for theirs in teacher_scores(groups, teacher, tokenizer):
        ours = own[start : start + len(theirs)]
        start += len(theirs)
        for a, b in combinations(range(len(theirs)), 2):
            if theirs[a] != theirs[b]:
                pairs += 1
                right += 0.5 if ours[a] == ours[b] else float((theirs[a] > theirs[b]) == (ours[a] > ours[b]))
    return {"teacher_agreement": right / pairs, "teacher_pairs": pairs} if pairs else {}


def assess_labels(
    model: PreTrainedModel, labels: LabelledSplit, config: RewardConfig, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """Unreadable lines, sentences, and how often held-out labels are called right; sentences as in training."""
    end = [tokenizer.eos_token_id] if config.append_eos else []

    def score(texts: list[str]) -> Tensor:
        if is_encoder(model.config):
            rows, _ = encode_and_cut_pairs(tokenizer, [None] * len(texts), texts, cut_of(model))
            return score_rows(model, rows, tokenizer.pad_token_id)
        rows = [bos_prefix(tokenizer) + ids + end for ids in encode_texts(tokenizer, texts)]
        return score_rows(model, [row[: config.max_length] for row in rows], tokenizer.pad_token_id)

    figures: dict[str, float] = {"bad_rows": labels.bad_rows, "sentences": len(labels.train.texts)}
    if labels.held_out is None:
        return figures
    figures |= {"sentences_held_out": len(labels.held_out.texts)}
    return figures | label_accuracy(score, labels.train, labels.held_out)


def held_out_scores(model: Any, groups: Sequence[Group], pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """[N] scores of the first and of the second response of each pair, and [N] which of them was chosen."""
    rows = [row for one in groups for row in one.rows]
    scores = score_rows(model, rows, pad_id)
    first, second, choice, start = [], [], [], 0
    for one in groups:
        first += [start + pair.first for pair in one.pairs]
        second += [start + pair.second for pair in one.pairs]
        choice += [pair.choice for pair in one.pairs]
        start += len(one.rows)
    return scores[torch.tensor(first)], scores[torch.tensor(second)], torch.tensor(choice)


def _by_task_and_gold(
    difference: Tensor, right: Tensor, groups: Sequence[Group], inputs: RewardInputs
) -> dict[str, Any]:
    """Accuracy by the prompts' task, and against the judges' noise-free order; what the inputs allow."""
    prompts = {prompt.messages: prompt for prompt in _read(inputs.prompts)}
    by_task: dict[str, list[float]] = {}
    true: list[float] = []
    pairs = [(one, pair) for one in groups for pair in one.pairs]
    for i, (one, pair) in enumerate(pairs):
        prompt = prompts.get(one.messages)
        if prompt is None:
            continue
        if "task" in prompt.tags:
            by_task.setdefault(str(prompt.tags["task"]), []).append(float(right[i]))
        if inputs.judges is not None:
            a, b = (judge(inputs.judges, prompt, one.responses[k])["gold"] for k in (pair.first, pair.second))
            if a is not None and b is not None and a != b:
                true.append(0.5 if not difference[i] else float((a > b) == bool(difference[i] > 0)))
    figures: dict[str, Any] = {}
    if by_task:
        figures["accuracy_by_task"] = {
            task: {"accuracy": sum(hits) / len(hits), "pairs": len(hits)} for task, hits in sorted(by_task.items())
        }
    if true:
        figures |= {"accuracy_gold": sum(true) / len(true), "pairs_gold": len(true)}
    return figures


def _read(prompts: Path | Sequence[Prompt]) -> Sequence[Prompt]:
    return read_records(prompts, Prompt).records if isinstance(prompts, Path) else prompts
