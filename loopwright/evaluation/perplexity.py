"""How well a model predicts held-out text: what alignment costs is the rise of this figure."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from loopwright.data.tokenizer import bos_prefix, encode_text
from loopwright.errors import DataError
from loopwright.evaluation.states import by_length, head_at
from loopwright.models.forward import can_run_at_once
from loopwright.models.padding import pad_rows
from loopwright.models.tokens import context_length
from loopwright.objectives.logprobs import token_logprobs
from loopwright.runtime.cores import shares, side_by_side

LONGEST_WINDOW = 1024  # tokens
TOKENS_AT_ONCE = 8_192


class Perplexity(NamedTuple):
    perplexity: float  # exp of the mean negative log-likelihood per token
    bits_per_byte: float  # of UTF-8: comparable between tokenizers
    tokens: int


@torch.no_grad()
def perplexity(model: Any, tokenizer: Any, texts: Sequence[str]) -> Perplexity:
    """Perplexity over all tokens of all texts.

    Every token is predicted once, in windows of the model's context, the first after BOS, or EOS where there
    is none: the way documents follow each other in pre-training. The EOS after a text is not predicted.

    Raises:
        DataError: the texts hold no token.
    """
    window = min(context_length(model) or LONGEST_WINDOW, LONGEST_WINDOW)
    before = bos_prefix(tokenizer) or [tokenizer.eos_token_id]
    rows = [row for text in texts for row in _windows([*before, *encode_text(tokenizer, text)], window)]
    if not rows:
        raise DataError("perplexity needs held-out text, and the texts given hold no token; name others")

    def loss(indices: list[int]) -> float:
        ids, mask = (part.to(model.device) for part in pad_rows([rows[i] for i in indices], tokenizer.eos_token_id))
        places = mask.clone()
        places[:, 0] = False
        head = head_at(model, ids, mask, places)
        found = token_logprobs(head.hidden, head.weight, ids[places], bias=head.bias)
        return -float(found.logprobs.double().sum())

    at_once = can_run_at_once(model)
    tokens_at_once = TOKENS_AT_ONCE // (shares(len(rows)) if at_once else 1)
    batches = by_length([len(row) for row in rows], max(1, tokens_at_once // window))
    total = sum(side_by_side(loss, batches, at_once=at_once))
    tokens = sum(len(row) - 1 for row in rows)
    size = sum(len(text.encode(errors="replace")) for text in texts)
    return Perplexity(math.exp(total / tokens), total / math.log(2) / size, tokens)


def _windows(tokens: Sequence[int], window: int) -> Iterator[Sequence[int]]:
    """Pieces of at most `window` tokens; the last of one is the first of the next, so each is predicted once."""
    for start in range(0, len(tokens) - 1, window - 1):
        yield tokens[start : start + window]
