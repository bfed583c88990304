"""Generation over our own decoder: real tokens only, one cache, finished rows leave at once and waiting ones join.

The weights are those of the model; nothing is copied between learning and sampling, except that a CPU where it pays
keeps one copy of the matrices in the order its library reads fastest, for the time of a call.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loopwright.errors import ModelError
from loopwright.generation.base import Rollouts, SamplingConfig, check_prompts, evaluating
from loopwright.generation.sampling import draw, uniforms
from loopwright.generation.slots import Slots
from loopwright.generation.step import Step
from loopwright.kernels.functions import Rows, causal_attention
from loopwright.models import lm_head
from loopwright.models.decoder import Decoder, Tokens
from loopwright.models.forward import can_run_at_once
from loopwright.models.layers import unwrapped
from loopwright.models.padding import pad_rows
from loopwright.models.tokens import forbidden_token_ids
from loopwright.models.trainable import why_not_merged
from loopwright.runtime.cores import shares, side_by_side

# In each of several batches on the cores of a CPU. With fewer, Python takes most of the time of a small model's steps.
FEWEST_ROWS_AT_ONCE, FEWEST_OF_SMALL, SMALL = 32, 128, 2_000_000  # SMALL: numbers in the model
CACHE_BYTES = 2**30  # of keys and values at a time on a CPU, if one row has no more; other rows wait


class FastEngine:
    """Samples from a model that `Decoder.of` knows, or a peft model around one."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, rows_at_once: int = 512) -> None:
        """Raises ModelError when the decoder does not know the model; `make_engine` takes another engine then."""
        reason = why_not(model)
        if reason is not None:
            raise ModelError(f"the fast engine cannot run this model: {reason}; use TransformersEngine")
        self.model = model
        self.tokenizer = tokenizer
        self.pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.rows_at_once = rows_at_once

    def generate(self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, seeds: Sequence[int]) -> Rollouts:
        """One response for each prompt (token ids), in the order given.

        Raises:
            DataError: a prompt is empty, or prompt and response do not fit the model's context.
        """
        check_prompts(self.model, prompts, sampling, seeds)
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), tuple(prompts[i])))
        fewest = FEWEST_OF_SMALL if self.model.num_parameters() < SMALL else FEWEST_ROWS_AT_ONCE
        count = shares(min(len(order), self.rows_at_once) // fewest) if can_run_at_once(self.model) else 1
        each = -(-len(order) // count)
        parts = [order[start : start + each] for start in range(0, len(order), each)]
        device = self.model.device
        numbers = uniforms(seeds, sampling.max_new_tokens).to(device)
        decoder = Decoder.of(self.model)
        assert isinstance(decoder, Decoder)

        def answer(rows: list[int]) -> list[Tensor]:
            batch = _Batch(self, step, [prompts[i] for i in rows], numbers[rows], sampling, len(parts))
            for _ in batch.steps():
                pass
            return batch.found(rows)

        with torch.no_grad(), evaluating(self.model):
            step = Step(decoder, unwrapped(self.model).get_output_embeddings(), min(each, self.rows_at_once))
            found = side_by_side(answer, parts, at_once=count > 1)
        rows, places, tokens, logprobs = (torch.cat(column) for column in zip(*found, strict=True))
        return self._rollouts(prompts, rows, places, tokens, logprobs)

    @torch.no_grad()
    def stream(self, prompt: Sequence[int], sampling: SamplingConfig, seed: int) -> Generator[int, None, None]:
        """The tokens that `generate` samples for one prompt, EOS included, each as soon as it is there.

        Raises:
            DataError: as for `generate`.
        """
        check_prompts(self.model, [prompt], sampling, [seed])
        decoder = Decoder.of(self.model)
        assert isinstance(decoder, Decoder)
        numbers = uniforms([seed], sampling.max_new_tokens).to(self.model.device)
        with evaluating(self.model):
            step = Step(decoder, unwrapped(self.model).get_output_embeddings(), 1)
            batch = _Batch(self, step, [prompt], numbers, sampling, 1)
            for _ in batch.steps():
                yield int(batch.tokens[0])

    def _rollouts(
        self, prompts: Sequence[Sequence[int]], rows: Tensor, places: Tensor, tokens: Tensor, logprobs: Tensor
    ) -> Rollouts:
        """From one entry a sampled token: its row, its place in the response, its id and log-probability."""
        device = self.model.device
        prompt_ids, prompt_mask = (part.to(device) for part in pad_rows(prompts, self.pad_id, left=True))
        shape = len(prompts), int(places.max()) + 1
        response_ids = torch.full(shape, self.pad_id, device=device)
        response_mask = torch.zeros(shape, dtype=torch.bool, device=device)
        all_logprobs = torch.zeros(shape, device=device)
        finished = torch.zeros(shape[0], dtype=torch.bool, device=device)
        response_ids[rows, places] = tokens
        response_mask[rows, places] = True
        all_logprobs[rows, places] = logprobs
        finished[rows[tokens == self.tokenizer.eos_token_id]] = True
        return Rollouts(prompt_ids, prompt_mask, response_ids, response_mask, all_logprobs, finished)


class _Batch:
    """Rows that share a cache, from their prompts to their ends."""

    def __init__(  # noqa: PLR0913 -- what is sampled from, and how
        self,
        engine: FastEngine,
        step: Step,
        prompts: Sequence[Sequence[int]],
        numbers: Tensor,
        sampling: SamplingConfig,
        batches: int,
    ) -> None:
        """`prompts` come longest first; `numbers` is [B, max_new_tokens]; so many `batches` share memory."""
        self.step, self.prompts, self.numbers, self.sampling = step, prompts, numbers, sampling
        decoder = self.decoder = step.decoder
        self.eos = engine.tokenizer.eos_token_id
        self.device = engine.model.device
        vocabulary = unwrapped(engine.model).get_output_embeddings().weight.shape[0]
        self.forbidden = forbidden_token_ids(engine.tokenizer, vocabulary).to(self.device)
        dtype = decoder.embeddings.weight.dtype
        layers, heads, size = len(decoder.blocks), decoder.kv_heads, decoder.size
        row_bytes = 2 * layers * heads * size * (len(prompts[0]) + 2 * sampling.max_new_tokens) * dtype.itemsize
        fitting = CACHE_BYTES // row_bytes if self.device.type == "cpu" else engine.rows_at_once
        capacity = max(1, min(engine.rows_at_once, fitting) // batches)
        self.slots = Slots([len(prompt) for prompt in prompts], capacity, sampling.max_new_tokens)
        columns = self.slots.columns
        self.keys, self.values = (
            torch.zeros(layers, self.slots.capacity, heads, *shape, dtype=dtype, device=self.device)
            for shape in ((size, columns), (columns, size))
        )
        self.tokens = torch.empty(self.slots.capacity, dtype=torch.int64, device=self.device)  # last of each slot
        self.first = torch.empty_like(self.tokens)
        self.history: list[tuple[list[int], list[int], Tensor, Tensor]] = []  # rows, places, tokens, log-probs

    def steps(self) -> Iterator[None]:
        """Sample until every row has ended or has max_new_tokens. Yields after each token of the live rows."""
        slots = self.slots
        while True:
            while joining := slots.joining():
                self._take(self._read(joining), len(slots) - len(joining))
                yield
            if not len(slots):
                return
            if slots.full():
                self._shift()
            logits = self._go_on()
            slots.advance()
            self._take(logits, 0)
            yield

    def found(self, rows: Sequence[int]) -> list[Tensor]:
        """[N] each: row, as numbered in `rows`, place in the response, token, log-probability."""
        number = torch.tensor(rows)
        rows_of, places_of, tokens, logprobs = zip(*self.history, strict=True)
        row, place = (torch.tensor([x for part in parts for x in part]) for parts in (rows_of, places_of))
        return [number[row].to(self.device), place.to(self.device), torch.cat(tokens), torch.cat(logprobs)]

    def _read(self, joining: range) -> Tensor:
        """[J, V] logits behind the prompts of rows that join; each prompt is read once."""
        slots, start = self.slots, len(self.slots) - len(joining)
        places: dict[tuple[int, ...], int] = {}
        which = [places.setdefault(tuple(self.prompts[row]), len(places)) for row in joining]
        lengths = [len(prompt) for prompt in places]
        begins = torch.tensor([0, *lengths]).cumsum(0)
        ids = torch.tensor([token for prompt in places for token in prompt])
        positions = torch.cat([torch.arange(length) for length in lengths])
        rows = Rows(begins.to(self.device), max(lengths), min(lengths) == max(lengths))
        tokens = Tokens(ids.to(self.device), rows, positions.to(self.device))
        # Where each token of each slot's prompt comes from, and goes to.
        source = torch.cat([torch.arange(int(begins[i]), int(begins[i + 1])) for i in which]).to(self.device)
        slot = torch.repeat_interleave(torch.arange(start, len(slots)), torch.tensor([lengths[i] for i in which]))
        column = torch.cat([torch.arange(slots.cursor - lengths[i], slots.cursor) for i in which]).to(self.device)
        slot = slot.to(self.device)

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            self.keys[layer][slot, :, :, column] = k[source]
            self.values[layer][slot, :, column] = v[source]
            return causal_attention(q, k, v, rows, scale)

        last = torch.zeros(len(ids), dtype=torch.bool, device=self.device)
        last[rows.starts[1:] - 1] = True
        self.first[start : len(slots)] = torch.tensor(slots.first[start:], device=self.device)
        hidden = self.decoder.read(tokens, last, attend=attend)
        return self.step.head(hidden)[torch.tensor(which, device=self.device)]

    def _go_on(self) -> Tensor:
        """[n, V] logits behind the last token of every live slot, whose keys and values join the cache."""
        count = len(self.slots)
        return self.step(self.tokens[:count], self.keys, self.values, self.first[:count], self.slots.cursor)

    def _take(self, logits: Tensor, start: int) -> None:
        """Sample a token for the slots from `start` on, and let go of rows that end with it."""
        slots = self.slots
        rows = slots.rows[start:]
        places = [slots.step - end + slots.most_tokens for end in slots.ends[start:]]
        uniform = self.numbers[rows, places]
        tokens, logprobs = draw(logits, uniform, self.forbidden, self.sampling)
        self.history.append((rows, places, tokens, logprobs))
        self.tokens[start : len(slots)] = tokens
        ids = tokens.tolist()
        last = slots.step + 1
        if self.eos in ids or min(slots.ends[start:]) == last:
            ended = [token == self.eos or end == last for token, end in zip(ids, slots.ends[start:], strict=True)]
            self._release([False] * start + ended)

    def _release(self, ended: list[bool]) -> None:
        moves = self.slots.release(ended)
        if moves:
            sources, targets = (torch.tensor(side, device=self.device) for side in zip(*moves, strict=True))
            for state in (self.tokens, self.first):
                state[targets] = state[sources]
            for cache in (self.keys, self.values):
                cache[:, targets] = cache[:, sources]

    def _shift(self) -> None:
        """Make room at the right: nobody reads the first columns any more."""
        end = self.slots.cursor
        unused = self.slots.shift()
        count = len(self.slots)
        self.first[:count] -= unused
        for keys, values in zip(self.keys, self.values, strict=True):
            keys[:count, ..., : end - unused] = keys[:count, ..., unused:end].clone()
            values[:count, :, : end - unused] = values[:count, :, unused:end].clone()


def why_not(model: Any) -> str | None:
    """Why the fast engine cannot run this model, in a few words; None where it can."""
    decoder = Decoder.of(model)
    if isinstance(decoder, str):
        return decoder
    if not lm_head.head_is_all(unwrapped(model)):
        return "its logits are more than a linear layer of the last hidden states"
    return why_not_merged(model)
