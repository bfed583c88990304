"""Any sequence classifier as a reward, as it is: what it says of one of its labels, of the text alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.config import Config, build
from loopwright.data.chat import prompt_text
from loopwright.data.tokenizer import encode_text
from loopwright.errors import ConfigError, DataError, ModelError
from loopwright.models.batching import in_batches
from loopwright.models.loading import load_classifier
from loopwright.models.tokens import context_length
from loopwright.rewards.base import Sample, Scores, check_scores

PADDING_TOLERANCE = 1e-4  # of a logit that padding must not move, relative to the largest
_LONGEST_KNOWN = 1_000_000  # tokenizers that do not know how much their model reads say 1e30

Encoding = dict[str, list[int]]  # input_ids, and token_type_ids where the model has them


class ClassifierConfig(Config):
    """What of a classifier is the reward; docs/rewards.md says it in formulas."""

    label: str | int | None = None  # a name in the model's id2label, or an index; None only where there is one label
    output: Literal["logit", "log_odds", "probability", "class"] = "logit"
    reads: Literal["response", "both"] = "response"  # both: prompt and response as a pair of texts
    sign: Literal[1, -1] = 1  # -1: the less of the label, the better
    max_tokens: PositiveInt | None = None  # of a text, special tokens included; None: as many as the model reads


class Classifier:
    """Scores a response by a label of a classifier that somebody trained, in float32, dropout off.

    The classifier reads text through its own tokenizer; a response that spells a special token stays text. What is
    longer than it reads is cut, counted in `cut`, and warned of once: first the beginning of the prompt, whose end the
    response answers, then the end of the response, which classifiers were not shown in training either.
    """

    def __init__(
        self,
        model: Path | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str = "classifier",
        device: torch.device | str = "cpu",
        **settings: Any,
    ) -> None:
        """`model`: a folder, or a model in memory in evaluation mode, which needs its tokenizer.

        Args:
            settings: those of `ClassifierConfig`.

        Raises:
            ConfigError: a setting is unknown or wrong, or no label or more than one is meant; the labels are listed.
            ModelError: the folder is no finished classifier, or its tokenizer does not tell two texts apart.
        """
        self.name = name
        self.settings = build(ClassifierConfig, settings, name)
        if isinstance(model, Path):
            self.model, self.tokenizer = load_classifier(model, device)
        elif tokenizer is None:
            raise ValueError("a classifier in memory needs its tokenizer")
        else:
            self.model, self.tokenizer = model, tokenizer
        self.label = _find_label(self.model.config, self.settings.label, name)
        if self.model.config.problem_type == "regression" and self.settings.output != "logit":
            raise ConfigError(
                f"{name}.output = {self.settings.output}: the model is a regression, whose output is no logit of a "
                "probability; write output: logit, which gives the output as it is"
            )
        if self.settings.reads == "both" and not _tells_apart(self.tokenizer):
            raise ModelError(
                f"{name}.reads = both: the classifier's tokenizer puts nothing between two texts, so prompt and "
                "response would run into one another; write reads: response"
            )
        self.max_tokens = _longest(self.model, self.tokenizer, self.settings.max_tokens)
        self.cut = 0  # samples so far of which only a part was read
        self._padding_shows = _padding_shows(self.model, self.tokenizer)

    def score(self, samples: Sequence[Sample]) -> Scores:
        """[B] the chosen output of each sample.

        Raises:
            DataError: a response is empty and the classifier reads no empty text.
            CheckError: a score is not finite.
        """
        logits = self.logits(samples)
        scores = _output(logits, self.label, self.settings.output, self.model.config.problem_type)
        return Scores(check_scores(self.name, self.settings.sign * scores, samples))

    def logits(self, samples: Sequence[Sample]) -> Tensor:
        """[B, L] float32 on the CPU: what the classifier gives for each of its labels."""
        rows = self._encode(samples)
        lengths = [len(row["input_ids"]) for row in rows]

        def outputs(batch: list[int]) -> Tensor:
            return _forward(self.model, [rows[i] for i in batch])

        return in_batches(self.model, lengths, outputs, one_by_one=self._padding_shows)

    def _encode(self, samples: Sequence[Sample]) -> list[Encoding]:
        texts: list[tuple[str, ...]] = [(sample.response,) for sample in samples]
        if self.settings.reads == "both":
            texts = [(prompt_text(sample.prompt.messages), sample.response) for sample in samples]
        rows = _encodings(self.tokenizer, texts)
        too_long = [i for i, row in enumerate(rows) if len(row["input_ids"]) > self.max_tokens]
        for i in too_long:
            rows[i] = self._cut_encoding(texts[i])
        if too_long and not self.cut:
            warnings.warn(
                f"{self.name} reads at most {self.max_tokens} tokens: {len(too_long)} of {len(samples)} are cut; "
                "it goes on cutting without saying so again (its attribute `cut` counts)",
                stacklevel=3,
            )
        self.cut += len(too_long)
        for row, sample in zip(rows, samples, strict=True):
            if not row["input_ids"]:
                row.update(self._nothing(sample))
        return rows

    def _cut_encoding(self, texts: tuple[str, ...]) -> Encoding:
        """The prompt loses its beginning; the response loses its end, once nothing of the prompt is left."""
        *before, response = texts
        special = self.tokenizer.num_special_tokens_to_add(pair=bool(before))
        if before and special + len(encode_text(self.tokenizer, response)) < self.max_tokens:
            return _encodings(self.tokenizer, [texts], self.max_tokens, "only_first")[0]
        last: Literal["only_first", "only_second"] = "only_second" if before else "only_first"
        return _encodings(self.tokenizer, [("",) * len(before) + (response,)], self.max_tokens, last)[0]

    def _nothing(self, sample: Sample) -> Encoding:
        """An empty text for a tokenizer that adds nothing to texts: the token that stands between documents."""
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return {"input_ids": [token]}
        raise DataError(
            f"{self.name} cannot read the empty response to prompt {sample.prompt.id!r}: its tokenizer adds no token "
            "to a text and has neither BOS nor EOS"
        )


def _output(logits: Tensor, label: int, output: str, problem_type: str | None) -> Tensor:
    """[B] from [B, L] logits; labels exclude each other, unless there is one, or each is a question of its own."""
    own = logits[:, label]
    if output == "logit":
        return own
    if logits.shape[1] == 1 or problem_type == "multi_label_classification":
        return {"log_odds": own, "probability": own.sigmoid(), "class": (own > 0).float()}[output]
    if output == "class":
        return (logits.argmax(1) == label).float()
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], dim=1)
    log_odds = own - others.logsumexp(1)  # log p / (1 - p): p itself would be 1 where the classifier is sure
    return log_odds if output == "log_odds" else log_odds.sigmoid()


def _find_label(config: Any, wanted: str | int | None, name: str) -> int:
    """The index of a label that was named exactly, by another case, or by its index."""
    labels = [str(config.id2label.get(i, f"LABEL_{i}")) for i in range(config.num_labels)]
    if wanted is None and len(labels) == 1:
        return 0
    listed = ", ".join(f"{i}: {label}" for i, label in enumerate(labels))
    if wanted is None:
        raise ConfigError(f"{name}.label is missing, and the classifier has {len(labels)}; choose one of {listed}")
    if isinstance(wanted, int):
        found = [wanted] if 0 <= wanted < len(labels) else []
    else:
        found = [i for i, label in enumerate(labels) if label == wanted]
        found = found or [i for i, label in enumerate(labels) if label.casefold() == wanted.casefold()]
    if not found:
        raise ConfigError(f"{name}.label = {wanted}: the classifier has no such label; choose one of {listed}")
    if len(found) > 1:
        raise ConfigError(f"{name}.label = {wanted} is the name of {len(found)} labels; write the index, of {listed}")
    return found[0]


def _encodings(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[tuple[str, ...]],
    max_tokens: int | None = None,
    cut: Literal["only_first", "only_second"] | None = None,
) -> list[Encoding]:
    """Texts or pairs of them, with the tokenizer's special tokens; `cut`: a prompt's beginning, a response's end."""
    pairs = [list(column) for column in zip(*texts, strict=True)]
    side = tokenizer.truncation_side
    tokenizer.truncation_side = "left" if cut == "only_first" and len(pairs) == 2 else "right"
    try:
        found = tokenizer(
            *pairs,
            truncation=cut or False,
            max_length=max_tokens,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
    finally:
        tokenizer.truncation_side = side
    kept = [key for key in ("input_ids", "token_type_ids") if key in found]
    return [{key: list(found[key][i]) for key in kept} for i in range(len(texts))]


def _forward(model: PreTrainedModel, rows: Sequence[Encoding], extra: int = 0) -> Tensor:
    """[B, L] logits of rows, padded on the right to the longest, and by `extra` more.

    The padding has the id that the model's config names: decoders find their last token by it, and some encoders
    count positions by it. Without one any id will do: decoders then read rows alone, encoders go by the mask.
    """
    width = max(len(row["input_ids"]) for row in rows) + extra
    pad_id = model.config.get_text_config().pad_token_id
    fill = {"input_ids": 0 if pad_id is None else pad_id, "token_type_ids": 0}
    inputs = {
        key: torch.tensor([row[key] + [fill[key]] * (width - len(row[key])) for row in rows], device=model.device)
        for key in fill
        if all(key in row for row in rows)
    }
    lengths = torch.tensor([len(row["input_ids"]) for row in rows], device=model.device)
    mask = (torch.arange(width, device=model.device) < lengths[:, None]).long()
    return model(**inputs, attention_mask=mask).logits.float()


def _padding_shows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether padding on the right changes what the model gives, as where its config names no padding."""
    row = _encodings(tokenizer, [("a",)])[0]
    if model.config.get_text_config().pad_token_id is None:
        return True
    with torch.no_grad():
        alone, padded = _forward(model, [row]), _forward(model, [row], extra=3)
    return bool((alone - padded).abs().max() > PADDING_TOLERANCE * alone.abs().max().clamp(min=1.0))


def _tells_apart(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer.num_special_tokens_to_add(pair=True) > tokenizer.num_special_tokens_to_add(pair=False)


def _longest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, wanted: int | None) -> int:
    """How many tokens the classifier reads: by its positions, its tokenizer and the setting, whichever is least."""
    limits = [wanted, context_length(model)]
    limits.append(tokenizer.model_max_length if tokenizer.model_max_length < _LONGEST_KNOWN else None)
    return min((limit for limit in limits if limit is not None), default=_LONGEST_KNOWN)
