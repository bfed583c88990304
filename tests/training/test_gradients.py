"""The gradient of a step is the same whether its microbatches are computed one by one or side by side."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from loopwright.models.loading import without_dropout
from loopwright.training import gradients
from loopwright.training.gradients import accumulate, may_run_at_once
from tests.tiny import FAMILIES, tiny_model

pytestmark = [pytest.mark.parametrize("threads", [2], indirect=True), pytest.mark.usefixtures("threads")]


def token_loss(model):
    def loss(ids):
        total = model(input_ids=ids, labels=ids).loss
        return total, float(total.detach())

    return loss


def gradients_of(model, micros, *, at_once):
    kept = accumulate(list(model.parameters()), micros, token_loss(model), at_once=at_once)
    return kept, [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_side_by_side_is_one_by_one(family, count):
    one_by_one = without_dropout(tiny_model(family))
    side_by_side = copy.deepcopy(one_by_one)
    micros = list(torch.randint(256, (count, 3, 20), generator=torch.Generator().manual_seed(0)))
    expected_kept, expected = gradients_of(one_by_one, micros, at_once=False)
    kept, got = gradients_of(side_by_side, micros, at_once=True)
    assert kept == pytest.approx(expected_kept, rel=1e-5)
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_they_are_the_same_to_the_bit_every_time():
    micros = list(torch.randint(256, (5, 3, 20), generator=torch.Generator().manual_seed(0)))
    first, *others = (gradients_of(without_dropout(tiny_model("llama")), micros, at_once=True) for _ in range(4))
    for kept, got in others:
        assert kept == first[0]
        assert all(torch.equal(a, b) for a, b in zip(got, first[1], strict=True))


def test_what_no_loss_reads_gets_no_gradient_and_what_is_there_is_added_to():
    """By hand: gradients of 3ab for (a, b) = (2, 5) are (15, 6) a microbatch."""
    a, b, unread = (nn.Parameter(torch.tensor(x)) for x in (2.0, 5.0, 1.0))
    a.grad = torch.tensor(100.0)
    kept = accumulate([a, b, unread], [1, 2], lambda micro: (3 * a * b, micro), at_once=True)
    assert (a.grad.item(), b.grad.item(), unread.grad) == (130, 12, None)
    assert kept == [1, 2]


def test_parameters_never_share_the_memory_of_a_gradient():
    a, b = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))
    accumulate([a, b], [1.0, 2.0], lambda scale: ((a + b).sum() * scale, None), at_once=True)
    a.grad.mul_(10)
    assert (a.grad.tolist(), b.grad.tolist()) == ([30.0] * 3, [3.0] * 3)


def test_a_gradient_lies_in_memory_as_its_parameter():
    """Fused optimizers walk both as they lie; autograd gives the gradient of a transposed weight transposed."""
    weight = nn.Parameter(torch.arange(6.0).reshape(2, 3))
    scale = torch.arange(6.0).reshape(3, 2)
    accumulate([weight], [1.0, 2.0], lambda by: ((weight.T * scale).sum() * by, None), at_once=True)
    assert weight.grad.stride() == weight.stride()
    assert weight.grad.tolist() == (3 * scale.T).tolist()


def test_only_pure_small_models_on_the_cpu_run_at_once(monkeypatch):
    pure, drawing = without_dropout(tiny_model("gpt2")), tiny_model("gpt2")
    assert may_run_at_once(pure)
    assert not may_run_at_once(pure, drawing)
    assert not may_run_at_once(copy.deepcopy(pure).to("meta"))
    pure.requires_grad_(False)  # what is not trained counts as well
    monkeypatch.setattr(gradients, "MOST_NUMBERS", sum(p.numel() for p in pure.parameters()) - 1)
    assert not may_run_at_once(pure)
