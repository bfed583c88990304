"""Generation over our own decoder: real tokens only, one cache, finished rows leave at once and waiting ones join.

The weights are those that learning moves; `step` says where it reads a copy of them for the time of a call.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loopwright.errors import ModelError
from loopwright.generation.base import Rollouts, SamplingConfig, check_prompts, evaluating
from loopwright.generation.replay import CudaGraphs, Record, Recordings
from loopwright.generation.sampling import draw, uniforms
from loopwright.generation.slots import Slots, groups_of, places_for
from loopwright.generation.step import Step
from loopwright.kernels.cached_attention import Cache, Seats
from loopwright.kernels.functions import Rows, causal_attention, in_c
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
        # What records the steps of a batch; None where none is worth it.
        self.recorder: Callable[[], Record] | None = (
            partial(CudaGraphs, model.device) if model.device.type == "cuda" else None
        )

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
        embeddings = decoder.embeddings.weight
        layers, heads, size, longest = len(decoder.blocks), decoder.kv_heads, decoder.size, len(prompts[0])
        groups, self.most_samples = _groups(prompts, even=not in_c(embeddings))
        begins = {group: row for row, group in reversed(list(enumerate(groups)))}
        self.ranks = [row - begins[group] for row, group in enumerate(groups)]  # of each row in its group
        most = max(1, engine.rows_at_once // batches)
        if self.device.type == "cpu":
            token_bytes = 2 * layers * heads * size * embeddings.dtype.itemsize

            def cache_bytes(rows: int) -> int:
                return token_bytes * (2 * sampling.max_new_tokens * rows + longest * places_for(groups, rows))

            most = bisect_right(range(1, most + 1), CACHE_BYTES // batches, key=cache_bytes) or 1
        self.slots = Slots(groups, most, sampling.max_new_tokens)
        capacity, places, columns = self.slots.capacity, self.slots.most_places, self.slots.columns
        shapes = (
            (places, heads, size, longest),
            (places, heads, longest, size),
            (capacity, heads, size, columns),
            (capacity, heads, columns, size),
        )
        self.cache = Cache(*(embeddings.new_zeros(layers, *shape) for shape in shapes))
        self.behind = embeddings.new_zeros(places, embeddings.shape[1])  # the hidden state behind each prompt
        self.tokens = torch.zeros(capacity, dtype=torch.int64, device=self.device)  # last of each slot
        self.row = torch.zeros_like(self.tokens)
        self.spot, self.length, self.first = (torch.zeros_like(self.tokens) for _ in range(3))  # see `Seats`
        self.seats: Seats | None = None  # of the live slots; None when they have changed
        self.recordings: Recordings | None = None
        if engine.recorder is not None:
            self.recordings = Recordings(self._recorded, capacity, engine.recorder())
        self.end = torch.zeros(1, dtype=torch.int64, device=self.device)  # and further down: what recordings read
        self.members = self.tokens.new_zeros(places, self.most_samples)
        self.numbered = torch.arange(capacity, device=self.device)
        self.live = self.numbered < 0
        self.history: list[tuple[list[int], list[int], Tensor, Tensor]] = []  # rows, places, tokens, log-probs

    def steps(self) -> Iterator[None]:
        """Sample until every row has ended or has max_new_tokens. Yields after each token of the live rows."""
        try:
            yield from self._steps()
        finally:
            if self.recordings is not None:  # they hold the batch, and memory that nothing else may have
                self.recordings.forget()
                self.recordings = None

    def _steps(self) -> Iterator[None]:
        slots = self.slots
        while True:
            while (joining := slots.joining()).rows:
                if joining.unread:
                    self._read(joining.unread)
                start = len(slots) - len(joining.rows)
                self._take(*self._join(joining.rows), start)
                yield
            if not len(slots):
                return
            if slots.full():
                self._shift()
            end = slots.cursor
            slots.advance()
            self._take(*self._go_on(end), 0)
            yield

    def found(self, rows: Sequence[int]) -> list[Tensor]:
        """[N] each: row, as numbered in `rows`, place in the response, token, log-probability."""
        number = torch.tensor(rows)
        rows_of, places_of, tokens, logprobs = zip(*self.history, strict=True)
        row, place = (torch.tensor([x for part in parts for x in part]) for parts in (rows_of, places_of))
        return [number[row].to(self.device), place.to(self.device), torch.cat(tokens), torch.cat(logprobs)]

    def _read(self, unread: dict[int, int]) -> None:
        """Fill places with the prompts of these rows; a prompt that goes to several is read once."""
        numbers: dict[tuple[int, ...], int] = {}
        which = [numbers.setdefault(tuple(self.prompts[row]), len(numbers)) for row in unread.values()]
        lengths = [len(prompt) for prompt in numbers]
        begins = torch.tensor([0, *lengths]).cumsum(0)
        ids = torch.tensor([token for prompt in numbers for token in prompt])
        positions = torch.cat([torch.arange(length) for length in lengths])
        rows = Rows(begins.to(self.device), max(lengths), min(lengths) == max(lengths))
        tokens = Tokens(ids.to(self.device), rows, positions.to(self.device))
        # Where each token of each place's prompt comes from, and goes to.
        source = torch.cat([torch.arange(int(begins[i]), int(begins[i + 1])) for i in which]).to(self.device)
        places = torch.tensor(list(unread))
        place = torch.repeat_interleave(places, torch.tensor([lengths[i] for i in which])).to(self.device)
        column = tokens.positions[source]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
            self.cache.prompt_keys[layer][place, :, :, column] = k[source]
            self.cache.prompt_values[layer][place, :, column] = v[source]
            return causal_attention(q, k, v, rows, scale)

        last = torch.zeros(len(ids), dtype=torch.bool, device=self.device)
        last[rows.starts[1:] - 1] = True
        hidden = self.decoder.read(tokens, last, attend=attend)
        self.behind[places.to(self.device)] = hidden[torch.tensor(which, device=self.device)]

    def _join(self, rows: range) -> tuple[Tensor, Tensor]:
        """[J] the first token of rows that join, and its log-probability."""
        slots = self.slots
        start, places = len(slots) - len(rows), slots.places[len(slots) - len(rows) :]
        spots = [place * self.most_samples + self.ranks[row] for place, row in zip(places, rows, strict=True)]
        lengths = [len(self.prompts[row]) for row in rows]
        states = (self.row, rows), (self.spot, spots), (self.length, lengths), (self.first, slots.first[start:])
        for state, numbers in states:
            state[start : len(slots)] = torch.tensor(numbers, device=self.device)
        self.seats = None
        distinct = {place: number for number, place in enumerate(dict.fromkeys(places))}
        logits = self.step.head(self.behind[torch.tensor(list(distinct), device=self.device)])
        logits = logits[torch.tensor([distinct[place] for place in places], device=self.device)]
        return draw(logits, self.numbers[self.row[start : len(slots)], 0], self.forbidden, self.sampling)

    def _go_on(self, end: int) -> tuple[Tensor, Tensor]:
        """[n] the next token of every live slot, and its log-probability; keys and values go to column `end`."""
        count = len(self.slots)
        if self.seats is None:
            shape = self.slots.most_places, self.most_samples
            self.seats = Seats.of(self.spot[:count], self.length[:count], self.first[:count], shape)
            self.members.copy_(self.seats.members)
            self.live.copy_(self.numbered < count)
        if self.recordings is None:
            return self._next(self.seats, end)
        self.end.fill_(end)
        return self.recordings(count)

    def _recorded(self, rows: int) -> tuple[Tensor, Tensor]:
        """The same of the first slots, live or not, from tensors that stay where they are."""
        spot, first = self.spot[:rows], self.first[:rows].where(self.live[:rows], self.end)
        seats = Seats(spot // self.most_samples, self.length[:rows], first, spot, spot, self.members)
        return self._next(seats, self.end)

    def _next(self, seats: Seats, end: int | Tensor) -> tuple[Tensor, Tensor]:
        count = len(seats.first)
        logits = self.step(self.tokens[:count], self.cache, seats, end)
        uniform = self.numbers[self.row[:count], end - seats.first + 1]
        return draw(logits, uniform, self.forbidden, self.sampling)

    def _take(self, tokens: Tensor, logprobs: Tensor, start: int) -> None:
        """Keep what was sampled for the slots from `start` on, and let go of rows that end with it."""
        slots = self.slots
        rows = slots.rows[start:]
        places = [slots.step - end + slots.most_tokens for end in slots.ends[start:]]
        self.history.append((rows, places, tokens, logprobs))
        self.tokens[start : len(slots)] = tokens
        ids = tokens.tolist()
        last = slots.step + 1
        if self.eos in ids or min(slots.ends[start:]) == last:
            ended = [token == self.eos or end == last for token, end in zip(ids, slots.ends[start:], strict=True)]
            self._release([False] * start + ended)

    def _release(self, ended: list[bool]) -> None:
        moves = self.slots.release(ended)
        self.seats = None
        if moves:
            sources, targets = (torch.tensor(side, device=self.device) for side in zip(*moves, strict=True))
            for state in (self.tokens, self.row, self.spot, self.length, self.first):
                state[targets] = state[sources]
            for part in (self.cache.keys, self.cache.values):
                part[:, targets] = part[:, sources]

    def _shift(self) -> None:
        """Make room at the right: nobody reads the first columns any more."""
        end = self.slots.cursor
        unused = self.slots.shift()
        count = len(self.slots)
        self.first[:count] -= unused
        self.seats = None
        for keys, values in zip(self.cache.keys, self.cache.values, strict=True):
            keys[:count, ..., : end - unused] = keys[:count, ..., unused:end].clone()
            values[:count, :, : end - unused] = values[:count, :, unused:end].clone()


def _groups(prompts: Sequence[Sequence[int]], *, even: bool) -> tuple[list[int], int]:
    """The group of each row, whose rows share a place, and the most rows of one.

    `even`: no group has more rows than a prompt has on average. That is what products with as many queries to each
    prompt need: they never compute twice as many as there are.
    """
    groups = groups_of(prompts, len(prompts))
    if even:
        groups = groups_of(prompts, -(-len(prompts) // (groups[-1] + 1)))
    return groups, max(Counter(groups).values())


def why_not(model: Any) -> str | None:
    """Why the fast engine cannot run this model, in a few words; None where it can."""
    decoder = Decoder.of(model)
    if isinstance(decoder, str):
        return decoder
    if not lm_head.head_is_all(unwrapped(model)):
        return "its logits are more than a linear layer of the last hidden states"
    return why_not_merged(model)
