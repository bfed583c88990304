"""Operations on N tokens that lie one after the other, whatever rows they belong to; differentiable once."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from loopwright.errors import CheckError
from loopwright.kernels.library import library

QUERIES, LANES = 4, 16  # as in cpu.c


class Rows(NamedTuple):
    """Where the rows of a batch begin among its tokens."""

    starts: Tensor  # [B + 1] int64: row b is tokens starts[b] to starts[b + 1] - 1
    longest: int
    equal: bool  # all rows have the same length

    @classmethod
    def of(cls, lengths: Tensor) -> Self:
        """From [B] int64 lengths, each at least 1."""
        starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        shortest, longest = lengths.aminmax()
        return cls(starts, int(longest), bool(shortest == longest))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """[..., d]: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    if in_c(x, weight):
        return _RMSNorm.apply(x, weight, eps)
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020, arXiv:2002.05202)."""
    if in_c(gate, up):
        return _SwiGLU.apply(gate, up)
    return torch.nn.functional.silu(gate) * up


def rotate_(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864) in place on [N, heads, size].

    The first numbers of a head turn in pairs of one from each half; those beyond the width of cos stay.

    Args:
        cos, sin: [longest context, width].
        positions: [N] int64.
    """
    if in_c(x, cos, sin):
        return _Rotation.apply(x, cos, sin, positions)
    width = cos.shape[1]
    turned, rest = x[..., :width], x[..., width:]
    first, second = turned.chunk(2, dim=-1)
    c, s = cos[positions][:, None], sin[positions][:, None]
    return torch.cat((turned * c + torch.cat((-second, first), -1) * s, rest), dim=-1)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, rows: Rows, scale: float) -> Tensor:
    """[N, heads, size]: each token attends to itself and what its row has before it.

    Args:
        q: [N, heads, size].
        k, v: [N, kv_heads, size]; query head h reads kv head h // (heads / kv_heads).
    """
    if in_c(q, k, v):
        return _Attention.apply(q, k, v, rows, scale)
    query, key, value = (_padded(x, rows).transpose(1, 2) for x in (q, k, v))
    shared = q.shape[1] != k.shape[1]
    attention = torch.nn.functional.scaled_dot_product_attention
    found = attention(query, key, value, is_causal=True, scale=scale, enable_gqa=shared).transpose(1, 2)
    return found.reshape(q.shape) if rows.equal else found[_places(rows)]


def softmax_sums(logits: Tensor) -> tuple[Tensor, Tensor]:
    """[n] log-sum-exp and [n] entropy of the rows of [n, V] logits, nats. Without gradient."""
    normaliser, entropy = logits.new_empty(len(logits)), logits.new_empty(len(logits))
    if in_c(logits):
        call_c("softmax_sums", normaliser, entropy, logits.contiguous(), *logits.shape)
        return normaliser, entropy
    torch.logsumexp(logits, -1, out=normaliser)
    log_p = logits - normaliser[:, None]
    return normaliser, -(log_p.exp().mul_(log_p)).sum(-1)


def softmax_slopes_(  # noqa: PLR0913 -- what softmax_sums gave, and two gradients
    logits: Tensor,
    normaliser: Tensor,
    entropy: Tensor,
    targets: Tensor,
    logprobs_grad: Tensor,
    entropy_grad: Tensor,
    factor: float = 1.0,
) -> Tensor:
    """[n, V] logits become the gradient of `logprobs_grad` times log p of the targets + `entropy_grad` times entropy.

    With p the softmax of the logits z, and H its entropy:
        d log p_a / dz_j = [j = a] - p_j        dH / dz_j = -p_j (log p_j + H)

    Args:
        normaliser, entropy: [n] from `softmax_sums`.
        targets: [n] int64.
        logprobs_grad, entropy_grad: [n].
        factor: multiplies the result.
    """
    if in_c(logits, normaliser, entropy, logprobs_grad, entropy_grad) and logits.is_contiguous():
        grads = (logprobs_grad.contiguous(), entropy_grad.contiguous())
        tensors = (logits, normaliser, entropy, targets.contiguous(), *grads)
        call_c("softmax_slopes", *tensors, *logits.shape, float(factor))
        return logits
    log_p = logits.sub_(normaliser[:, None])
    p = log_p.exp()
    slope = log_p.add_(entropy[:, None]).mul_(-entropy_grad[:, None]).sub_(logprobs_grad[:, None]).mul_(p)
    return slope.scatter_add_(-1, targets[:, None], logprobs_grad[:, None]).mul_(factor)


def add_rms_norm_(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`rms_norm` of x + delta, which x becomes. Without gradient."""
    if in_c(x, delta, weight):
        y = torch.empty_like(x)
        call_c("add_rms_norm", y, x, delta, weight, eps, *x.shape)
        return y
    return rms_norm(x.add_(delta), weight, eps)


def swiglu_halves(x: Tensor) -> Tensor:
    """`swiglu` of the first half of each row of [n, 2 d], the gate, and the second. Without gradient."""
    count, width = len(x), x.shape[1] // 2
    if in_c(x):
        y = x.new_empty(count, width)
        call_c("swiglu_halves", y, x, count, width)
        return y
    return swiglu(*x.chunk(2, dim=1))


def sample_from(logits: Tensor, uniform: Tensor, forbidden: Tensor, temperature: float) -> tuple[Tensor, Tensor] | None:
    """Tokens by inversion and their log-probabilities, [n] each, in one pass; None where C cannot.

    See `generation.sampling.draw`.

    Raises:
        CheckError: the logits of a row are not finite.
    """
    if not in_c(logits, uniform):
        return None
    count, vocabulary = logits.shape
    tokens, logprobs = torch.empty(count, dtype=torch.int64), torch.empty(count)
    shape = (len(forbidden), count, vocabulary, 1 / temperature, logits.new_empty(vocabulary))
    call_c("sample", tokens, logprobs, logits.contiguous(), uniform.contiguous(), forbidden, *shape)
    if int(tokens.min()) < 0:
        raise CheckError("the model's logits are not finite, so no token can be drawn; look at how it was trained")
    return tokens, logprobs


def in_c(*tensors: Tensor) -> bool:
    """Whether the C operations are there and can read these."""
    return all(x.dtype is torch.float32 and x.is_cpu for x in tensors) and library() is not None


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        y, scale = torch.empty_like(x), x.new_empty(x.shape[:-1])
        call_c("rms_norm", y, scale, x, weight, eps, scale.numel(), x.shape[-1])
        ctx.save_for_backward(x, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        x_grad, weight_grad = torch.empty_like(x), torch.zeros_like(weight)
        tensors = (x_grad, weight_grad, grad.contiguous(), x, scale, weight)
        call_c("rms_norm_backward", *tensors, scale.numel(), x.shape[-1])
        return x_grad, weight_grad, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        y = torch.empty_like(gate)
        call_c("swiglu", y, gate, up, y.numel())
        ctx.save_for_backward(gate, up)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        gate_grad, up_grad = torch.empty_like(gate), torch.empty_like(up)
        call_c("swiglu_backward", gate_grad, up_grad, grad.contiguous(), gate, up, gate.numel())
        return gate_grad, up_grad


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(cos, sin, positions)
        return _turn(x, cos, sin, positions, inverse=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # A copy: whether another node reads this gradient, too, is not known here.
        return _turn(grad.clone(memory_format=torch.contiguous_format), *ctx.saved_tensors, inverse=True), *[None] * 3


def _turn(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, *, inverse: bool) -> Tensor:
    count, heads, size = x.shape
    call_c("rotate", x, cos, sin, positions, count, heads, size, cos.shape[1] // 2, int(inverse))
    return x


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rows: Rows, scale: float) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        count, heads, size = q.shape
        out, normaliser = torch.empty_like(q), q.new_empty(count, heads)
        shape = (len(rows.starts) - 1, heads, k.shape[1], size, scale, rows.longest)
        scratch = q.new_empty((2 * size + QUERIES) * (rows.longest + LANES) + 2 * QUERIES * size)
        call_c("attention", out, normaliser, q, k, v, rows.starts, *shape, scratch)
        ctx.save_for_backward(q, k, v, out, normaliser, rows.starts)
        ctx.shape = shape
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, normaliser, starts = ctx.saved_tensors
        size, longest = q.shape[2], ctx.shape[-1]
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        scratch = q.new_empty((4 * size + 2 * QUERIES) * (longest + LANES) + 3 * QUERIES * size)
        tensors = (*grads, grad.contiguous(), out, normaliser, q, k, v, starts)
        call_c("attention_backward", *tensors, *ctx.shape, scratch)
        return *grads, None, None


def call_c(name: str, *arguments: Tensor | float) -> None:
    """Run a C operation: tensors, which must be contiguous, as pointers, ints as int64, floats as float32."""
    assert all(x.is_contiguous() for x in arguments if isinstance(x, Tensor)), f"{name} reads memory in order"
    function = _typed(name, tuple(_KINDS[type(argument)] for argument in arguments))
    function(*[x.data_ptr() if isinstance(x, Tensor) else x for x in arguments])


_KINDS: dict[type, Any] = {Tensor: ctypes.c_void_p, int: ctypes.c_int64, float: ctypes.c_float}
_KINDS |= {torch.nn.Parameter: ctypes.c_void_p, bool: ctypes.c_int64}


@cache
def _typed(name: str, kinds: tuple[Any, ...]) -> Callable[..., None]:
    found: Any = getattr(library(), name)
    assert found.argtypes is None or found.argtypes == list(kinds), f"{name} is called in two ways"
    found.argtypes, found.restype = list(kinds), None
    return found


def _padded(x: Tensor, rows: Rows) -> Tensor:
    """[B, longest, ...]: the rows of [N, ...], with zeros behind each."""
    count = len(rows.starts) - 1
    if rows.equal:
        return x.reshape(count, rows.longest, *x.shape[1:])
    out = x.new_zeros(count, rows.longest, *x.shape[1:])
    out[_places(rows)] = x
    return out


def _places(rows: Rows) -> Tensor:
    """[B, longest] bool: where a padded batch has tokens."""
    columns = torch.arange(rows.longest, device=rows.starts.device)
    return columns < rows.starts.diff()[:, None]
