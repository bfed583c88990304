"""What computes on this machine: measured once, kept beside the compiled operations, and in each run that uses it.

A run that goes on after a crash must compute as it began, or its numbers would end in other bits.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from loopwright.errors import ConfigError
from loopwright.kernels import library
from loopwright.kernels.linear import Products, onednn, pack, use

ROWS_LEARNING, ROWS_SAMPLING, WIDTHS = 384, 16, (512, 1376)
WORTH = 1.25  # times faster: below, MKL stays; a gain measured on one matrix is smaller in a whole step
MOST_ERROR = 1e-5  # of the largest number of a product, against float64


class Choice(NamedTuple):
    """What a run computes with on a CPU."""

    operations: Literal["c", "torch"]
    products: Products


def choose(folder: Path | None = None) -> Choice:
    """Compute from now on as this folder's run began, or with what is fastest here, which the folder then remembers.

    Raises:
        ConfigError: the run began with the C operations, and they cannot be compiled here.
    """
    path = None if folder is None else folder / "kernels.json"
    choice = _read(path)
    if choice is None:
        choice = Choice("torch" if library.compiled() is None else "c", _of_this_machine())
        _write(path, choice, temporary="kernels.partial")  # of a run that one process works in: what a kill left goes
    if choice.operations == "c" and library.compiled() is None:
        raise ConfigError(
            f"{path}: the run began with operations in C, which no compiler here can make (cc, or what CC names); "
            "install one, or delete the run's folder to start again without"
        )
    library.switch(on=choice.operations == "c")
    use(choice.products)
    return choice


def _of_this_machine() -> Products:
    path = library.machine_folder() / f"products-{library.processor()}-{torch.get_num_threads()}.json"
    found = _read(path)
    if found is None:
        found = Choice("c", _measured())
        _write(path, found, temporary=f"products.{os.getpid()}")
    return found.products


def _measured() -> Products:
    if not torch.backends.mkldnn.is_available():
        return Products()
    inputs, outputs = WIDTHS
    generator = torch.Generator().manual_seed(0)
    weight, many = (torch.randn(count, inputs, generator=generator) for count in (outputs, ROWS_LEARNING))
    few = many[:ROWS_SAMPLING].contiguous()

    def faster(x: Tensor, arranged: Tensor) -> bool:
        exact = x.double() @ weight.double().T
        error = (onednn(x, arranged) - exact).abs().max() / exact.abs().max()
        if error > MOST_ERROR:  # here it computes in less than float32
            return False
        return _seconds(lambda: torch.nn.functional.linear(x, weight)) > WORTH * _seconds(lambda: onednn(x, arranged))

    with torch.no_grad():
        learning = "onednn" if faster(many, weight) else "mkl"
        return Products(learning, "packed" if faster(few, pack(weight, ROWS_SAMPLING)) else "mkl")


def _seconds(product: Callable[[], Tensor]) -> float:
    """The best of many: what disturbs a measurement only ever makes it longer."""
    best = float("inf")
    for _ in range(60):
        start = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - start)
    return best


def _read(path: Path | None) -> Choice | None:
    """None where there is none, or it cannot be read: what is measured anew is as good."""
    if path is None:
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        operations: Literal["c", "torch"] = {"c": "c", "torch": "torch"}[found["operations"]]  # type: ignore[assignment]
        products = Products(**found["products"])
        return Choice(operations, products) if products.known() else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write(path: Path | None, choice: Choice, *, temporary: str) -> None:
    if path is not None:
        fresh = path.with_name(temporary)
        fresh.write_text(json.dumps({"operations": choice.operations, "products": choice.products._asdict()}) + "\n")
        fresh.replace(path)
