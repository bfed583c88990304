"""A reward model's adapters beside its merged weights, so that it can lie over a policy's base again."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from loopwright.errors import ModelError
from loopwright.models.layers import unwrapped
from loopwright.models.trainable import LoRAConfig, TrainableConfig, make_trainable

FILE = Path("adapters") / "lora.safetensors"  # in a folder of its own: programs may load all weights they find
ROUNDING = 1e-5  # of the largest weight of a layer: merging adds in another order


def save_adapters(model: Any, config: LoRAConfig, folder: Path) -> None:
    """Write the low-rank matrices of a model that `make_trainable` wrapped, with the settings that made them."""
    (folder / FILE).parent.mkdir(exist_ok=True)
    tensors = {name: matrix.detach().contiguous() for name, matrix in _matrices(model).items()}
    safetensors.torch.save_file(tensors, folder / FILE, metadata={"lora": config.model_dump_json()})


def over_base(model: PreTrainedModel, folder: Path, policy: PreTrainedModel) -> PeftModel | str:
    """The same model as adapters over the policy's weights, or why it is not, in a few words.

    Args:
        model: what `folder` holds, with its adapters merged.
        policy: before it is wrapped. It must be what the adapters were trained over: base + adapters is then what was
            saved, to rounding.

    Raises:
        ModelError: the folder's adapters cannot be read.
    """
    file = folder / FILE
    if model.device != policy.device:
        return f"it is on {model.device}, and the policy on {policy.device}"
    if not file.is_file():
        return "it was not trained with LoRA"
    try:
        with safe_open(file, "pt") as opened:
            config = LoRAConfig.model_validate_json(opened.metadata()["lora"])
        saved = safetensors.torch.load_file(file)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}); delete it, and the merged weights are used") from error
    # What was trained whole is in the merged weights; dropout belongs to a training that is over.
    config = config.model_copy(update={"modules_to_save": (), "dropout": 0.0})
    wrapped = make_trainable(copy.deepcopy(model), TrainableConfig(mode="lora", lora=config), seed=0)
    matrices = _matrices(wrapped)
    if {name: m.shape for name, m in matrices.items()} != {name: m.shape for name, m in saved.items()}:
        return "its adapters do not fit its layers"
    theirs = dict(policy.base_model.named_parameters())
    with torch.no_grad():
        for name, matrix in matrices.items():
            matrix.copy_(saved[name])
        for path, layer in unwrapped(wrapped).base_model.named_modules():
            if isinstance(layer, LoraLayer):
                base, lora = cast("Any", layer.get_base_layer()), cast("Any", layer)
                found = theirs.get(f"{path}.weight")
                delta = lora.get_delta_weight("default")
                if found is None or found.shape != base.weight.shape or not _close(found + delta, base.weight):
                    return "its adapters were trained over other weights than the policy's"
                base.weight = found
    return wrapped.requires_grad_(False)


def _matrices(model: Any) -> dict[str, Tensor]:
    """By name under the body of the model."""
    return {name: p for name, p in unwrapped(model).base_model.named_parameters() if ".lora_" in name}


def _close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=ROUNDING * float(other.abs().max()))
