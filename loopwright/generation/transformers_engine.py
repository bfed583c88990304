"""Generation over any transformers causal LM: our own decode loop, one preallocated KV cache.

The model's weights are read where they are: a learner's model that changes between calls needs no copy.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from loopwright.generation.base import Rollouts, SamplingConfig, check_prompts, evaluating
from loopwright.generation.sampling import sample_tokens, sampling_logprobs, uniforms
from loopwright.models.forward import can_run_at_once
from loopwright.models.layers import unwrapped
from loopwright.models.padding import pad_rows, position_ids
from loopwright.models.tokens import forbidden_token_ids
from loopwright.runtime.cores import shares, side_by_side

FEWEST_ROWS_AT_ONCE = 128  # in each of several batches on the cores of a CPU: with fewer, Python takes most of the time
DROP_SHARE = 0.25  # finished rows leave the batch once they are this share of it: below, moving the cache costs more


class TransformersEngine:
    """Samples from a transformers model (or a peft model around one) in float32 logits."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, rows_at_once: int = 512) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.pad_id = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.rows_at_once = rows_at_once
        base = unwrapped(model)
        accepted = inspect.signature(base.forward).parameters
        self.last_logit_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def generate(self, prompts: Sequence[Sequence[int]], sampling: SamplingConfig, seeds: Sequence[int]) -> Rollouts:
        """One response for each prompt (token ids), in the order given.

        Rows are batched by prompt length, so that little padding is computed, and a prompt that several rows of a batch
        have is read once.

        Raises:
            DataError: a prompt is empty, or prompt and response do not fit the model's context.
        """
        check_prompts(self.model, prompts, sampling, seeds)
        device = self.model.device
        vocab_size = self.model.get_output_embeddings().weight.shape[0]
        forbidden = forbidden_token_ids(self.tokenizer, vocab_size).to(device)
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), tuple(prompts[i])))

        def answer(rows: list[int]) -> Rollouts:
            places: dict[tuple[int, ...], int] = {}
            which = torch.tensor([places.setdefault(tuple(prompts[i]), len(places)) for i in rows])
            ids, mask = (part.to(device) for part in pad_rows(list(places), self.pad_id, left=True))
            numbers = uniforms([seeds[i] for i in rows], sampling.max_new_tokens).to(device)
            return self._decode(ids, mask, which.to(device), numbers, forbidden, sampling)

        most = min(len(order), self.rows_at_once)
        count = shares(most // FEWEST_ROWS_AT_ONCE) if can_run_at_once(self.model) else 1
        size = min(math.ceil(len(order) / count), self.rows_at_once // count)
        chunks = [order[start : start + size] for start in range(0, len(order), size)]
        with torch.no_grad(), evaluating(self.model):
            rollouts = _joined(side_by_side(answer, chunks, at_once=count > 1), self.pad_id)
        return rollouts.rows(_inverse(order))

    @torch.no_grad()
    def stream(self, prompt: Sequence[int], sampling: SamplingConfig, seed: int) -> Generator[int, None, None]:
        """The tokens that `generate` samples for one prompt, EOS included, each as soon as it is there.

        Raises:
            DataError: as for `generate`.
        """
        check_prompts(self.model, [prompt], sampling, [seed])
        device, steps = self.model.device, sampling.max_new_tokens
        forbidden = forbidden_token_ids(self.tokenizer, self.model.get_output_embeddings().weight.shape[0]).to(device)
        numbers = uniforms([seed], steps).to(device)
        tokens = torch.tensor([prompt], device=device)
        mask = torch.ones(1, len(prompt) + steps, dtype=torch.bool, device=device)
        positions = position_ids(mask)
        cache = _preallocated_cache(self.model, len(prompt) + steps)
        begin = 0
        with evaluating(self.model):
            for end in range(len(prompt), len(prompt) + steps):
                logits = self._next_logits(cache, tokens, mask[:, :end], positions[:, begin:end])
                distribution = sampling_logprobs(logits, forbidden, sampling.temperature)
                token = sample_tokens(distribution, numbers[:, end - len(prompt)], sampling)
                yield int(token)
                if int(token) == self.tokenizer.eos_token_id:
                    return
                tokens, begin = token[:, None], end

    def _decode(  # noqa: PLR0913 -- what is sampled from, and how
        self,
        distinct_ids: Tensor,
        distinct_mask: Tensor,
        which: Tensor,
        numbers: Tensor,
        forbidden: Tensor,
        sampling: SamplingConfig,
    ) -> Rollouts:
        """Sample until every row has ended or max_new_tokens are reached.

        Args:
            distinct_ids, distinct_mask: [D, P] the prompts, each once.
            which: [B] the prompt of each row.
            numbers: [B, max_new_tokens] uniform numbers.
            forbidden: [F] ids never drawn.
            sampling: temperature and limits.
        """
        prompt_ids, prompt_mask = distinct_ids[which], distinct_mask[which]
        (rows, width), steps = prompt_ids.shape, sampling.max_new_tokens
        response_ids = prompt_ids.new_full((rows, steps), self.pad_id)
        response_mask = torch.zeros((rows, steps), dtype=torch.bool, device=prompt_ids.device)
        logprobs = torch.zeros((rows, steps), device=prompt_ids.device)
        finished = torch.zeros(rows, dtype=torch.bool, device=prompt_ids.device)

        # `live` are the rows still in the batch; a finished row may stay in it for a while, unrecorded.
        live = torch.arange(rows, device=prompt_ids.device)
        mask = torch.nn.functional.pad(prompt_mask, (0, steps), value=True)
        positions = position_ids(mask)
        cache = _preallocated_cache(self.model, width + steps)
        logits = self._next_logits(cache, distinct_ids, distinct_mask, position_ids(distinct_mask))
        if len(distinct_ids) < rows:
            logits = logits[which]
            cache.batch_select_indices(which)
        for step in range(steps):
            distribution = sampling_logprobs(logits, forbidden, sampling.temperature)
            sampled = sample_tokens(distribution, numbers[live, step], sampling)
            running = ~finished[live]
            now = live[running]
            response_ids[now, step] = sampled[running]
            response_mask[now, step] = True
            logprobs[now, step] = distribution.gather(-1, sampled[:, None]).squeeze(1)[running]
            finished[now] = sampled[running] == self.tokenizer.eos_token_id

            running = ~finished[live]
            still = int(running.sum())
            if still == 0:
                break
            if still <= (1 - DROP_SHARE) * len(live):
                kept = running.nonzero().squeeze(1)
                live, sampled = live[kept], sampled[kept]
                cache.batch_select_indices(kept)
            if step + 1 < steps:
                end = width + step + 1
                logits = self._next_logits(cache, sampled[:, None], mask[live, :end], positions[live, end - 1 : end])
        used = step + 1
        return Rollouts(
            prompt_ids, prompt_mask, response_ids[:, :used], response_mask[:, :used], logprobs[:, :used], finished
        )

    def _next_logits(self, cache: Cache, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """[B, V] after the last of these [B, T] tokens, which join the cache; `mask` is of all that are in it then."""
        return self.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **self.last_logit_only,
        ).logits[:, -1]


class PreallocatedLayer(DynamicLayer):
    """Keys and values of one full-attention layer in a buffer allocated once, instead of grown by copying."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length
        self.used = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Store the new states; gives back all so far, as views."""
        if not self.is_initialized:
            rows, heads, _, size = key_states.shape
            self.dtype, self.device = key_states.dtype, key_states.device
            self.key_buffer = key_states.new_empty(rows, heads, self.length, size)
            self.value_buffer = value_states.new_empty(rows, heads, self.length, value_states.shape[-1])
            self.is_initialized = True
        end = self.used + key_states.shape[-2]
        self.key_buffer[:, :, self.used : end] = key_states
        self.value_buffer[:, :, self.used : end] = value_states
        self.used = end
        self.keys, self.values = self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.used

    def batch_select_indices(self, indices: Tensor) -> None:
        """Take these rows; what is not used yet is not copied."""
        buffers = []
        for buffer in (self.key_buffer, self.value_buffer):
            taken = buffer.new_empty(len(indices), *buffer.shape[1:])
            taken[:, :, : self.used] = buffer[indices, :, : self.used]
            buffers.append(taken)
        self.key_buffer, self.value_buffer = buffers


def _preallocated_cache(model: Any, length: int) -> Cache:
    """The cache the model asks for, its full-attention layers preallocated; sliding windows keep their own kind."""
    cache = DynamicCache(config=model.config)
    cache.layers = [PreallocatedLayer(length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _inverse(order: Sequence[int]) -> Tensor:
    inverse = torch.empty(len(order), dtype=torch.int64)
    inverse[torch.tensor(order)] = torch.arange(len(order))
    return inverse


def _joined(chunks: Sequence[Rollouts], pad_id: int) -> Rollouts:
    """One Rollouts of all chunks, as wide as the widest."""
    if len(chunks) == 1:
        return chunks[0]
    prompt = max(chunk.prompt_ids.shape[1] for chunk in chunks)
    response = max(chunk.response_ids.shape[1] for chunk in chunks)

    def left(x: Tensor, fill: int | bool) -> Tensor:
        return torch.nn.functional.pad(x, (prompt - x.shape[1], 0), value=fill)

    def right(x: Tensor, fill: int | bool | float) -> Tensor:
        return torch.nn.functional.pad(x, (0, response - x.shape[1]), value=fill)

    return Rollouts(
        prompt_ids=torch.cat([left(chunk.prompt_ids, pad_id) for chunk in chunks]),
        prompt_mask=torch.cat([left(chunk.prompt_mask, False) for chunk in chunks]),
        response_ids=torch.cat([right(chunk.response_ids, pad_id) for chunk in chunks]),
        response_mask=torch.cat([right(chunk.response_mask, False) for chunk in chunks]),
        logprobs=torch.cat([right(chunk.logprobs, 0.0) for chunk in chunks]),
        finished=torch.cat([chunk.finished for chunk in chunks]),
    )
