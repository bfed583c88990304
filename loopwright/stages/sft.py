"""Supervised fine-tuning: teach a language model to answer as people demonstrated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loopwright.data.chat import Example, encode_examples, ensure_chat_template
from loopwright.data.packing import PackedBatch
from loopwright.data.readers import Loaded, read_records
from loopwright.data.splits import split_by_hash
from loopwright.errors import ConfigError, DataError
from loopwright.models.loading import load_causal_lm, load_tokenizer, save_model
from loopwright.models.tokens import match_vocabulary
from loopwright.models.trainable import make_trainable
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Demonstration
from loopwright.stages.base import DATA, Stage, StageConfig, StageOutput, check_max_length, chosen_input
from loopwright.tracking.artifacts import Artifact
from loopwright.training.batches import EpochOrder, batches_of_documents
from loopwright.training.config import steps_to_train
from loopwright.training.examples import (
    ExampleBatches,
    ExamplesConfig,
    answer_loss,
    assess_examples,
    check_packing,
    on_device,
)
from loopwright.training.examples import learned_tokens as learned_answer_tokens
from loopwright.training.loop import MicroLoss, fit
from loopwright.training.next_tokens import predict
from loopwright.training.raw_text import RawText


class SFTConfig(StageConfig, ExamplesConfig):
    epochs: PositiveFloat | None = 2.0
    max_length: Annotated[int, Field(ge=2)] = 256  # tokens of prompt and answer together
    model: Path | None = None  # a Hugging Face folder; None: the pre-trained model
    demonstrations: Path | None = None  # JSON lines of Demonstration; None: people's, the world's, or the dataset's
    max_bad_share: Annotated[float, Field(ge=0, le=1)] = 0.05  # of unreadable rows; more stop the run
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.05  # of the prompts, by hash
    lm_loss_coef: NonNegativeFloat = 0.0  # weight of the loss on raw text, mixed in so that perplexity survives
    lm_tokens_ratio: PositiveFloat = 1.0  # tokens of raw text a step, for each token of the demonstrations
    text: Path | None = None  # that raw text; None: what the model was pre-trained on in this run

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        for name in ("text", "lm_tokens_ratio"):
            if self.lm_loss_coef == 0 and name in self.model_fields_set and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} has no effect with lm_loss_coef = 0; set lm_loss_coef (0.3 is a start) or drop {name}"
                )
        return self


class SFTCleanConfig(SFTConfig):
    """The same recipe, from the world's clean writers: what better demonstrations would buy without any feedback."""

    @model_validator(mode="after")
    def _demonstrations_are_the_worlds(self) -> Self:
        if self.demonstrations is not None:
            raise ValueError(
                f"demonstrations = {self.demonstrations} has no effect, because sft_clean learns from the world's "
                "clean writers; remove it"
            )
        return self


@dataclass(frozen=True)
class SFTInputs:
    model: Path  # a Hugging Face folder
    demonstrations: Path  # JSON lines of Demonstration
    text: Path | None = None  # raw text for lm_loss_coef


class Examples(NamedTuple):
    train: list[Example]
    held_out: list[Example]
    truncated: int  # answers cut at max_length, over both
    bad_rows: int


class Micro(NamedTuple):
    """A microbatch: of demonstrations, or of raw text with its weight."""

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    segment_ids: Tensor
    lm_weight: float | None = None  # None: demonstrations


def run(config: SFTConfig, inputs: SFTInputs, runtime: Runtime) -> StageOutput:
    """Cross-entropy of the answers, given their prompts (Ouyang et al. 2022, sec. 3.5).

    Writes model/ with its tokenizer, the chat template in it, and bad_rows.jsonl where rows were unreadable.
    """
    tokenizer, model = load_tokenizer(inputs.model), load_causal_lm(inputs.model, runtime.device)
    check_max_length(runtime.stage, config.max_length, model)
    if added := ensure_chat_template(tokenizer):
        runtime.log(f"the tokenizer has no chat template; storing ours, with new tokens {', '.join(added)}")
        if config.trainable.mode != "all":
            runtime.log(f"their embeddings stay as they are with trainable.mode = {config.trainable.mode}")
    match_vocabulary(model, tokenizer)
    examples = read_examples(config, inputs.demonstrations, tokenizer, runtime)
    model = make_trainable(model, config.trainable, runtime.seed_for("adapters"))
    if config.packing and len(examples.train) > 1:
        check_packing(model, examples.train, config.max_length)

    batches = Batches.of(examples.train, config, inputs, tokenizer, runtime)
    steps = steps_to_train(config, len(examples.train))
    before = assess(model, examples.held_out, config, tokenizer)
    fitted = fit(
        model,
        config,
        runtime,
        batch=batches.of_step,
        loss=partial(loss, model),
        count=learned_tokens,
        steps=steps,
        evaluate=lambda: assess(model, examples.held_out, config, tokenizer),
    )
    save_model(model, tokenizer, runtime.output / "model")
    counts = {"examples": len(examples.train), "held_out_examples": len(examples.held_out), "steps": steps}
    lost = {"truncated": examples.truncated, "bad_rows": examples.bad_rows}
    return StageOutput(counts | lost | fitted.evaluation | {"held_out_loss_before": before["held_out_loss"]})


def read_examples(config: SFTConfig, path: Path, tokenizer: PreTrainedTokenizerBase, runtime: Runtime) -> Examples:
    """Demonstrations as tokens, split by the hash of the prompt: no prompt is on both sides.

    An answer that does not fit `max_length` is cut, without an EOS: what is left of it is still right, and
    nothing teaches the model to stop there.

    Raises:
        DataError: a prompt alone fills `max_length`, or there are fewer than two different prompts.
    """
    loaded = read_records(
        path,
        Demonstration,
        max_bad_share=config.max_bad_share,
        quarantine_file=runtime.output / "bad_rows.jsonl",
    )
    given = loaded.records
    encoded = encode_examples(tokenizer, [record.prompt for record in given], [record.response for record in given])
    _check_prompts(encoded, loaded, config.max_length)
    cut = [
        example._replace(response_ids=example.response_ids[: config.max_length - len(example.prompt_ids)])
        for example in encoded
    ]
    truncated = sum(len(a.response_ids) < len(b.response_ids) for a, b in zip(cut, encoded, strict=True))
    if truncated:
        limit = f"max_length = {config.max_length} tokens"
        runtime.log(f"{truncated} of {len(cut)} answers are cut at {limit}; raise it to keep them whole")
    if loaded.bad:
        runtime.log(
            f"{len(loaded.bad)} rows of {path} are unreadable, the first is {loaded.bad[0].where}; see bad_rows.jsonl"
        )
    prompts = ["\n".join(f"{m.role}: {m.content}" for m in record.prompt) for record in loaded.records]
    split = split_by_hash(prompts, config.held_out_share, runtime.seed_for("held out"))
    if not split.held_out or not split.train:
        raise DataError(
            f"{path}: all {len(prompts)} demonstrations have one prompt; some must be held out, so give more"
        )
    return Examples([cut[i] for i in split.train], [cut[i] for i in split.held_out], truncated, len(loaded.bad))


@dataclass(frozen=True)
class Batches:
    """The microbatches of any step, from its number alone."""

    answers: ExampleBatches
    text: RawText | None = None  # when its loss is mixed in

    @classmethod
    def of(
        cls,
        examples: Sequence[Example],
        config: SFTConfig,
        inputs: SFTInputs,
        tokenizer: PreTrainedTokenizerBase,
        runtime: Runtime,
    ) -> Batches:
        """Raises ConfigError as `check_text`."""
        text, pad_id = None, int(tokenizer.pad_token_id)
        if config.lm_loss_coef:
            check_text(runtime.stage, config, inputs.text)
            assert inputs.text is not None
            length, seed = config.max_length, runtime.seed_for("text")
            text = RawText.read(inputs.text, tokenizer, row_tokens=length, rows_per_step=1, seed=seed)
        answers = ExampleBatches.of(examples, config, runtime.seed_for("order"), pad_id, runtime.device)
        return cls(answers, text)

    @property
    def order(self) -> EpochOrder:
        return self.answers.order

    def of_step(self, step: int) -> list[Micro]:
        micros = [Micro(*batch) for batch in self.answers.of_step(step)]
        return micros if self.text is None else micros + self._raw_text(step, self.answers.examples_of(step))

    def _raw_text(self, step: int, examples: Sequence[Example]) -> list[Micro]:
        """About `lm_tokens_ratio` times as many tokens of raw text as the examples have, in whole rows.

        Weighted so that the loss of the step is the mean over the answers' tokens plus `lm_loss_coef` times the
        mean over the text's.
        """
        config = self.answers.config
        assert self.text is not None and isinstance(config, SFTConfig)
        tokens_of_examples = sum(example.length for example in examples)
        rows = math.ceil(config.lm_tokens_ratio * tokens_of_examples / config.max_length)
        rows = min(rows, config.rows_per_step)
        first = step * config.rows_per_step  # so that steps never overlap
        numbers = [row for i in range(rows) for row in self.text.order.rows_of(first + i)]
        batches = batches_of_documents(self.text.documents, numbers, config, packing=config.packing)
        answers = sum(len(e.response_ids) - (not e.prompt_ids) for e in examples)
        tokens = sum(int((batch.labels[:, 1:] >= 0).sum()) for batch in batches)
        weight = config.lm_loss_coef * answers / tokens
        return [Micro(*on_device(batch, self.answers.device), weight) for batch in batches]


def loss(model: Any, micro: Micro) -> MicroLoss:
    """Cross-entropy of the answers' tokens, EOS included; of raw text all tokens, by its weight."""
    batch = PackedBatch(*micro[:4])
    if micro.lm_weight is None:
        return answer_loss(model, batch)
    weighted = predict(model, batch).total * micro.lm_weight
    return MicroLoss(weighted, 0.0, {"weighted_text_loss": float(weighted.detach())})


def learned_tokens(micro: Micro) -> float:
    """What the loss is divided by: raw text has its share in its weight."""
    return 0.0 if micro.lm_weight is not None else learned_answer_tokens(PackedBatch(*micro[:4]))


def assess(
    model: Any, examples: Sequence[Example], config: SFTConfig, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """How well held-out answers are predicted."""
    return assess_examples(model, examples, config.batch_size_per_device, int(tokenizer.pad_token_id))


def _check_prompts(encoded: Sequence[Example], loaded: Loaded[Demonstration], max_length: int) -> None:
    too_long = [i for i, example in enumerate(encoded) if len(example.prompt_ids) >= max_length]
    if too_long:
        first, others = too_long[0], len(too_long) - 1
        raise DataError(
            f"{loaded.sources[first]}: the prompt has {len(encoded[first].prompt_ids)} tokens, which leaves no room "
            f"for an answer in max_length = {max_length} (as {others} others); shorten or drop it, or raise max_length"
        )


def bind(config: SFTConfig, artifacts: Mapping[str, Artifact]) -> SFTInputs:
    """Inputs from the stages before, or from the paths in the config.

    Raises:
        ConfigError: there is no model to start from, nobody to learn from, or no raw text where some is mixed in.
    """
    written = artifacts.get("demonstrations") or (artifacts.get("world") if config.demonstrations is None else None)
    learned = chosen_input(
        "sft.demonstrations", config.demonstrations, written, "demonstrations.jsonl", "a world or dataset section"
    )
    return _inputs("sft", config, artifacts, learned)


def bind_clean(config: SFTCleanConfig, artifacts: Mapping[str, Artifact]) -> SFTInputs:
    """As `bind`, but that only a world has clean writers."""
    if "world" not in artifacts:
        raise ConfigError("sft_clean has no clean writers to learn from; add a world section or drop sft_clean")
    return _inputs("sft_clean", config, artifacts, artifacts["world"].file("demonstrations_clean.jsonl"))


def _inputs(stage: str, config: SFTConfig, artifacts: Mapping[str, Artifact], demonstrations: Path) -> SFTInputs:
    made, text = artifacts.get("model"), config.text
    if text is None and config.lm_loss_coef and made is not None:
        text = made.file("text.jsonl.gz")
    check_text(stage, config, text)
    start = made if config.model is None else None
    return SFTInputs(
        chosen_input(f"{stage}.model", config.model, start, "model", "a pretrain section"), demonstrations, text
    )


def check_text(stage: str, config: SFTConfig, text: Path | None) -> None:
    """Raise ConfigError where raw text is to be mixed in and there is none."""
    if config.lm_loss_coef and text is None:
        raise ConfigError(
            f"{stage}.lm_loss_coef needs raw text; name a file or folder in {stage}.text or pre-train in this run"
        )


def files(config: SFTConfig) -> list[Path]:
    return [path for path in (config.model, config.demonstrations, config.text) if path is not None]


NEEDS = {"model": ("pretrain",), "world": ("world",)}
OF_PEOPLE = {"world": DATA, "demonstrations": ("demonstrations",)}
STAGE = Stage("sft", SFTConfig, needs=NEEDS | OF_PEOPLE, bind=bind, run=run, files=files)
# Nothing is trained from it: evaluation compares with it, to tell what feedback buys from what cleaner data would.
CLEAN = Stage("sft_clean", SFTCleanConfig, needs=NEEDS, bind=bind_clean, run=run, files=files)
