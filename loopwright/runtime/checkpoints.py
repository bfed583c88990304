"""Checkpoints: JSON for structure, safetensors for tensors, never pickle. Whole, or not there."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from loopwright.errors import ArtifactError
from loopwright.tracking.files import disk_full_is_an_error, publish, remove, sha256_file, write_atomically

KEPT = 2  # the newest, and one to fall back to when a disk damages it
_FILES = ("state.json", "tensors.safetensors")


class Checkpoint(NamedTuple):
    """What a stage saved, as it saved it: tensors on the CPU, tuples as tuples, integer keys as integers."""

    step: int
    state: dict[str, Any]


def save_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    """Write `folder/checkpoint-<step>/` and drop all but the last two.

    Args:
        state: nested dicts, lists and tuples of tensors, numbers, text and None.

    Raises:
        ArtifactError: the disk is full; the checkpoints before are intact.
        TypeError: a value of another kind (pickle would take it, and run it when loading).
    """
    tensors: dict[str, Tensor] = {}
    structure = _pack(state, tensors, "state")
    final = folder / f"checkpoint-{step:08d}"
    partial = folder / f".checkpoint-{step:08d}.partial"
    with disk_full_is_an_error(final):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            (partial / "state.json").write_text(json.dumps({"step": step, "state": structure}), encoding="utf-8")
            safetensors.torch.save_file(tensors, partial / "tensors.safetensors")
            hashes = {name: sha256_file(partial / name) for name in _FILES}
            write_atomically(partial / "hashes.json", json.dumps(hashes))
            publish(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    for old in _checkpoints(folder)[KEPT:]:
        remove(old)


def load_checkpoint(folder: Path, log: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint; damaged ones are passed over, with a line in the log.

    Raises:
        ArtifactError: the system would not let it be read; it may be whole, so it stays.
    """
    for path in _checkpoints(folder):
        try:
            hashes = json.loads((path / "hashes.json").read_text(encoding="utf-8"))
            if damaged := [name for name in _FILES if hashes.get(name) != sha256_file(path / name)]:
                raise ValueError(f"{damaged[0]} does not have the content it was saved with")
            saved = json.loads((path / "state.json").read_text(encoding="utf-8"))
            tensors = safetensors.torch.load_file(path / "tensors.safetensors")
            return Checkpoint(saved["step"], _unpack(saved["state"], tensors))
        except (FileNotFoundError, ValueError, KeyError, AttributeError, safetensors.SafetensorError) as error:
            log(f"{path} is damaged ({error}); going back to the checkpoint before it")
            remove(path)
        except OSError as error:
            raise ArtifactError(
                f"{error.filename or path}: cannot be read ({error.strerror or error}); mend the disk or the file's "
                "permissions and run the same command again, the checkpoint is kept"
            ) from error
    return None


def has_checkpoint(folder: Path) -> bool:
    return bool(_checkpoints(folder))


def newest_step(folder: Path) -> int | None:
    """The step of the newest checkpoint, by name alone."""
    found = _checkpoints(folder)
    return int(found[0].name.rpartition("-")[2]) if found else None


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def _pack(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """JSON that can be unpacked to exactly `value`; the tensors are put aside under their path as name."""
    if isinstance(value, Tensor):
        tensors[name] = _own_memory(value)
        return {"$tensor": name}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _pack(inner, tensors, f"{name}.{key}") for key, inner in value.items()}
        if all(isinstance(key, int | str) for key in value):  # optimizers number their parameters
            return {"$items": [[key, _pack(inner, tensors, f"{name}.{key}")] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        items = [_pack(inner, tensors, f"{name}.{position}") for position, inner in enumerate(value)]
        return {"$tuple": items} if isinstance(value, tuple) else items
    raise TypeError(
        f"{name} is a {type(value).__name__}; a checkpoint holds tensors, numbers, text, None and containers"
    )


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(inner, tensors) for inner in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$tuple" in value:
        return tuple(_unpack(inner, tensors) for inner in value["$tuple"])
    if "$items" in value:
        return {key: _unpack(inner, tensors) for key, inner in value["$items"]}
    return {key: _unpack(inner, tensors) for key, inner in value.items()}


def _own_memory(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, in memory of its own: safetensors refuses tensors that share theirs."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
