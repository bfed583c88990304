"""Attention of one new token in each of n sequences to its prompt, which others may share, and to what follows it."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from loopwright.kernels.functions import QUERIES, call_c, in_c, rotate_


class Cache(NamedTuple):
    """Keys and values, of prompts and of what follows them. `[number]` of all tensors is the cache of a layer."""

    prompt_keys: Tensor  # [layers, places, kv_heads, size, longest prompt]
    prompt_values: Tensor  # [layers, places, kv_heads, longest prompt, size]
    keys: Tensor  # [layers, at least n, kv_heads, size, columns]
    values: Tensor  # [layers, at least n, kv_heads, columns, size]

    @property
    def longest(self) -> int:
        """The most tokens that a sequence can have."""
        return self.prompt_keys.shape[-1] + self.keys.shape[-1]

    def layer(self, number: int) -> Cache:
        """That of one layer."""
        return Cache(*(part[number] for part in self))


class Seats(NamedTuple):
    """Where n sequences lie in a `Cache`. All are int64."""

    place: Tensor  # [n]: that of the prompt
    length: Tensor  # [n]: tokens of the prompt
    first: Tensor  # [n]: the column of the first token behind the prompt
    order: Tensor  # [n]: the sequences, those of one prompt after each other
    spot: Tensor  # [n]: the sequence's entry in `members`, counted row by row
    members: Tensor  # [places, most sequences of a prompt]: the sequences of each prompt; any where there are fewer

    @classmethod
    def of(cls, spot: Tensor, length: Tensor, first: Tensor, shape: tuple[int, int]) -> Self:
        """From [n] each, as above, and the shape of `members`."""
        members = spot.new_zeros(shape[0] * shape[1])
        members[spot] = torch.arange(len(spot), device=spot.device)
        return cls(spot // shape[1], length, first, spot.argsort(), spot, members.view(shape))


class Reading(NamedTuple):
    """What the n sequences read in one step: their prompts, and the columns from their first to `end`."""

    seats: Seats
    end: int | Tensor  # in C an int, else [1] int64
    positions: Tensor  # [n] of the new tokens
    hidden: Tensor | None  # [n, 1, 1, longest prompt + columns]: what is not read; None where C needs none

    @classmethod
    def of(cls, seats: Seats, end: int | Tensor, cache: Cache) -> Self:
        """The new tokens go to column `end`; as a tensor, [1] int64, it may change when a recorded step is replayed."""
        positions = seats.length + (end - seats.first)
        if in_c(*cache) and isinstance(end, int):
            return cls(seats, end, positions, None)
        end = torch.as_tensor(end, device=positions.device).view(1)
        prompt, own = (torch.arange(x.shape[-1], device=x.device) for x in (cache.prompt_keys, cache.keys))
        columns = (prompt >= seats.length[:, None], (own < seats.first[:, None]) | (own > end))
        return cls(seats, end, positions, torch.cat(columns, dim=1)[:, None, None])


def attend_cached(
    qkv: Tensor, rotary: tuple[Tensor, Tensor] | None, cache: Cache, reading: Reading, scale: float
) -> Tensor:
    """[n, heads * size] of one new token in each of n sequences, whose key and value join the cache of one layer.

    Without gradient; `qkv` may be changed. Prompts are read where they lie, once for several of their sequences.

    Args:
        qkv: [n, (heads + 2 kv_heads) * size]: queries, keys, values.
        rotary: cos and sin, as `rotate_` takes them, or None where positions are not rotary.
    """
    count, (kv_heads, columns, size) = len(qkv), cache.values.shape[1:]
    heads, longest = qkv.shape[1] // size - 2 * kv_heads, cache.prompt_keys.shape[-1]
    seats, end = reading.seats, reading.end
    if reading.hidden is None:
        out = qkv.new_empty(count, heads * size)
        scratch = qkv.new_empty(QUERIES * (longest + columns + 2 * size))
        cos, sin = (qkv, qkv) if rotary is None else rotary
        half = 0 if rotary is None else cos.shape[1] // 2
        shape = (count, heads, kv_heads, size, half, longest, columns, end, scale)
        call_c("attend", out, qkv, cos, sin, *cache, *seats[:4], *shape, scratch)
        return out
    q, k, v = qkv.view(count, -1, size).split((heads, kv_heads, kv_heads), 1)
    if rotary is not None:
        q, k = (rotate_(part, *rotary, reading.positions) for part in (q, k))
    assert isinstance(end, Tensor)
    cache.keys[:count].index_copy_(3, end, k[..., None])
    cache.values[:count].index_copy_(2, end, v[:, :, None])
    queries = q.reshape(count, kv_heads, heads // kv_heads, size) * scale
    parts = (_by_prompt(queries, cache.prompt_keys, seats), queries @ cache.keys[:count])
    scores = torch.cat(parts, dim=-1).masked_fill_(reading.hidden, -torch.inf)
    weights = scores.softmax(-1, dtype=torch.float32).to(v.dtype)
    of_prompt = _by_prompt(weights[..., :longest], cache.prompt_values, seats)
    return (of_prompt + weights[..., longest:] @ cache.values[:count]).view(count, heads * size)


def _by_prompt(x: Tensor, matrices: Tensor, seats: Seats) -> Tensor:
    """[n, kv_heads, group, M] of [n, kv_heads, group, K] times its prompt's of [places, kv_heads, K, M].

    One product a prompt, of all its sequences: matrices are not copied to each.
    """
    (places, samples), (_, kv_heads, group, inner) = seats.members.shape, x.shape
    together = x[seats.members].transpose(1, 2).reshape(places, kv_heads, samples * group, inner)
    found = (together @ matrices).view(places, kv_heads, samples, group, -1).transpose(1, 2)
    return found.reshape(places * samples, kv_heads, group, -1)[seats.spot]
