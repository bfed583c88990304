import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from loopwright.objectives.masking import loss_divisors, masked_mean, masked_sum, masked_var, scaled_sum, whiten

seeds = st.integers(0, 2**31)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    x = torch.tensor([[1.0, 3.0, 100.0], [5.0, 100.0, 100.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_sum(x, mask) == 9.0
    assert masked_mean(x, mask) == 3.0
    assert_close(masked_var(x, mask), torch.tensor(8.0 / 3.0))  # (4 + 0 + 4) / 3: biased
    root = math.sqrt(3 / 8)
    assert_close(whiten(x, mask), torch.tensor([[-2 * root, 0.0, 0.0], [2 * root, 0.0, 0.0]]))
    assert_close(whiten(x, mask, shift_mean=False), torch.tensor([[3 - 2 * root, 3.0, 0.0], [3 + 2 * root, 0.0, 0.0]]))


@given(seed=seeds)
def test_a_full_mask_is_the_plain_statistic(seed):
    x = normal(3, 5, seed=seed)
    mask = torch.ones_like(x).bool()
    assert_close(masked_mean(x, mask), x.mean())
    assert_close(masked_var(x, mask), x.var(unbiased=False))


@given(seed=seeds, junk=st.sampled_from([1e30, math.inf, math.nan]))
def test_padding_never_leaks_into_values_or_gradients(seed, junk):
    x = normal(3, 6, seed=seed)
    mask = torch.arange(6) < torch.tensor([[0], [4], [6]])
    results = []
    for values in (x, x.masked_fill(~mask, junk)):
        values = values.clone().requires_grad_()
        white = whiten(values, mask)
        (white * torch.arange(6.0)).sum().backward()
        results.append(
            (white.detach(), masked_mean(values, mask).detach(), masked_var(values, mask).detach(), values.grad)
        )
    assert_close(results[0], results[1])


@given(seed=seeds)
def test_whitening_does_not_depend_on_the_order_of_rows_or_on_padding_columns(seed):
    x, mask = normal(4, 5, seed=seed), torch.arange(5) < torch.tensor([[1], [2], [4], [5]])
    turned = whiten(x.flip(0), mask.flip(0)).flip(0)
    wider = whiten(torch.nn.functional.pad(x, (3, 2)), torch.nn.functional.pad(mask, (3, 2)))[:, 3:-2]
    assert_close(turned, whiten(x, mask))
    assert_close(wider, whiten(x, mask))


@pytest.mark.parametrize("function", [masked_mean, masked_var])
def test_an_empty_mask_gives_zero(function):
    assert function(torch.tensor([math.nan, 2.0]), torch.tensor([False, False])) == 0.0


def test_whitening_a_constant_gives_zeros_not_nan():
    assert_close(whiten(torch.full((2, 2), 7.0), torch.ones(2, 2).bool()), torch.zeros(2, 2))


def test_losses_of_a_minibatch_by_hand():
    """One response of 3 tokens and one of 1, of at most 4; losses 1, 2, 3 and 10."""
    losses = torch.tensor([[1.0, 2.0, 3.0], [10.0, 99.0, 99.0]])
    mask = torch.tensor([[True, True, True], [True, False, False]])
    expected = {
        "token_mean": (1 + 2 + 3 + 10) / 4,
        "response_mean": ((1 + 2 + 3) / 3 + 10) / 2,
        "response_sum": ((1 + 2 + 3) / 4 + 10 / 4) / 2,
    }
    for aggregation, value in expected.items():
        divisors = loss_divisors(mask, aggregation, most_tokens=4)
        if not isinstance(divisors, int):
            divisors = divisors[:, None].expand_as(mask)[mask]
        assert scaled_sum(losses[mask], 2.0, divisors).item() == pytest.approx(2.0 * value)


@given(seed=seeds)
def test_at_one_length_all_ways_to_add_losses_are_one(seed):
    losses, mask = normal(4, 3, seed=seed), torch.ones(4, 3).bool()
    for aggregation in ("token_mean", "response_mean", "response_sum"):
        divisors = loss_divisors(mask, aggregation, most_tokens=3)
        divisors = divisors if isinstance(divisors, int) else divisors[:, None]
        assert_close((losses / divisors).sum(), losses.mean())
