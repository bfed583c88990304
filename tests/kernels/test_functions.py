"""Each operation in C against torch's own, forward and backward, on rows of different lengths."""

import pytest
import torch
from torch.testing import assert_close

from loopwright.errors import CheckError
from loopwright.generation.base import SamplingConfig
from loopwright.generation.sampling import sample_tokens, sampling_logprobs
from loopwright.kernels import functions, library
from loopwright.kernels import linear as kernels_linear
from loopwright.kernels.functions import Rows
from loopwright.kernels.linear import Products, linear, matmul, use
from loopwright.objectives import logprobs

needs_compiler = pytest.mark.skipif(library.compiled() is None, reason="no C compiler on this machine")


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tables(width, positions=40):
    angles = torch.outer(torch.arange(positions).float(), 1.0 / 100 ** (torch.arange(width // 2) / width))
    return torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()


LENGTHS = torch.tensor([1, 7, 33, 16])
N = int(LENGTHS.sum())
OPERATIONS = {
    "rms_norm": (lambda x, w: functions.rms_norm(x, w, 1e-5), [(N, 24), (24,)]),
    "swiglu": (functions.swiglu, [(N, 24), (N, 24)]),
    "rotate": (
        lambda x: functions.rotate_(x * 1.0, *tables(8), torch.cat([torch.arange(n) for n in LENGTHS])),
        [(N, 3, 8)],
    ),
    "rotate_a_part": (
        lambda x: functions.rotate_(x * 1.0, *tables(4), torch.cat([torch.arange(n) for n in LENGTHS])),
        [(N, 3, 8)],
    ),
} | {
    f"attention_{heads}_{kv_heads}_{size}": (
        lambda q, k, v: functions.causal_attention(q, k, v, Rows.of(LENGTHS), 0.3),
        [(N, heads, size), (N, kv_heads, size), (N, kv_heads, size)],
    )
    for heads, kv_heads, size in ((4, 4, 8), (4, 2, 5), (6, 1, 64), (1, 1, 16))
}


@needs_compiler
@pytest.mark.parametrize("name", OPERATIONS)
def test_c_equals_torch_forward_and_backward(name):
    function, shapes = OPERATIONS[name]
    inputs = [normal(*shape, seed=i).requires_grad_() for i, shape in enumerate(shapes)]
    assert functions.in_c(*inputs)
    ours = function(*inputs)
    grad = normal(*ours.shape, seed=9)
    ours_grads = torch.autograd.grad(ours, inputs, grad)
    library.switch(on=False)
    try:
        theirs = function(*inputs)
        theirs_grads = torch.autograd.grad(theirs, inputs, grad)
    finally:
        library.switch(on=True)
    assert_close(ours, theirs, atol=3e-6, rtol=1e-5)
    for a, b in zip(ours_grads, theirs_grads, strict=True):
        assert_close(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("on", [False, pytest.param(True, marks=needs_compiler)])
def test_attention_by_hand(on):
    """Two rows; the first token of each sees itself alone, and the second weighs both by e^(q k)."""
    library.switch(on=on)
    try:
        q = torch.tensor([[[1.0]], [[2.0]], [[5.0]]])
        k = torch.tensor([[[0.0]], [[0.5]], [[7.0]]])
        v = torch.tensor([[[10.0]], [[20.0]], [[30.0]]])
        got = functions.causal_attention(q, k, v, Rows.of(torch.tensor([2, 1])), scale=1.0)
    finally:
        library.switch(on=True)
    weight = torch.tensor(1.0).exp() / (1 + torch.tensor(1.0).exp())
    assert_close(got.flatten(), torch.stack((torch.tensor(10.0), 10 + 10 * weight, torch.tensor(30.0))))


@needs_compiler
@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_not_finite_stays_so(name):
    function, shapes = OPERATIONS[name]
    inputs = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]
    inputs[0].view(-1)[3] = torch.nan
    assert not torch.isfinite(function(*inputs)).all()


@needs_compiler
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_softmax_in_c_equals_torch(scale):
    results = []
    for on in (True, False):
        logits = normal(6, 37, seed=0) * scale
        logits[2, 5], logits[3, 1] = -1e30, torch.nan
        targets, slopes = torch.tensor([0, 36, 2, 3, 4, 5]), (normal(6, seed=1), normal(6, seed=2))
        library.switch(on=on)
        try:
            sums = functions.softmax_sums(logits)
            results.append((*sums, functions.softmax_slopes_(logits, *sums, targets, *slopes, 0.5)))
        finally:
            library.switch(on=True)
    assert_close(*results, equal_nan=True, atol=2e-6, rtol=1e-5)


@needs_compiler
@pytest.mark.parametrize("junk", [1e30, float("nan")])
def test_a_row_never_sees_another(junk):
    q, k, v = (normal(N, 2, 8, seed=i) for i in range(3))
    plain = functions.causal_attention(q, k, v, Rows.of(LENGTHS), 0.3)
    for x in (q, k, v):
        x[8:41] = junk  # the third row
    dirty = functions.causal_attention(q, k, v, Rows.of(LENGTHS), 0.3)
    assert torch.equal(plain[:8], dirty[:8]) and torch.equal(plain[41:], dirty[41:])


@needs_compiler
@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("vocabulary", [5, 64, 300])
def test_sampling_in_c_draws_as_torch_does(vocabulary, temperature):
    logits = 3 * normal(500, vocabulary, seed=0)
    uniform = torch.rand(500, generator=torch.Generator().manual_seed(1))
    uniform[:2] = torch.tensor([0.0, 1 - 2**-23])
    forbidden = torch.tensor([0, vocabulary - 1])
    tokens, found = functions.sample_from(logits, uniform, forbidden, temperature)
    expected = sampling_logprobs(logits, forbidden, temperature)
    theirs = sample_tokens(expected, uniform, SamplingConfig(temperature=temperature))
    borders = expected.double().exp().cumsum(1)
    near = (borders - uniform[:, None]).abs().min(1).values < 1e-5
    assert (tokens == theirs)[~near].all() and (~near).sum() > 400
    assert not torch.isin(tokens, forbidden).any()
    assert_close(found, expected.gather(1, tokens[:, None]).squeeze(1), atol=1e-5, rtol=0)


@needs_compiler
def test_no_token_is_drawn_from_what_is_not_finite():
    logits = torch.full((2, 5), torch.nan)
    with pytest.raises(CheckError, match="logits are not finite"):
        functions.sample_from(logits, torch.zeros(2), torch.tensor([0]), 1.0)


@pytest.mark.parametrize("bias", [True, False])
def test_onednn_products_equal_mkl(bias, monkeypatch):
    monkeypatch.setattr(kernels_linear, "SMALLEST", 1)
    x, weight = normal(3, 5, 24, seed=0).requires_grad_(), normal(40, 24, seed=1).requires_grad_()
    offset = normal(40, seed=2).requires_grad_() if bias else None
    grad = normal(3, 5, 40, seed=3)
    wanted = [x, weight, *([offset] if bias else [])]
    results = []
    for learning in ("mkl", "onednn"):
        use(Products(learning=learning))
        y = linear(x, weight, offset)
        results.append((y, *torch.autograd.grad(y, wanted, grad), matmul(grad[0], weight).detach()))
    use(Products())
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_logprobs_are_the_same_by_either_library(monkeypatch):
    monkeypatch.setattr(kernels_linear, "SMALLEST", 1)
    hidden, weight = normal(30, 16, seed=0).requires_grad_(), normal(50, 16, seed=1).requires_grad_()
    results = []
    for learning in ("mkl", "onednn"):
        use(Products(learning=learning))
        found = logprobs.token_logprobs(hidden, weight, torch.arange(30))
        results.append((found.logprobs, *torch.autograd.grad(found.logprobs.sum(), (hidden, weight))))
    use(Products())
    for ours, theirs in zip(*results, strict=True):
        assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
