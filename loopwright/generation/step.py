"""One step of sampling: a new token for each of n sequences, with as few operations as there are.

It reads the weights of the model. In float32 on a CPU it reads a copy, made once a call: the matrices with the same
input are one there, and large ones stand in the order that oneDNN reads fastest, where that pays
(`kernels.linear.Products.sampling`). Where adapters are on, each layer that has one is a copy with it merged in.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from loopwright.kernels.cached_attention import Cache, Reading, Seats, attend_cached
from loopwright.kernels.functions import add_rms_norm_, rms_norm, swiglu_halves
from loopwright.kernels.linear import Matrix
from loopwright.models.decoder import Block, Decoder, is_silu, norm
from loopwright.models.trainable import linear_weights


class _Layer(NamedTuple):
    block: Block
    queries_keys_values: Matrix
    output: Matrix
    up: Matrix  # behind the gate, where there is one
    down: Matrix


class Step:
    """The forward pass of one token a sequence. Weights are read when it is made: make one for each rollout."""

    def __init__(self, decoder: Decoder, head: nn.Module, rows: int) -> None:
        """`rows`: how many sequences there will be at most."""
        self.decoder = decoder
        self.layers = [_layer(decoder, block, rows) for block in decoder.blocks]
        self.head = Matrix.of([linear_weights(head)], rows)

    def __call__(self, tokens: Tensor, cache: Cache, seats: Seats, end: int | Tensor) -> Tensor:
        """[n, V] logits behind [n] tokens, whose keys and values join the cache at column `end`."""
        decoder, reading = self.decoder, Reading.of(seats, end, cache)
        x = functional.embedding(tokens, decoder.embeddings.weight)
        rotary = None
        if decoder.positions is not None:
            x = x + functional.embedding(reading.positions, decoder.positions.weight)
        else:
            rotary = decoder.rotary_tables(x, cache.longest)
        delta = None  # what is still to be added to x
        for number, layer in enumerate(self.layers):
            block = layer.block
            normed = _add_norm(x, delta, block.attention_norm)
            qkv = layer.queries_keys_values(normed)
            if block.query_norm is not None:
                qkv = self._with_normed_heads(qkv, block)
            mixed = layer.output(attend_cached(qkv, rotary, cache.layer(number), reading, block.scale))
            if decoder.parallel:
                delta = mixed + self._mlp(norm(x, block.mlp_norm), layer)
            else:
                delta = self._mlp(_add_norm(x, mixed, block.mlp_norm), layer)
        return self.head(_add_norm(x, delta, decoder.final_norm))

    def _mlp(self, x: Tensor, layer: _Layer) -> Tensor:
        wide, block = layer.up(x), layer.block
        if block.gate is None:
            return layer.down(block.activation(wide))
        if is_silu(block.activation):
            return layer.down(swiglu_halves(wide))
        gate, up = wide.chunk(2, dim=1)
        return layer.down(block.activation(gate) * up)

    def _with_normed_heads(self, qkv: Tensor, block: Block) -> Tensor:
        heads, kv_heads = self.decoder.heads, self.decoder.kv_heads
        q, k, v = qkv.view(len(qkv), -1, self.decoder.size).split((heads, kv_heads, kv_heads), 1)
        q, k = (norm(part.contiguous(), module) for part, module in ((q, block.query_norm), (k, block.key_norm)))
        return torch.cat((q, k, v), dim=1).flatten(1)


def _add_norm(x: Tensor, delta: Tensor | None, module: Any) -> Tensor:
    """The norm of x + delta, which x becomes."""
    if isinstance(module, nn.LayerNorm):
        return norm(x if delta is None else x.add_(delta), module)
    if delta is None:
        return rms_norm(x, module.weight, module.variance_epsilon)
    return add_rms_norm_(x, delta, module.weight, module.variance_epsilon)


def _layer(decoder: Decoder, block: Block, rows: int) -> _Layer:
    parts = [linear_weights(module) for module in block.queries_keys_values]
    if len(parts) == 1:
        parts = _split_heads(*parts[0], decoder)
    gates = [] if block.gate is None else [linear_weights(block.gate)]
    return _Layer(
        block,
        Matrix.of(parts, rows),
        Matrix.of([linear_weights(block.output)], rows),
        Matrix.of([*gates, linear_weights(block.up)], rows),
        Matrix.of([linear_weights(block.down)], rows),
    )


def _split_heads(weight: Tensor, bias: Tensor | None, decoder: Decoder) -> list[tuple[Tensor, Tensor | None]]:
    """One layer that gives all, as one whose outputs are queries, then keys, then values."""
    if not decoder.by_head:
        return [(weight, bias)]

    def ordered(x: Tensor) -> Tensor:
        return x.view(decoder.heads, 3, decoder.size, *x.shape[1:]).transpose(0, 1).reshape(x.shape)

    return [(ordered(weight), None if bias is None else ordered(bias))]
