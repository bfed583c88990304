"""Our own forward pass over the weights of a transformers model: real tokens only, fused operations, no mask.

The weights stay where they are: what an optimizer does to the model is what the next pass reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from loopwright.kernels import linear as products
from loopwright.kernels.functions import Rows, causal_attention, rms_norm, rotate_, swiglu
from loopwright.models.families import Names, names_of
from loopwright.models.layers import unwrapped

Attend = Callable[[int, Tensor, Tensor, Tensor, float], Tensor]  # (layer, q, k, v, scale) -> [N, heads, size]


class Tokens(NamedTuple):
    """The real tokens of a batch, row after row."""

    ids: Tensor  # [N] int64
    rows: Rows
    positions: Tensor  # [N] int64, from 0 in each row


class Below(NamedTuple):
    """What the lowest blocks of a decoder made of tokens."""

    x: Tensor  # [N, D]
    blocks: int


class Block(NamedTuple):
    """The parts of one layer, as modules of the model."""

    attention_norm: nn.Module
    queries_keys_values: tuple[nn.Module, ...]
    query_norm: nn.Module | None
    key_norm: nn.Module | None
    output: nn.Module
    mlp_norm: nn.Module
    gate: nn.Module | None
    up: nn.Module
    down: nn.Module
    activation: nn.Module
    scale: float


class Decoder:
    """The body of a causal LM or of a sequence classifier, without its head."""

    def __init__(self, body: Any, names: Names) -> None:
        config = body.config
        self.body = body
        self.embeddings = body.get_submodule(names.embeddings)
        self.positions: Any = None if names.positions is None else body.get_submodule(names.positions)
        self.final_norm = body.get_submodule(names.final_norm)
        self.heads = config.num_attention_heads
        self.kv_heads = getattr(config, "num_key_value_heads", None) or self.heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.by_head = names.by_head
        self.parallel = bool(getattr(config, "use_parallel_residual", False))
        self.layers = list(body.get_submodule(names.blocks))
        self.blocks = [_block(layer, names) for layer in self.layers]
        self._rotary: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, model: Any) -> Decoder | str:
        """Of a transformers model or a peft model around one; or why there is none, in a few words."""
        body = unwrapped(model).base_model
        names = names_of(body)
        if isinstance(names, str):
            return names
        decoder = cls(body, names)
        strange = {type(part).__name__ for part in decoder.norms_and_embeddings() if not _is_known(part)}
        return f"its norms or embeddings are of the type {', '.join(strange)}" if strange else decoder

    @property
    def checkpointing(self) -> bool:
        """Whether only what goes into each block is kept, and its inside computed again on the way back."""
        return any(getattr(layer, "gradient_checkpointing", False) for layer in self.layers)

    def norms_and_embeddings(self) -> list[Any]:
        """The parts that are read, and not called."""
        norms = [(b.attention_norm, b.query_norm, b.key_norm, b.mlp_norm) for b in self.blocks]
        parts = [self.embeddings, self.positions, self.final_norm, *(part for block in norms for part in block)]
        return [part for part in parts if part is not None]

    def read(
        self,
        tokens: Tokens,
        at: Tensor | None = None,
        *,
        below: Below | None = None,
        attend: Attend | None = None,
    ) -> Tensor:
        """[M, D] hidden states after the final norm.

        Args:
            at: [N] bool, the M tokens that are asked for; the last block computes no other. None: all.
            below: what the lowest blocks made of these tokens; they are not computed again.
            attend: what each token attends to; None: itself and what its row has before it.
        """
        x, first = below or Below(self._embed(tokens), 0)
        return norm(self._through(range(first, len(self.blocks)), x, tokens, at, attend), self.final_norm)

    def read_below(self, tokens: Tokens, blocks: int) -> Below:
        """What so many of the lowest blocks make of the tokens; the last block is none of them."""
        assert blocks < len(self.blocks), f"{blocks} of {len(self.blocks)} blocks leave none to go on with"
        return Below(self._through(range(blocks), self._embed(tokens), tokens), blocks)

    def _embed(self, tokens: Tokens) -> Tensor:
        x = functional.embedding(tokens.ids, self.embeddings.weight, self.embeddings.padding_idx)
        return x if self.positions is None else x + functional.embedding(tokens.positions, self.positions.weight)

    def _through(
        self, blocks: range, x: Tensor, tokens: Tokens, at: Tensor | None = None, attend: Attend | None = None
    ) -> Tensor:
        attend = attend or _in_rows(tokens.rows)
        for number in blocks:
            inputs = number, x, tokens, attend, at if number == len(self.blocks) - 1 else None
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(self._block, *inputs, use_reentrant=False, preserve_rng_state=False)
            else:
                x = self._block(*inputs)
        return x

    def _block(self, number: int, x: Tensor, tokens: Tokens, attend: Attend, at: Tensor | None) -> Tensor:
        block = self.blocks[number]
        q, k, v = self._queries_keys_values(norm(x, block.attention_norm), block, tokens)
        mixed = attend(number, q, k, v, block.scale).flatten(1)
        if at is not None:
            x, mixed = x[at], mixed[at]
        mixed = linear(mixed, block.output)
        if self.parallel:
            return x + mixed + self._mlp(norm(x, block.mlp_norm), block)
        x = x + mixed
        return x + self._mlp(norm(x, block.mlp_norm), block)

    def _queries_keys_values(self, x: Tensor, block: Block, tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
        """[N, heads, size] and twice [N, kv_heads, size], with positions in them."""
        parts = [linear(x, module) for module in block.queries_keys_values]
        if len(parts) == 3:
            q, k, v = (part.view(len(x), -1, self.size) for part in parts)
        elif self.by_head:
            parts = list(parts[0].view(len(x), self.heads, 3, self.size).unbind(2))
            q, k, v = (part.clone(memory_format=torch.contiguous_format) for part in parts)
        else:
            q, k, v = parts[0].view(len(x), 3, self.heads, self.size).unbind(1)
        if block.query_norm is not None and block.key_norm is not None:
            q, k = norm(q, block.query_norm), norm(k, block.key_norm)
        if self.positions is None:
            cos, sin = self.rotary_tables(x, tokens.rows.longest)
            q, k = (rotate_(part.contiguous(), cos, sin, tokens.positions) for part in (q, k))
        return q, k, v

    def _mlp(self, x: Tensor, block: Block) -> Tensor:
        up = linear(x, block.up)
        if block.gate is None:
            return linear(block.activation(up), block.down)
        gate = linear(x, block.gate)
        mixed = swiglu(gate, up) if is_silu(block.activation) else block.activation(gate) * up
        return linear(mixed, block.down)

    def rotary_tables(self, x: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """[at least longest, width] cosines and sines, as the model itself makes them, also beyond its context."""
        tables = self._rotary  # other threads may put longer or shorter ones in its place
        if tables is None or len(tables[0]) < longest:
            places = torch.arange(longest, device=x.device)
            with torch.no_grad():
                cos, sin = self.body.rotary_emb(x, places[None])
            tables = self._rotary = cos[0].contiguous(), sin[0].contiguous()
        return tables


def _in_rows(rows: Rows) -> Attend:
    def attend(_: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        return causal_attention(q, k, v, rows, scale)

    return attend


def linear(x: Tensor, module: nn.Module) -> Tensor:
    """A linear layer; one that is more than that (adapters) does it itself."""
    if type(module) is nn.Linear:
        return products.linear(x, module.weight, module.bias)
    if type(module) is Conv1D:
        return torch.addmm(module.bias, x, module.weight)
    return module(x)


def norm(x: Tensor, module: Any) -> Tensor:
    """LayerNorm, or the RMSNorm of the families we know."""
    if isinstance(module, nn.LayerNorm):
        return functional.layer_norm(x, module.normalized_shape, module.weight, module.bias, module.eps)
    return rms_norm(x, module.weight, module.variance_epsilon)


def _block(layer: nn.Module, names: Names) -> Block:
    def part(path: str | None) -> Any:
        return None if path is None else layer.get_submodule(path)

    return Block(
        attention_norm=part(names.attention_norm),
        queries_keys_values=tuple(part(path) for path in names.queries_keys_values),
        query_norm=part(names.query_norm),
        key_norm=part(names.key_norm),
        output=part(names.output),
        mlp_norm=part(names.mlp_norm),
        gate=part(names.gate),
        up=part(names.up),
        down=part(names.down),
        activation=part(names.activation),
        scale=float(part(names.attention).scaling),
    )


def _is_known(module: Any) -> bool:
    return type(module) in {nn.Embedding, nn.LayerNorm} or type(module).__name__.endswith("RMSNorm")


def is_silu(activation: Any) -> bool:
    return isinstance(activation, nn.SiLU) or type(activation).__name__ == "SiLUActivation"
