"""The loop on least squares: small enough to know every number."""

import json
from typing import NamedTuple

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from loopwright.errors import CheckError, ConfigError
from loopwright.runtime.runtime import Runtime
from loopwright.training.batches import EpochOrder, split_rows
from loopwright.training.config import TrainConfig
from loopwright.training.loop import MicroLoss, fit
from loopwright.training.optim import make_optimizers

ROWS = 40


class Micro(NamedTuple):
    x: Tensor
    y: Tensor


class Net(nn.Module):
    """Names like those of a transformer, so that Muon finds its matrices."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 6)])
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x).squeeze(-1)


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, 3, generator=generator)
    return x, (x**2).sum(-1)


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


class Crash(Exception):
    pass


def train(folder, model, *, steps=20, crash_at=None, poison=None, trainings=1, **settings):
    defaults = dict(max_steps=steps, batch_size_per_device=8, save_steps=4, log_steps=3, learning_rate=0.01)
    config = TrainConfig(**(defaults | settings))
    x, y = data()
    if poison is not None:
        y[poison] = torch.nan
    order = EpochOrder(ROWS, config.rows_per_step, seed=1)

    def batch(step):
        if step == crash_at:
            raise Crash
        rows = split_rows(order.rows_of(step), config.batch_size_per_device)
        return [Micro(x[i], y[i]) for i in rows]

    def loss(micro):
        error = model(micro.x) - micro.y
        return MicroLoss((error**2).sum(), len(micro.x), {"bias": float(error.detach().sum())})

    def evaluate():
        return {"eval_loss": float(((model(x) - y) ** 2).mean())}

    runtime = Runtime.temporary(folder, stage="fit")
    result = fit(
        model,
        config,
        runtime,
        batch=batch,
        loss=loss,
        count=lambda m: len(m.x),
        steps=steps,
        trainings=trainings,
        evaluate=evaluate,
    )
    return result, lines(folder)


def lines(folder):
    timeless = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        timeless.append({k: v for k, v in json.loads(line).items() if k not in ("time", "tokens_per_second")})
    return timeless


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "muon", "muon_learning_rate": 0.02}], ids=["adamw", "muon"])
def test_it_learns(tmp_path, optimizer):
    first = float(((net()(data()[0]) - data()[1]) ** 2).mean().detach())
    result, _ = train(tmp_path, net(), steps=300, learning_rate=0.03, save_steps=100, **optimizer)
    assert result.evaluation["eval_loss"] < 0.4 * first


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "muon", "muon_learning_rate": 0.02}], ids=["adamw", "muon"])
@pytest.mark.parametrize("crash_at", [2, 4, 5, 10, 19])
@pytest.mark.parametrize("threads", [1, 2], indirect=True)
def test_a_resumed_run_is_the_undisturbed_run_to_the_bit(tmp_path, crash_at, optimizer, threads):
    whole, resumed, settings = net(), net(), {"accumulation": threads, **optimizer}
    expected = train(tmp_path / "whole", whole, **settings)
    with pytest.raises(Crash):
        train(tmp_path / "killed", net(), crash_at=crash_at, **settings)
    got = train(tmp_path / "killed", resumed, **settings)
    assert got == expected
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


MUON = {"optimizer": "muon", "muon_learning_rate": 0.02, "warmup_steps": 2}


def test_several_trainings_end_with_the_mean_of_their_weights(tmp_path):
    """Each is what it would be alone on the batches of its own steps."""

    def alone(number):
        x, y = data()
        order, model = EpochOrder(ROWS, 8, seed=1), net()
        config = TrainConfig(max_steps=5, batch_size_per_device=8, learning_rate=0.01, **MUON)

        def batch(step):
            rows = order.rows_of(number * 5 + step)
            return [Micro(x[rows], y[rows])]

        def loss(micro):
            return MicroLoss(((model(micro.x) - micro.y) ** 2).sum(), len(micro.x))

        runtime = Runtime.temporary(tmp_path / str(number), stage="fit")
        fit(model, config, runtime, batch=batch, loss=loss, count=lambda m: len(m.x), steps=5)
        return dict(model.named_parameters())

    together = net()
    result, recorded = train(tmp_path / "together", together, steps=5, trainings=3, log_steps=1, **MUON)
    parts = [alone(number) for number in range(3)]
    for name, parameter in together.named_parameters():
        assert_close(parameter, sum(part[name] for part in parts) / 3)
    assert result.steps == 15
    rates = [line["learning_rate"] for line in recorded if "learning_rate" in line]
    assert rates == rates[:5] * 3
    x, y = data()
    assert result.evaluation["eval_loss"] == float(((together(x) - y) ** 2).mean().detach())


@pytest.mark.parametrize("crash_at", [3, 5, 7, 10, 14])
def test_several_trainings_resumed_are_the_undisturbed_ones_to_the_bit(tmp_path, crash_at):
    whole, resumed = net(), net()
    settings = {"steps": 5, "trainings": 3, "save_steps": 5 if crash_at == 5 else 4, **MUON}
    expected = train(tmp_path / "whole", whole, **settings)
    with pytest.raises(Crash):
        train(tmp_path / "killed", net(), crash_at=crash_at, **settings)
    assert train(tmp_path / "killed", resumed, **settings) == expected
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_a_finished_run_started_again_gives_the_same_result(tmp_path):
    expected = train(tmp_path, net())
    again = net()
    assert train(tmp_path, again, crash_at=0) == expected


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "muon", "muon_learning_rate": 0.02}], ids=["adamw", "muon"])
def test_8_of_1_equals_1_of_8(tmp_path, optimizer, threads):
    one, eight = net(), net()
    train(tmp_path / "one", one, batch_size_per_device=8, accumulation=1, **optimizer)
    train(tmp_path / "eight", eight, batch_size_per_device=1, accumulation=8, **optimizer)
    for a, b in zip(one.parameters(), eight.parameters(), strict=True):
        # Muon orthogonalises in bfloat16, where a difference in the last bit of a gradient may show.
        assert_close(a, b, atol=1e-6 if not optimizer else 1e-3, rtol=0)
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "eight"), strict=True):
        assert a.keys() == b.keys() and a["step"] == b["step"]
        if "loss" in a:
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-3 if optimizer else 1e-5)


def test_the_step_by_hand(tmp_path):
    """AdamW's first step moves every weight by the learning rate against the sign of its gradient."""
    model, before = net(), net()
    train(tmp_path, model, steps=1, batch_size_per_device=ROWS, max_grad_norm=None, schedule="constant", adam_eps=1e-12)
    x, y = data()
    ((before(x) - y) ** 2).mean().backward()
    for now, then in zip(model.parameters(), before.parameters(), strict=True):
        assert_close(now, then - 0.01 * then.grad.sign(), atol=1e-5, rtol=0)


def test_recorded_figures_by_hand(tmp_path):
    model = net()
    x, y = data()
    error = (model(x) - y).detach()
    _, got = train(tmp_path, model, steps=1, batch_size_per_device=16, accumulation=3)
    assert got[0]["step"] == 1 and got[0]["stage"] == "fit" and got[0]["learning_rate"] == 0.01
    assert got[0]["loss"] == pytest.approx(float((error**2).mean()), rel=1e-5)
    assert got[0]["bias"] == pytest.approx(float(error.mean()), rel=1e-4)
    assert "eval_loss" in got[1]


def test_gradients_are_clipped(tmp_path):
    """SGD would show it directly; with AdamW it shows in the moments: a clipped gradient of norm 1e-3."""
    train(tmp_path, net(), steps=1, batch_size_per_device=ROWS, max_grad_norm=1e-3, save_steps=1)
    state = Runtime.temporary(tmp_path, stage="fit").restore().state["optimizers"]
    norm = torch.stack([moments["exp_avg"].norm() / 0.1 for moments in state.values()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    model = net()
    with pytest.raises(
        CheckError, match=r"the loss or gradient of step \d+ is not finite.*lower the learning rate"
    ) as stop:
        train(tmp_path, model, poison=17)
    step = int(str(stop.value).split("step ")[1].split()[0])
    saved = safetensors.torch.load_file(tmp_path / "scratch" / f"offending-batch-step-{step}.safetensors")
    assert saved["0.y"].isnan().any() and saved["0.x"].shape == (8, 3)
    kept = Runtime.temporary(tmp_path, stage="fit").restore()
    assert kept.step == step and all(w.isfinite().all() for w in kept.state["weights"].values())
    assert all(p.isfinite().all() for p in model.parameters())


def test_only_what_requires_gradients_is_trained_and_saved(tmp_path):
    model, before = net(), net()
    model.embed.requires_grad_(False)
    train(tmp_path, model)
    assert torch.equal(model.embed.weight, before.embed.weight)
    assert not torch.equal(model.head.weight, before.head.weight)
    assert not any("embed" in name for name in Runtime.temporary(tmp_path, stage="fit").restore().state["weights"])


def test_muon_takes_the_matrices_of_the_blocks():
    config = TrainConfig(max_steps=1, optimizer="muon", muon_learning_rate=0.5, learning_rate=0.25)
    model = net()
    optimizers = make_optimizers(model.named_parameters(), config)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = [p.detach().clone() for p in model.parameters()]
    optimizers.step()
    moved = {name: p - b for (name, p), b in zip(model.named_parameters(), before, strict=True)}
    state = optimizers.state()
    assert {n for n in state if "momentum_buffer" in state[n]} == {"layers.0.weight", "layers.1.weight"}
    assert_close(moved["embed.weight"], torch.full((8, 3), -0.25), atol=1e-4, rtol=0)
    # Orthogonalised, a matrix of equal entries keeps its one direction, at a length of about 1.
    assert 0.5 * 0.5 < float(moved["layers.0.weight"].norm()) < 0.5 * 1.5


def test_weights_decay_but_norms_and_biases_do_not():
    config = TrainConfig(max_steps=1, weight_decay=0.5, learning_rate=0.1)
    model, before = net(), net()
    optimizers = make_optimizers(model.named_parameters(), config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizers.step()
    assert_close(model.head.weight, before.head.weight * (1 - 0.1 * 0.5))
    assert torch.equal(model.head.bias, before.head.bias)


def test_evaluations_nobody_can_make(tmp_path):
    config = TrainConfig(max_steps=1, eval_steps=5)
    with pytest.raises(ConfigError, match="eval_steps = 5 has no effect without held-out data"):
        fit(net(), config, Runtime.temporary(tmp_path), batch=list, loss=None, count=len, steps=1)
