import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from loopwright.objectives.language_modelling import IGNORED, next_token_cross_entropy


def problem(seed=0, batch=3, length=6, dim=4, vocabulary=10):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(batch, length, dim, generator=generator, requires_grad=True)
    weight = torch.randn(vocabulary, dim, generator=generator, requires_grad=True)
    bias = torch.randn(vocabulary, generator=generator, requires_grad=True)
    labels = torch.randint(0, vocabulary, (batch, length), generator=generator)
    ignored = torch.rand(batch, length, generator=generator) < 0.4
    return hidden, weight, bias, labels.masked_fill(ignored, IGNORED)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), scale=st.floats(0.1, 3.0))
def test_equals_torchs_own_with_its_gradients(seed, scale):
    results = []
    for ours in (False, True):
        hidden, weight, bias, labels = problem(seed)
        if ours:
            got = next_token_cross_entropy(hidden, weight, labels, bias=bias)
            total, count = got.total, got.tokens
        else:
            logits = (hidden @ weight.T + bias)[:, :-1]
            total = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
            count = (labels[:, 1:] != IGNORED).sum()
        (total * scale).backward()
        results.append((total.detach(), count, hidden.grad, weight.grad, bias.grad))
    assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_without_a_head_the_states_are_the_logits():
    results = []
    for own in (True, False):
        hidden, weight, bias, labels = problem()
        head = (hidden @ weight.T + bias, None, None) if own else (hidden, weight, bias)
        total = next_token_cross_entropy(*head[:2], labels, bias=head[2]).total
        total.backward()
        results.append((total.detach(), hidden.grad, weight.grad, bias.grad))
    assert_close(*results)


def test_a_uniform_model_pays_log_v_per_token():
    labels = torch.tensor([[4, 1, IGNORED, 2]])
    got = next_token_cross_entropy(torch.zeros(1, 4, 3), torch.ones(5, 3), labels)
    assert got.tokens == 2
    assert_close(got.total, 2 * torch.tensor(5.0).log())


def test_batches_split_and_padded_any_way_give_one_sum():
    hidden, weight, bias, labels = problem()
    whole = next_token_cross_entropy(hidden, weight, labels, bias=bias)
    parts = [next_token_cross_entropy(hidden[i : i + 1], weight, labels[i : i + 1], bias=bias) for i in range(3)]
    assert_close(sum(part.total for part in parts), whole.total)
    assert sum(part.tokens for part in parts) == whole.tokens
    pad = torch.nn.functional.pad
    wide = next_token_cross_entropy(
        pad(hidden, (0, 0, 0, 4), value=float("nan")), weight, pad(labels, (0, 4), value=IGNORED), bias=bias
    )
    assert_close(wide.total, whole.total)


def test_nothing_labelled_is_zero_with_zero_gradient():
    hidden, weight, bias, labels = problem()
    got = next_token_cross_entropy(hidden, weight, torch.full_like(labels, IGNORED), bias=bias)
    got.total.backward()
    assert got.total == 0.0 and got.tokens == 0 and not weight.grad.any()
