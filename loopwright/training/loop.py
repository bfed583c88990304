"""The one training loop of pre-training, supervised fine-tuning and reward modelling."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from loopwright.errors import CheckError, ConfigError
from loopwright.models.checkpointing import checkpoint_blocks
from loopwright.runtime.runtime import Runtime
from loopwright.training.config import TrainConfig
from loopwright.training.gradients import accumulate, may_run_at_once
from loopwright.training.optim import learning_rate_factor, make_optimizers
from loopwright.training.precision import Masters

Micro = TypeVar("Micro")


@dataclasses.dataclass(frozen=True)
class MicroLoss:
    """The loss of one microbatch as sums, so that how a batch is cut never matters."""

    total: Tensor  # scalar: the SUM over tokens or pairs
    count: float  # of tokens or pairs
    stats: Mapping[str, float] = dataclasses.field(default_factory=dict)  # sums too; recorded divided by the count
    kept: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)  # added up over all steps of the training


class FitResult(NamedTuple):
    steps: int
    metrics: dict[str, float]  # the last figures recorded while training
    evaluation: dict[str, float]  # after the last step; empty without `evaluate`
    kept: dict[str, Tensor]  # what the losses kept, added up over all steps


@dataclasses.dataclass
class Window:
    """Sums since figures were last recorded. Part of the checkpoint: a resumed run records the same lines."""

    steps: int = 0
    total: float = 0.0
    count: float = 0.0
    grad_norm: float = 0.0
    stats: dict[str, float] = dataclasses.field(default_factory=dict)

    def add(self, total: float, count: float, grad_norm: float, stats: Mapping[str, float]) -> None:
        self.steps += 1
        self.total += total
        self.count += count
        self.grad_norm += grad_norm
        for name, value in stats.items():
            self.stats[name] = self.stats.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        stats = {name: value / self.count for name, value in self.stats.items()}
        return {"loss": self.total / self.count, "grad_norm": self.grad_norm / self.steps} | stats


def fit(  # noqa: PLR0913 -- what is trained, and the five functions that say how
    model: nn.Module,
    config: TrainConfig,
    runtime: Runtime,
    *,
    batch: Callable[[int], list[Micro]],
    loss: Callable[[Micro], MicroLoss],
    count: Callable[[Micro], float],
    steps: int,
    trainings: int = 1,
    evaluate: Callable[[], dict[str, float]] | None = None,
    unit: str = "tokens",
    rates: Mapping[str, float] | None = None,
) -> FitResult:
    """Train the model in place; goes on from the runtime's checkpoint, to the same bits.

    With several trainings, each begins with the weights the model came with, and the model ends with their mean.

    Args:
        model: its parameters that require gradients are trained (`make_trainable`).
        batch: the microbatches of a step (0-based), a pure function of it and of the weights before it.
        loss: of one microbatch. The loss of a step is the sum of totals over the sum of counts, so
            8 microbatches of 1 row and 1 of 8 rows are the same step. On a CPU it is called for several microbatches at
            the same time.
        count: of one microbatch, known before its loss.
        steps: of one training; they are numbered on through all of them.
        evaluate: figures on held-out data, every eval_steps and after the last step.
        unit: what is counted, for the figure `<unit>_per_second`.
        rates: learning rates of parameters that are no weights (`make_optimizers`).

    Raises:
        CheckError: the loss or the gradient is not finite; the state before the step is saved, and the
            batch written to the runtime's scratch folder.
    """
    if evaluate is None and config.eval_steps is not None:
        raise ConfigError(f"eval_steps = {config.eval_steps} has no effect without held-out data; hold some out")
    if config.gradient_checkpointing:
        checkpoint_blocks(model, True)
    training = _Training(model, config, runtime, steps, trainings, unit, rates)
    start, evaluation = training.restore(), {}
    steps *= trainings
    model.train()
    with runtime.progress(runtime.stage, steps, start) as bar:
        for step in range(start, steps):
            training.begin(step)
            micros = batch(step)
            shown = training.update(step, micros, loss, sum(count(micro) for micro in micros))
            done = step + 1
            if done == steps:
                training.finish()
            if done % config.log_steps == 0 or done == steps:
                training.record(done)
            if evaluate is not None and (done == steps or (config.eval_steps and done % config.eval_steps == 0)):
                evaluation = _evaluated(model, evaluate)
                runtime.record(done, evaluation)
            if done % config.save_steps == 0 or done == steps:
                training.save(done)
            bar.advance(loss=shown)
    if evaluate is not None and not evaluation:  # resumed after the last step
        evaluation = _evaluated(model, evaluate)
    training.masters.restore()
    if config.gradient_checkpointing:
        checkpoint_blocks(model, False)
    model.eval()
    return FitResult(steps, training.metrics, evaluation, training.kept)


class _Training:
    """What changes while training, and how it is saved."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        runtime: Runtime,
        steps: int,
        trainings: int,
        unit: str,
        rates: Mapping[str, float] | None,
    ) -> None:
        self.model = model
        self.config = config
        self.runtime = runtime
        self.steps = steps
        self.trainings = trainings
        self.unit = unit
        self.rates = rates
        self.masters = Masters(model, config.precision)
        self.beginning = {name: weight.clone() for name, weight in self.weights().items()} if trainings > 1 else {}
        self.sum: dict[str, Tensor] = {}  # of the weights that earlier trainings ended with
        self.optimizers = make_optimizers(self.masters.named.items(), config, rates)
        self.at_once = may_run_at_once(model) and config.precision == "float32"
        self.window = Window()
        self.metrics: dict[str, float] = {}
        self.kept: dict[str, Tensor] = {}
        self.clock, self.counted = time.perf_counter(), 0.0  # of this process: times are not resumed

    def restore(self) -> int:
        """Go back to the newest checkpoint; gives the number of steps done."""
        saved = self.runtime.restore()
        if saved is None:
            return 0
        self.put_back(saved.state["weights"])
        self.sum = {name: total.to(self.runtime.device) for name, total in saved.state["sum"].items()}
        self.kept = dict(saved.state["kept"])
        self.optimizers.load_state(saved.state["optimizers"])
        self.window, self.metrics = Window(**saved.state["window"]), dict(saved.state["metrics"])
        return saved.step

    def save(self, done: int) -> None:
        state = {
            "weights": self.weights(),
            "sum": self.sum,
            "optimizers": self.optimizers.state(),
            "window": dataclasses.asdict(self.window),
            "metrics": self.metrics,
            "kept": self.kept,
        }
        self.runtime.checkpoint(done, state)

    def weights(self) -> dict[str, Tensor]:
        return self.masters.state()

    def put_back(self, weights: Mapping[str, Tensor]) -> None:
        self.masters.load(dict(weights))

    def begin(self, step: int) -> None:
        """Where one of several trainings has ended: keep its weights, and go back to the first ones."""
        if step and step % self.steps == 0:
            self._keep()
            self.put_back(self.beginning)
            self.optimizers = make_optimizers(self.masters.named.items(), self.config, self.rates)

    def finish(self) -> None:
        """Take the mean of several trainings."""
        if self.trainings > 1:
            self._keep()
            self.put_back({name: total / self.trainings for name, total in self.sum.items()})

    def _keep(self) -> None:
        for name, weight in self.weights().items():
            self.sum[name] = self.sum[name] + weight if name in self.sum else weight.clone()

    def update(self, step: int, micros: list[Micro], loss: Callable[[Micro], MicroLoss], denominator: float) -> float:
        """One optimizer step; gives its loss."""

        def share(micro: Micro) -> tuple[Tensor, MicroLoss]:
            part = loss(micro)
            return part.total / denominator, dataclasses.replace(part, total=part.total.detach())

        parts = accumulate(self.masters.weights, micros, share, at_once=self.at_once)
        total = sum(float(part.total) for part in parts)
        limit = math.inf if self.config.max_grad_norm is None else self.config.max_grad_norm
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self.optimizers.parameters, limit))
        if not math.isfinite(total + grad_norm):
            self.save(step)
            raise _not_finite(step, micros, parts, grad_norm, self.runtime.scratch)
        self.optimizers.step(learning_rate_factor(step % self.steps, self.steps, self.config))
        self.masters.write()
        self.window.add(total, denominator, grad_norm, _summed(parts))
        self.counted += denominator
        for part in parts:
            for name, value in part.kept.items():
                self.kept[name] = self.kept[name] + value if name in self.kept else value
        return total / denominator

    def record(self, done: int) -> None:
        """Write the means since the last time."""
        factor = learning_rate_factor((done - 1) % self.steps, self.steps, self.config)
        self.metrics = self.window.means() | {"learning_rate": self.config.learning_rate * factor}
        speed = self.counted / (time.perf_counter() - self.clock)
        self.runtime.record(done, self.metrics | {f"{self.unit}_per_second": speed})
        self.window, self.clock, self.counted = Window(), time.perf_counter(), 0.0


def _summed(parts: list[MicroLoss]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for part in parts:
        for name, value in part.stats.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def _evaluated(model: nn.Module, evaluate: Callable[[], dict[str, float]]) -> dict[str, float]:
    model.eval()
    with torch.no_grad():
        figures = evaluate()
    model.train()
    return figures


def _not_finite(step: int, micros: list[Any], parts: list[MicroLoss], grad_norm: float, scratch: Path) -> CheckError:
    """The error to raise; writes the microbatches to blame (all, when only the gradient is not finite)."""
    blamed = [i for i, part in enumerate(parts) if not torch.isfinite(part.total)] or list(range(len(parts)))
    tensors = {f"{i}.{name}": value for i in blamed for name, value in _tensors(micros[i]).items()}
    path = scratch / f"offending-batch-step-{step}.safetensors"
    if tensors:
        safetensors.torch.save_file(tensors, path)
    losses = [float(part.total / max(part.count, 1)) for part in parts]
    return CheckError(
        f"the loss or gradient of step {step} is not finite (losses {losses}, gradient norm {grad_norm}); the batch is "
        f"in {path} and the state before it in the checkpoint of step {step}: lower the learning rate or fix the data"
    )


def _tensors(micro: Any) -> dict[str, Tensor]:
    """The tensors of a microbatch (named tuple, dataclass or mapping, nested), by name, in memory of their own."""
    if isinstance(micro, Tensor):
        fields: Mapping[str, Any] = {"tensor": micro}
    elif isinstance(micro, Mapping):
        fields = micro
    elif dataclasses.is_dataclass(micro):
        fields = vars(micro)
    else:
        fields = getattr(micro, "_asdict", dict)()
    found = {name: v.detach().cpu().contiguous().clone() for name, v in fields.items() if isinstance(v, Tensor)}
    for name, part in fields.items():
        if hasattr(part, "_asdict"):
            found |= {f"{name}.{inner}": value for inner, value in _tensors(part).items()}
    return found
