import json
import math
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.profiler import ProfilerActivity, profile
from torch.testing import assert_close

from loopwright.objectives import logprobs as module
from loopwright.objectives.kl import Head, exact_kl
from loopwright.objectives.logprobs import row_chunks, summed_losses, token_logprobs


def problem(rows=7, dim=5, vocabulary=11, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((rows, dim), (vocabulary, dim), (vocabulary,))
    hidden, weight, bias = (torch.randn(s, generator=generator, dtype=dtype, requires_grad=True) for s in shapes)
    targets = torch.randint(3, vocabulary, (rows,), generator=generator)  # 0..2 may be forbidden
    return hidden, weight, bias, targets


def plain(hidden, weight, bias, targets, temperature, forbidden):
    """The textbook version, [N, V] and all."""
    logits = (hidden @ weight.T + bias) / temperature
    if forbidden is not None:
        keep = torch.ones(len(weight), dtype=torch.bool).index_fill(0, forbidden, False)
        chosen = (torch.cumsum(keep, 0) - 1)[targets]
        logits = logits[:, keep]
        targets = chosen
    log_p = logits.log_softmax(-1)
    return log_p.gather(-1, targets[:, None]).squeeze(-1), -(log_p.exp() * log_p).sum(-1)


def test_by_hand():
    # logits (log 3, 0): probabilities 3/4 and 1/4
    hidden, weight = torch.tensor([[math.log(3.0)]] * 2), torch.tensor([[1.0], [0.0]])
    got = token_logprobs(hidden, weight, torch.tensor([0, 1]))
    assert_close(got.logprobs, torch.tensor([math.log(0.75), math.log(0.25)]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert_close(got.entropy, torch.tensor([entropy, entropy]))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_without_a_head_the_states_are_the_logits(temperature):
    forbidden, results = torch.tensor([0, 2]), []
    for own in (True, False):
        hidden, weight, bias, targets = problem()
        head = (hidden @ weight.T + bias, None, None) if own else (hidden, weight, bias)
        before = head[0].detach().clone()
        got = token_logprobs(*head[:2], targets, bias=head[2], temperature=temperature, forbidden=forbidden)
        (got.logprobs.sum() + 0.3 * got.entropy.sum()).backward()
        results.append((*got, hidden.grad, weight.grad, bias.grad))
        assert torch.equal(head[0], before)
    assert_close(*results)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    rows=st.integers(0, 9),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    forbidden=st.sampled_from([None, [], [0], [0, 2]]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_values_and_gradients_equal_plain_autograd(seed, rows, temperature, forbidden, dtype):
    forbidden = None if forbidden is None else torch.tensor(forbidden, dtype=torch.long)
    results = []
    for function in (plain, token_logprobs):
        hidden, weight, bias, targets = problem(rows=rows, seed=seed, dtype=dtype)
        if function is plain:
            got = plain(hidden, weight, bias, targets, temperature, forbidden)
        else:
            got = token_logprobs(hidden, weight, targets, bias=bias, temperature=temperature, forbidden=forbidden)
        scale = torch.linspace(-1, 2, rows, dtype=dtype)
        ((got[0] * scale).sum() + 0.3 * (got[1] * scale.flip(0)).sum()).backward()
        results.append((*(x.detach() for x in got), hidden.grad, weight.grad, bias.grad))
    tolerance = 1e-10 if dtype is torch.float64 else 1e-5
    for ours, theirs in zip(*results, strict=True):
        scale = max(1.0, theirs.abs().max().item()) if len(theirs) else 1.0
        assert_close(ours, theirs, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("rows", [0, 7])
@pytest.mark.parametrize("factor", [1.0, 0.3])
def test_losses_of_tokens_have_the_gradient_of_the_differentiable_form(rows, factor):
    """Clipped in places and with entropy, as PPO's; also where nothing is left to learn."""
    results = []
    old, options = torch.linspace(-3, -1, rows), {"temperature": 0.7, "forbidden": torch.tensor([0, 2])}

    def losses(logprobs, entropy, at):
        return torch.minimum((logprobs - old[at]).exp(), torch.tensor(1.2)) - 0.1 * entropy

    for one_pass in (True, False):
        hidden, weight, bias, targets = problem(rows=rows)
        if one_pass:
            total, *found = summed_losses(hidden, weight, targets, losses, bias=bias, **options)
        else:
            found = token_logprobs(hidden, weight, targets, bias=bias, **options)
            total = losses(*found, slice(None)).sum()
        (factor * total).backward()
        results.append((total.detach(), *(x.detach() for x in found), hidden.grad, weight.grad, bias.grad))
    assert_close(*results)


def test_tensors_that_do_not_lie_in_order():
    """Targets that are a column of a table, and logits that are a transposed matrix."""
    results = []
    for order in (True, False):
        hidden, weight, bias, targets = problem()
        columns = torch.stack((targets, targets + 1000), 1)[:, 0]
        states = (weight.detach() @ hidden.detach().T).requires_grad_()
        logits = states.T
        for x, w, t in ((hidden, weight, columns), (logits, None, columns)):
            if order:
                x, t = x.contiguous(), t.contiguous()
            summed_losses(x, w, t, lambda logprobs, entropy, _: logprobs - 0.1 * entropy).total.backward()
        results.append((hidden.grad, weight.grad, states.grad))
    assert_close(*results)


def split_by(monkeypatch, size):
    monkeypatch.setattr(
        module, "row_chunks", lambda rows, _: (slice(i, min(i + size, rows)) for i in range(0, rows, size))
    )


def test_the_size_of_chunks_does_not_matter(monkeypatch):
    results = []
    for size in (100, 2):
        split_by(monkeypatch, size)
        hidden, weight, bias, targets = problem()
        got = token_logprobs(hidden, weight, targets, bias=bias)
        (got.logprobs.sum() - got.entropy.sum()).backward()
        results.append((*(x.detach() for x in got), hidden.grad, weight.grad, bias.grad))
    assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_losses_of_tokens_do_not_depend_on_the_size_of_chunks(monkeypatch):
    results = []
    for size in (100, 2):
        split_by(monkeypatch, size)
        hidden, weight, bias, targets = problem()
        got = summed_losses(hidden, weight, targets, lambda p, h, at: torch.arange(7.0)[at] * p - h, bias=bias)
        got.total.backward()
        results.append((*(x.detach() for x in got), hidden.grad, weight.grad, bias.grad))
    assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


def test_chunks_cover_every_row_once():
    for rows, vocabulary in ((0, 10), (1, 10), (5000, 640), (5000, 128_256)):
        covered = [i for rows_ in row_chunks(rows, vocabulary) for i in range(rows_.start, rows_.stop)]
        assert covered == list(range(rows))


def loss_of_tokens(hidden, weight, targets):
    got = token_logprobs(hidden, weight, targets)
    return got.logprobs.sum() - got.entropy.sum()


def loss_in_one_pass(hidden, weight, targets):
    return summed_losses(hidden, weight, targets, lambda logprobs, entropy, _: logprobs - entropy).total


def loss_of_exact_kl(hidden, weight, targets):
    return exact_kl(Head(hidden, weight), Head(hidden.detach(), weight.detach().flip(0))).sum()


CHUNKED = pytest.mark.parametrize("loss", [loss_of_tokens, loss_in_one_pass, loss_of_exact_kl])


@CHUNKED
def test_no_tensor_of_the_whole_size_is_kept_for_the_backward_pass(loss):
    hidden, weight, _, targets = problem(rows=300, dim=4, vocabulary=5000)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        loss(hidden, weight, targets)
    assert max(kept) <= max(hidden.numel(), weight.numel()) < 300 * 5000


@CHUNKED
def test_twice_the_rows_take_no_more_memory_of_the_vocabularys_size(tmp_path, loss):
    dim, vocabulary, few, many = 4, 5000, 512, 1024
    peaks = []
    for rows in (few, many):
        hidden, weight, _, targets = problem(rows, dim, vocabulary)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            loss(hidden, weight, targets).backward()
        peaks.append(most_bytes(profiled, tmp_path / "trace.json"))
    assert peaks[0] > 256 * vocabulary * 4  # a block of logits; it is seen at all
    assert abs(peaks[1] - peaks[0]) < 0.02 * (many - few) * vocabulary * 4


def most_bytes(profiled, trace):
    """That were allocated and not yet freed."""
    profiled.export_chrome_trace(str(trace))
    events = [e["args"] for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    return max(accumulate(e["Bytes"] for e in sorted(events, key=lambda e: e["Ev Idx"])))


def test_forbidden_ids_get_no_probability_and_no_gradient():
    hidden, weight, bias, targets = problem()
    forbidden = torch.tensor([0, 1])
    got = token_logprobs(hidden, weight, targets, bias=bias, forbidden=forbidden)
    (got.logprobs.sum() + got.entropy.sum()).backward()
    assert not bias.grad[forbidden].any() and not weight.grad[forbidden].any()
    allowed = [
        token_logprobs(hidden, weight, torch.full((7,), i), bias=bias, forbidden=forbidden) for i in range(2, 11)
    ]
    assert_close(torch.stack([x.logprobs for x in allowed]).exp().sum(0), torch.ones(7))
    assert (
        token_logprobs(hidden, weight, torch.zeros(7, dtype=torch.long), forbidden=forbidden).logprobs < -1e29
    ).all()


def test_a_large_logit_does_not_overflow():
    hidden = torch.tensor([[1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]])
    got = token_logprobs(hidden, weight, torch.tensor([0]), forbidden=torch.tensor([2]))
    (got.logprobs + got.entropy).sum().backward()
    assert got.logprobs == 0.0 and got.entropy == 0.0 and torch.isfinite(hidden.grad).all()


def test_bad_arguments_are_named():
    hidden, weight, _, targets = problem()
    with pytest.raises(ValueError, match="one D"):
        token_logprobs(hidden, weight[:, :3], targets)
    with pytest.raises(ValueError, match="targets must be"):
        token_logprobs(hidden, weight, targets[:3])
    with pytest.raises(ValueError, match="temperature must be above 0"):
        token_logprobs(hidden, weight, targets, temperature=0.0)
