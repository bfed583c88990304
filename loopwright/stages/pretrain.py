"""Pre-train a language model on raw text, or go on with one that exists."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.data.cleaning import CleaningConfig, CleaningReport, clean, document_key, with_set_aside
from loopwright.data.copies import contain_copies, share
from loopwright.data.packing import PackedBatch, PackedDocuments
from loopwright.data.readers import Document, Quarantine, read_texts, write_records
from loopwright.data.splits import split_by_hash
from loopwright.data.tokenizer import bos_prefix, document_start, encode_documents, encode_text, train_tokenizer
from loopwright.errors import ConfigError, DataError
from loopwright.evaluation.perplexity import perplexity
from loopwright.generation.base import SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.models.loading import LlamaShape, load_causal_lm, load_tokenizer, new_llama, save_model
from loopwright.models.tokens import context_length
from loopwright.models.trainable import make_trainable
from loopwright.runtime.runtime import Runtime
from loopwright.stages.base import Stage, StageConfig, StageOutput, check_max_length
from loopwright.tracking.artifacts import Artifact
from loopwright.tracking.files import publish
from loopwright.training.batches import EpochOrder, batches_of_documents
from loopwright.training.config import TrainConfig, steps_to_train
from loopwright.training.loop import MicroLoss, fit
from loopwright.training.next_tokens import predict

OPENING_TOKENS, CONTINUATION_TOKENS = 16, 64

Share = Annotated[float, Field(ge=0, le=1)]


class PretrainConfig(StageConfig, TrainConfig):
    epochs: PositiveFloat | None = 1.0
    max_length: Annotated[int, Field(ge=2)] = 256  # tokens in a row; longer documents are cut
    packing: bool = True  # False: what a step's rows hold, computed one document a row, those of like length together
    data: tuple[Path, ...] = ()  # files and folders; empty: the world's corpus
    held_out: Path | None = None  # text to assess on; None: the world's, else a share of the data
    text_field: str = "text"  # in jsonl and parquet
    max_bad_share: Share = 0.05  # of unreadable rows; more stop the run
    cleaning: CleaningConfig = CleaningConfig()
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.02  # of the documents, by hash
    model: Path | None = None  # a Hugging Face folder to go on with; None: a new model
    shape: LlamaShape = LlamaShape()  # of the new model
    vocab_size: PositiveInt = 4_096  # of the new tokenizer
    assess_documents: PositiveInt = 200  # of the held-out ones, and as many of the training ones
    copy_samples: NonNegativeInt = 64  # continuations searched for verbatim copies; 0: not searched
    copy_words: PositiveInt = 20  # the shortest run of words that counts as a copy

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> Self:
        written = self.model_fields_set
        if self.model is not None:
            for name in sorted({"shape", "vocab_size"} & written):
                raise ValueError(f"{name} has no effect beside model, which has its own; drop either")
        if self.held_out is not None and "held_out_share" in written:
            raise ValueError("held_out_share has no effect beside held_out; drop either")
        if self.copy_samples == 0 and "copy_words" in written:
            raise ValueError("copy_words has no effect with copy_samples = 0; drop either")
        return self


@dataclass(frozen=True)
class PretrainInputs:
    corpus: tuple[Path, ...]  # files and folders of raw text
    held_out: Path | None = None  # text that assessment uses and training never sees; None: a share of the corpus
    model: Path | None = None  # go on with this Hugging Face folder; None: a new model and tokenizer


class Texts(NamedTuple):
    train: list[str]
    held_out: list[str]


def run(config: PretrainConfig, inputs: PretrainInputs, runtime: Runtime) -> StageOutput:
    """Learn to predict the next token of clean text (Radford et al. 2018).

    Writes model/ (with its tokenizer), text.jsonl.gz (what it was trained on), held_out.jsonl, cleaning.json
    and, where rows were unreadable, bad_rows.jsonl.
    """
    texts = prepare(config, inputs, runtime)
    tokenizer, model = start(config, inputs, texts.train, runtime)
    check_max_length(runtime.stage, config.max_length, model)
    documents = PackedDocuments(
        encode_documents(tokenizer, texts.train), config.max_length, document_start(tokenizer), tokenizer.pad_token_id
    )
    order = EpochOrder(len(documents), config.rows_per_step, runtime.seed_for("order"))
    steps = steps_to_train(config, len(documents))
    model = make_trainable(model, config.trainable, runtime.seed_for("adapters"))
    held_out = texts.held_out[: config.assess_documents]

    fit(
        model,
        config,
        runtime,
        batch=partial(microbatches, documents, order, config, runtime.device),
        loss=partial(loss, model),
        count=learned_tokens,
        steps=steps,
        evaluate=lambda: {"held_out_loss": math.log(perplexity(model, tokenizer, held_out).perplexity)},
    )
    save_model(model, tokenizer, runtime.output / "model")
    seen = {"steps": steps, "epochs": steps / order.steps_per_epoch, "tokens_an_epoch": documents.tokens}
    return StageOutput(seen | assess(model, tokenizer, texts, config, runtime))


def prepare(config: PretrainConfig, inputs: PretrainInputs, runtime: Runtime) -> Texts:
    """Clean text, split; done once, and found again after a crash.

    Raises:
        DataError: nothing is left to train on, or nothing to assess on.
    """
    done = runtime.scratch / "texts"
    if not done.exists():
        partial_folder = runtime.scratch / "texts.partial"
        shutil.rmtree(partial_folder, ignore_errors=True)
        partial_folder.mkdir(parents=True)
        quarantine = Quarantine(partial_folder / "bad_rows.jsonl", config.max_bad_share)
        held_out = [document.text for document in read_texts([inputs.held_out])] if inputs.held_out else []
        found = read_texts(inputs.corpus, text_field=config.text_field, quarantine=quarantine)
        documents = [document._replace(source=within(document.source, inputs.corpus)) for document in found]
        texts, report = clean_and_split(documents, held_out, config, runtime.seed_for("held out"))
        report = with_set_aside(report, quarantine.bad, quarantine.count)
        runtime.log(f"kept {report.documents_out} of {report.documents_in} documents, {quarantine.count} unreadable")
        for name, part in (("text.jsonl.gz", texts.train), ("held_out.jsonl", texts.held_out)):
            write_records(partial_folder / name, ({"text": text} for text in part))
        (partial_folder / "cleaning.json").write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        publish(partial_folder, done)
    shutil.copytree(done, runtime.output, dirs_exist_ok=True)
    train = [document.text for document in read_texts([runtime.output / "text.jsonl.gz"])]
    return Texts(train, [document.text for document in read_texts([runtime.output / "held_out.jsonl"])])


def within(source: str, roots: Sequence[Path]) -> str:
    """The name of a source inside the folder that was given: the same wherever that folder lies."""
    for root in roots:
        source = source.removeprefix(f"{root.parent}/")
    return source


def clean_and_split(
    documents: Sequence[Document], held_out: Sequence[str], config: PretrainConfig, seed: int
) -> tuple[Texts, CleaningReport]:
    """Clean all, then hold out a share of what is left, unless other text is given to assess on."""
    cleaned = clean(documents, config.cleaning, exclude=held_out)
    texts = [document.text for document in cleaned.documents]
    if not held_out:
        split = split_by_hash([document_key(text) for text in texts], config.held_out_share, seed)
        texts, held_out = [texts[i] for i in split.train], [texts[i] for i in split.held_out]
    if not texts or not held_out:
        reasons = ", ".join(f"{row.documents} {row.reason}" for row in cleaned.report.rows if row.action == "dropped")
        raise DataError(
            f"cleaning left {len(cleaned.documents)} of {len(documents)} documents (dropped: {reasons or 'none'}), "
            "too few to train and assess on; give more text or relax the cleaning section"
        )
    return Texts(texts, list(held_out)), cleaned.report


def start(
    config: PretrainConfig, inputs: PretrainInputs, texts: Sequence[str], runtime: Runtime
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """The given model and its tokenizer, or new ones."""
    if inputs.model is not None:
        return load_tokenizer(inputs.model), load_causal_lm(inputs.model, runtime.device)
    tokenizer = train_tokenizer(texts, config.vocab_size)
    model = new_llama(config.shape, tokenizer, runtime.seed_for("weights"))
    return tokenizer, model.to(runtime.device)  # type: ignore[arg-type]


def microbatches(
    documents: PackedDocuments, order: EpochOrder, config: PretrainConfig, device: torch.device, step: int
) -> list[PackedBatch]:
    """The documents of a step, from its number alone (the first is step 0)."""
    batches = batches_of_documents(documents, order.rows_of(step), config, packing=config.packing)
    return [PackedBatch(*(tensor.to(device) for tensor in batch)) for batch in batches]


def loss(model: Any, batch: PackedBatch) -> MicroLoss:
    """Cross-entropy of every token of every document, EOS included."""
    found = predict(model, batch)
    return MicroLoss(found.total, float(found.tokens), {})


def learned_tokens(batch: PackedBatch) -> float:
    """What the loss is divided by."""
    return float((batch.labels[:, 1:] >= 0).sum())


def assess(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Texts, config: PretrainConfig, runtime: Runtime
) -> dict[str, Any]:
    """Held-out perplexity, its gap to the training text's, and the share of recited continuations."""
    held_out = perplexity(model, tokenizer, texts.held_out[: config.assess_documents])
    evenly = range(0, len(texts.train), max(1, len(texts.train) // config.assess_documents))  # files differ
    trained_on = perplexity(model, tokenizer, [texts.train[i] for i in evenly][: config.assess_documents])
    metrics: dict[str, Any] = {
        "documents": len(texts.train),
        "held_out_documents": len(texts.held_out),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "vocabulary": len(tokenizer),
        "perplexity": held_out.perplexity,
        "bits_per_byte": held_out.bits_per_byte,
        "held_out_loss": math.log(held_out.perplexity),
        "train_loss": math.log(trained_on.perplexity),
        "gap": math.log(held_out.perplexity) - math.log(trained_on.perplexity),
    }
    return metrics | (copies(model, tokenizer, texts, config, runtime) if config.copy_samples else {})


def copies(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Texts, config: PretrainConfig, runtime: Runtime
) -> dict[str, float | None]:
    """How many sampled continuations of held-out openings hold a long run of the training text, word for word.

    Beside it the same for the true continuations: templated text repeats itself whoever writes it.
    """
    context = context_length(model) or config.max_length
    opening = min(OPENING_TOKENS, context // 4)
    sampling = SamplingConfig(max_new_tokens=min(CONTINUATION_TOKENS, context - opening - 1))
    encoded = [encode_text(tokenizer, text) for text in texts.held_out]
    encoded = [ids for ids in encoded if len(ids) > opening][: config.copy_samples]
    if not encoded:
        return {"copied_share": None, "copied_share_of_held_out": None}
    prompts = [bos_prefix(tokenizer) + ids[:opening] for ids in encoded]
    seeds = [runtime.seed_for("copies", i) for i in range(len(prompts))]
    engine = make_engine(model, tokenizer, runtime.log)
    sampled = decode_responses(tokenizer, engine.generate(prompts, sampling, seeds))
    true = [str(tokenizer.decode(ids[opening : opening + sampling.max_new_tokens])) for ids in encoded]
    found = contain_copies([*sampled, *true], texts.train, config.copy_words)
    return {"copied_share": share(found[: len(sampled)]), "copied_share_of_held_out": share(found[len(sampled) :])}


def bind(config: PretrainConfig, artifacts: Mapping[str, Artifact]) -> PretrainInputs:
    world = artifacts.get("world")
    dataset = [artifacts["dataset"].file("text.jsonl.gz")] if "dataset" in artifacts else []
    if config.data or dataset:
        return PretrainInputs((*config.data, *dataset), config.held_out, config.model)
    if world is None:
        raise ConfigError(
            "pretrain has no text; name files or folders in pretrain.data, or add a world or dataset section"
        )
    return PretrainInputs((world.file("corpus"),), config.held_out or world.file("held_out.jsonl"), config.model)


def files(config: PretrainConfig) -> list[Path]:
    return [path for path in (*config.data, config.held_out, config.model) if path is not None]


STAGE = Stage(
    "pretrain", PretrainConfig, needs={"world": ("world",), "dataset": ("dataset",)}, bind=bind, run=run, files=files
)
