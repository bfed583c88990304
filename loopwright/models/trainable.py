"""What is trained: every weight, the top layers, or low-rank adapters (LoRA)."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from loopwright.config.base import Config
from loopwright.errors import ModelError
from loopwright.models.layers import after_layers, decoder_layers
from loopwright.models.loading import merged, quiet


class LoRAConfig(Config):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685); the names are peft's."""

    r: PositiveInt = 8
    alpha: PositiveFloat = 16
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    bias: Literal["none", "all", "lora_only"] = "none"
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"  # every linear layer of the blocks
    modules_to_save: tuple[str, ...] = ()  # trained whole beside the adapters; a reward model's head always is


class TrainableConfig(Config):
    """The choice, and the settings that belong to it."""

    mode: Literal["all", "top_layers", "lora"] = "all"
    layers: PositiveInt | None = None  # top_layers: how many
    lora: LoRAConfig | None = None  # lora: None takes the defaults

    @model_validator(mode="after")
    def _settings_fit_the_mode(self) -> Self:
        if self.layers is not None and self.mode != "top_layers":
            raise ValueError(f"layers = {self.layers} has no effect with mode = {self.mode}; set mode: top_layers")
        if self.lora is not None and self.mode != "lora":
            raise ValueError(f"lora has no effect with mode = {self.mode}; set mode: lora")
        if self.mode == "top_layers" and self.layers is None:
            raise ValueError("mode = top_layers needs layers, the number of layers from the top to train")
        return self


def make_trainable(model: PreTrainedModel, config: TrainableConfig, seed: int) -> Any:
    """Mark what is trained, or wrap the model in adapters drawn from the seed.

    "top_layers" trains the last N blocks, the final norm, and the head where it is not tied to the
    embeddings. A model that has adapters of these very settings goes on with them; others are merged
    first. What comes back is in evaluation mode (no dropout); adapters with dropout are put in training
    mode by whoever trains them.

    Raises:
        ModelError: more layers are asked for than there are, or targets name no layer of the model.
    """
    lora = config.lora or LoRAConfig()
    if isinstance(model, PeftModel):
        if config.mode == "lora" and made_with(model) == lora:
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("lora_" in name or "modules_to_save" in name)
            return model
        model = merged(model)
    if config.mode == "lora":
        return _with_adapters(model, lora, seed)
    model.requires_grad_(config.mode == "all")
    if config.mode == "top_layers":
        assert config.layers is not None
        layers = decoder_layers(model)
        if config.layers > len(layers):
            raise ModelError(f"layers = {config.layers}, but {type(model).__name__} has {len(layers)}; ask for fewer")
        for part in [*list(layers)[-config.layers :], *after_layers(model)]:
            part.requires_grad_(True)
        embeddings = {id(parameter) for parameter in model.get_input_embeddings().parameters()}
        for name, parameter in model.named_parameters():
            if not name.startswith(f"{model.base_model_prefix}.") and id(parameter) not in embeddings:
                parameter.requires_grad_(True)
    return model


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that training changes, in the model's order."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def linear_weights(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """[V, D] and [V] of a linear layer as it computes now, without gradient: adapters that are on are merged in."""
    module: Any = layer
    if isinstance(layer, ModulesToSaveWrapper):
        whole = module.original_module if module.disable_adapters else module.modules_to_save[module.active_adapters[0]]
        return linear_weights(whole)
    base = module.get_base_layer() if isinstance(layer, LoraLayer) else module
    weight = base.weight.detach()
    if isinstance(layer, LoraLayer) and not (module.disable_adapters or module.merged):
        for name in module.active_adapters:
            if name in module.lora_A:
                weight = weight + module.get_delta_weight(name).detach()
    bias = None if base.bias is None else base.bias.detach()
    return (weight.T if isinstance(base, Conv1D) else weight), bias


def why_not_merged(model: Any) -> str | None:
    """Why `linear_weights` does not tell what the layers of a model compute, in a few words; None where it does."""
    if isinstance(model, PeftModel) and getattr(model.active_peft_config, "is_prompt_learning", False):
        return "its adapters are learned prompts"
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            plain = isinstance(module, LoraLayer) and not any(module.lora_bias.values()) and not module.lora_variant
            if not plain or module.merged:
                return "its adapters are not plain LoRA, or merged"
            weight: Any = module.get_base_layer().weight
            if weight.dtype != torch.float32:
                return "merged into weights of less than float32 its adapters would round away"
    return None


def _with_adapters(model: PreTrainedModel, config: LoRAConfig, seed: int) -> PeftModel:
    model.requires_grad_(False)
    targets = _linear_names(model) if config.targets == "all-linear" else list(config.targets)
    whole = list(config.modules_to_save) + (["score"] if hasattr(model, "score") else [])
    adapters = PeftLoraConfig(
        r=config.r,
        lora_alpha=config.alpha,  # type: ignore[arg-type]
        lora_dropout=config.dropout,
        bias=config.bias,
        target_modules=targets,
        modules_to_save=sorted(set(whole)) or None,
    )
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            wrapped = get_peft_model(model, adapters)
    except ValueError as error:
        raise ModelError(
            f"lora.targets = {list(config.targets)} name no layer of {type(model).__name__}; "
            f"its linear layers end in {', '.join(sorted({name.rsplit('.', 1)[-1] for name in _linear_names(model)}))}"
        ) from error
    vars(wrapped)["made_with"] = config  # past nn.Module's own bookkeeping: no part of the state
    return wrapped.eval()


def made_with(model: PeftModel) -> LoRAConfig | None:
    """The settings of adapters that `make_trainable` made; None of others."""
    return vars(model).get("made_with")


def _linear_names(model: PreTrainedModel) -> list[str]:
    """Full names of the linear layers inside the blocks."""
    inside = {id(module) for module in decoder_layers(model).modules()}
    linear = (nn.Linear, Conv1D)
    return [name for name, module in model.named_modules() if isinstance(module, linear) and id(module) in inside]
