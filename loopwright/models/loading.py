"""Hugging Face folders in and out: what we write, transformers loads; what it loads as a causal LM, we train."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from peft import PeftModel
from pydantic import PositiveFloat, PositiveInt, model_validator
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from loopwright.config.base import Config
from loopwright.errors import ModelError
from loopwright.models.tokens import ensure_pad, match_vocabulary

NO_MODEL = "{} has no config.json; give the folder that save_pretrained wrote"


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder, with a pad token of its own.

    Raises:
        ModelError: there is none, it cannot be read, or it has no EOS.
    """
    tokenizer = read_tokenizer(folder)
    ensure_pad(tokenizer, str(folder))
    return tokenizer


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder as it is.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    check_folder(folder)
    try:
        with quiet():
            return tokenizer_class(folder).from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        if not (folder / "config.json").is_file():
            raise ModelError(NO_MODEL.format(folder)) from error
        raise ModelError(f"{folder} has no tokenizer that transformers can load ({_first_line(error)})") from error


def load_causal_lm(folder: Path, device: torch.device | str = "cpu") -> PreTrainedModel:
    """A causal LM in float32, dropout off, whose vocabulary fits the folder's tokenizer (see `ensure_pad`).

    Raises:
        ModelError: the folder is no model, its weights are pickled, or it is no causal LM.
    """
    model = load_weights(AutoModelForCausalLM, folder)
    match_vocabulary(model, load_tokenizer(folder))
    return without_dropout(model).to(device)  # type: ignore[arg-type]


def load_reward_model(folder: Path, device: torch.device | str = "cpu") -> PreTrainedModel:
    """A sequence classifier with one label, in float32, dropout off, whose vocabulary fits the folder's tokenizer.

    Raises:
        ModelError: as for `load_causal_lm`, or it has more labels than one.
    """
    model = load_weights(AutoModelForSequenceClassification, folder)
    check_one_label(model, folder)
    match_vocabulary(model, load_tokenizer(folder))
    return without_dropout(model).to(device)  # type: ignore[arg-type]


def check_one_label(model: PreTrainedModel, folder: Path) -> None:
    """Raise ModelError where a folder held no sequence classifier, or one of more labels than a reward model has heads.

    Of a causal LM transformers makes a classifier, too, with a head of chance.
    """
    if saved := [name for name in model.config.architectures or () if not name.endswith("ForSequenceClassification")]:
        raise ModelError(f"{folder} holds a {saved[0]}, which scores nothing; give a reward model's folder")
    if model.config.num_labels != getattr(model.config, "reward_heads", 1):
        raise ModelError(f"{folder} has {model.config.num_labels} labels; a reward model has one")


def load_classifier(
    folder: Path, device: torch.device | str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A sequence classifier of any family and number of labels, and its tokenizer, which may have neither EOS nor pad.

    In float32, dropout off.

    Raises:
        ModelError: as for `load_causal_lm`, or the folder holds no weights for the classifier's head.
    """
    model, found = load_weights(AutoModelForSequenceClassification, folder, output_loading_info=True)
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"{folder} holds no weights for {missing[0]}, so it is no finished classifier; "
            "give the folder of a model that was trained to classify"
        )
    return without_dropout(model).to(device), read_tokenizer(folder)  # type: ignore[arg-type]


def save_model(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a plain Hugging Face folder: safetensors, config, tokenizer; adapters are merged into the weights."""
    plain = merged(model)
    with quiet():
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def merged(model: Any) -> PreTrainedModel:
    """The model itself, or a copy of it with its adapters merged into the weights."""
    if not isinstance(model, PeftModel):
        return model
    with quiet():
        plain = copy.deepcopy(model).merge_and_unload()
    inputs, outputs = plain.get_input_embeddings(), plain.get_output_embeddings()
    if outputs is not None and plain.config.tie_word_embeddings and inputs.weight is not outputs.weight:
        # Training made them differ (modules_to_save): tying them again on loading would lose that.
        plain.config.tie_word_embeddings = torch.equal(inputs.weight, outputs.weight)
    return plain.requires_grad_(False)


def without_dropout(model: PreTrainedModel) -> PreTrainedModel:
    """Set every dropout probability of the modules to 0, also those that attention reads from a plain attribute.

    The config keeps what it says, so that a saved folder is as its author left it.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
    return model.eval()


def with_dropout(model: PreTrainedModel, share: float) -> PreTrainedModel:
    """Let every dropout of the modules drop so much while the model is trained; whole layers are never dropped."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = share
        for name, value in vars(module).items():
            if name.endswith("dropout") and isinstance(value, float):
                setattr(module, name, share)
    return model


class LlamaShape(Config):
    """The size of a Llama-shaped model that is trained from nothing."""

    hidden_size: PositiveInt = 128
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    kv_heads: PositiveInt | None = None  # None: as many as heads
    intermediate_size: PositiveInt = 352
    max_positions: PositiveInt = 512
    rope_theta: PositiveFloat = 10_000.0
    initializer_range: PositiveFloat = 0.02
    tie_embeddings: bool = True

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.heads or (self.hidden_size // self.heads) % 2:
            raise ValueError(
                f"hidden_size = {self.hidden_size} and heads = {self.heads} give heads of "
                f"{self.hidden_size / self.heads:g} dimensions; rotary positions need a whole, even number"
            )
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"heads = {self.heads} is not a multiple of kv_heads = {self.kv_heads}; change either")
        return self


def new_llama(shape: LlamaShape, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A random Llama with the tokenizer's vocabulary. The seed alone decides the weights."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads or shape.heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        initializer_range=shape.initializer_range,
        tie_word_embeddings=shape.tie_embeddings,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return without_dropout(model.float())


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and progress bars of transformers and peft inside; as they were after."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def load_weights(auto_class: Any, folder: Path, **settings: Any) -> Any:
    """What `from_pretrained` of a class of transformers gives: the folder's safetensors in float32.

    Raises:
        ModelError: the folder is no model, its weights are pickled, or they are none of this class.
    """
    check_folder(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(NO_MODEL.format(folder))
    if not list(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
        found = f"only pickled weights ({pickled[0]})" if pickled else "no weights"
        raise ModelError(f"{folder} has {found}; save the model as safetensors (pickles can run code when loaded)")
    try:
        with quiet():
            return auto_class.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, **settings
            )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        kind = auto_class.__name__.removeprefix("AutoModelFor")
        raise ModelError(f"{folder} cannot be loaded as a model for {kind} ({_first_line(error)})") from error


def tokenizer_class(folder: Path) -> Any:
    """AutoTokenizer, except where the folder asks for the plain class.

    There transformers 5 takes the class of the model's family all the same (Qwen2's brings tokens of its
    own), so the vocabulary would not be the one that was saved.
    """
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and (folder / "tokenizer.json").is_file():
        declared = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class")
        if declared in ("TokenizersBackend", "PreTrainedTokenizerFast"):
            return PreTrainedTokenizerFast
    return AutoTokenizer


def check_folder(folder: Path) -> None:
    """Raise ModelError where there is no such folder."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder; give a Hugging Face model folder (nothing is downloaded)")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
