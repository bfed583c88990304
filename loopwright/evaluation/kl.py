"""How far a policy has moved from its reference, on the policy's own responses."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from loopwright.evaluation.states import by_length, head_at
from loopwright.generation.base import Rollouts
from loopwright.models.forward import can_run_at_once
from loopwright.models.tokens import forbidden_token_ids
from loopwright.objectives.kl import Head, exact_kl, kl_estimate
from loopwright.objectives.logprobs import token_logprobs
from loopwright.runtime.cores import shares, side_by_side

ROWS_AT_ONCE = 64


class ResponseKL(NamedTuple):
    """KL(policy || reference) of each response, summed over its tokens, in nats."""

    k1: Tensor  # [B] log policy - log reference of the sampled tokens: unbiased, may be negative
    exact: Tensor  # [B] over the full vocabulary at each sampled prefix: the same mean, less noise, never negative


@torch.no_grad()
def response_kl(policy: Any, reference: Any, tokenizer: Any, rollouts: Rollouts, temperature: float) -> ResponseKL:
    """Both estimates, with the two models run alike, so that a model against itself gives exactly 0.

    Args:
        policy, reference: causal LMs over one vocabulary.
        tokenizer: the policy's; the ids that it never samples count for neither model.
        rollouts: sampled from the policy at `temperature`.
    """
    device = policy.device
    vocabulary = policy.get_output_embeddings().weight.shape[0]
    forbidden = forbidden_token_ids(tokenizer, vocabulary).to(device)
    k1 = torch.zeros(len(rollouts.response_ids), dtype=torch.float64)
    exact = torch.zeros_like(k1)

    def compare(rows: list[int]) -> None:
        batch = _without_empty_columns(rollouts.rows(rows))
        ids, mask = batch.sequences().to(device), batch.attention_mask().to(device)
        places = torch.cat((torch.zeros_like(batch.prompt_mask), batch.response_mask), dim=1).to(device)
        heads = [head_at(model, ids, mask, places) for model in (policy, reference)]
        sampled = [_logprobs(head, ids[places], temperature, forbidden) for head in heads]
        owner = places.nonzero()[:, 0].cpu()
        k1[rows] = _sums(kl_estimate(sampled[0], sampled[1], "k1"), owner, len(rows))
        exact[rows] = _sums(
            exact_kl(heads[0], heads[1], temperature=temperature, forbidden=forbidden), owner, len(rows)
        )

    lengths = rollouts.attention_mask().sum(dim=1).tolist()
    at_once = can_run_at_once(policy, reference)
    rows_at_once = max(1, ROWS_AT_ONCE // (shares(len(lengths)) if at_once else 1))
    side_by_side(compare, by_length(lengths, rows_at_once), at_once=at_once)
    return ResponseKL(k1, exact)


def _logprobs(head: Head, targets: Tensor, temperature: float, forbidden: Tensor) -> Tensor:
    return token_logprobs(
        head.hidden, head.weight, targets, bias=head.bias, temperature=temperature, forbidden=forbidden
    ).logprobs


def _sums(values: Tensor, owner: Tensor, rows: int) -> Tensor:
    """[rows] float64: the sum of the values that each row owns."""
    return torch.zeros(rows, dtype=torch.float64).index_add_(0, owner, values.double().cpu())


def _without_empty_columns(rollouts: Rollouts) -> Rollouts:
    """The same rows without the padding that none of them needs."""
    prompt = int(rollouts.prompt_mask.sum(dim=1).max())
    response = int(rollouts.response_mask.sum(dim=1).max())
    start = rollouts.prompt_ids.shape[1] - prompt
    return rollouts._replace(
        prompt_ids=rollouts.prompt_ids[:, start:],
        prompt_mask=rollouts.prompt_mask[:, start:],
        response_ids=rollouts.response_ids[:, :response],
        response_mask=rollouts.response_mask[:, :response],
        logprobs=rollouts.logprobs[:, :response],
    )
