"""How much likelier than its reference a policy finds judged responses.

The reference is the policy before training: it reads every response once, by the same code, and only its
log-probabilities are kept. Every response goes through the policy once a batch, however many judgements speak of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from loopwright.errors import CheckError
from loopwright.models.padding import pad_rows
from loopwright.models.tokens import forbidden_token_ids
from loopwright.objectives.logprobs import token_logprobs
from loopwright.runtime.cores import side_by_side
from loopwright.training.gradients import may_run_at_once
from loopwright.training.judged_groups import Group
from loopwright.training.ppo_batch import Episodes, microbatches, permutation, spread
from loopwright.training.ppo_reader import Reader
from loopwright.training.precision import Precision, computing_in
from loopwright.training.preference_pairs import Labels, Pairs, labels_of, pairs_of

TOKENS_AT_ONCE = 8_192  # of a batch that is read without gradient
SAME_MODEL = 1e-3  # nats a token by which a policy may differ from its reference before it is trained


class Row(NamedTuple):
    """A response after a prompt, as tokens, and what the reference says of it."""

    ids: list[int]  # EOS included
    prompt_length: int
    reference: Tensor  # [T] float32 log-probabilities of the response's tokens, on the CPU

    @property
    def tokens(self) -> int:
        """Of the response."""
        return len(self.ids) - self.prompt_length


class Answered(NamedTuple):
    """A prompt with all that was said of its responses, and these as rows."""

    group: Group
    rows: list[Row]
    mismatched: list[Row]  # the same prompt with another prompt's responses


class AnsweredBatch(NamedTuple):
    """A microbatch; responses are numbered as its episodes are, whose log-probabilities are the reference's."""

    episodes: Episodes
    pairs: Pairs
    labels: Labels
    baseline: Tensor | None = None  # scalar, of the whole step

    def weight(self) -> float:
        """Of all that is said."""
        return float(self.pairs.weight.sum() + self.labels.weight.sum())


class LogRatios:
    """Reads responses with a policy."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        *,
        per_token: bool = False,
        precision: Precision = "float32",
    ) -> None:
        """A policy that computes in `precision`.

        `per_token`: log-ratios are means over a response's tokens, not sums.
        """
        self.model = model
        self.reader = Reader(model)
        self.per_token = per_token
        self.precision: Precision = precision
        self.pad_id = int(tokenizer.pad_token_id)
        self.device = next(model.parameters()).device
        # What is never sampled has no probability: so the sampler and PPO's learner have it, too.
        vocabulary = model.get_input_embeddings().weight.shape[0]
        self.forbidden = forbidden_token_ids(tokenizer, vocabulary).to(self.device)

    def remember(self, groups: Sequence[Group], *, mismatches: Sequence[Sequence[list[int]]] = ()) -> list[Answered]:
        """Groups with what this model, from now on the reference, says of their responses.

        Args:
            mismatches: for each group, its prompt with responses of others; or nothing.
        """
        others = mismatches or [[] for _ in groups]
        of_group = [[*one.rows, *wrong] for one, wrong in zip(groups, others, strict=True)]
        rows = [
            Row(ids, len(one.prompt_ids), torch.zeros(len(ids) - len(one.prompt_ids)))
            for one, all_rows in zip(groups, of_group, strict=True)
            for ids in all_rows
        ]
        found = self._in_batches(rows, lambda batch: list(self._logprobs(batch).split(batch.mask.sum(1).tolist())))
        known = iter([row._replace(reference=own) for row, own in zip(rows, found, strict=True)])
        answered = []
        for one, wrong in zip(groups, others, strict=True):
            answered.append(Answered(one, [next(known) for _ in one.rows], [next(known) for _ in wrong]))
        return answered

    def of(self, episodes: Episodes) -> Tensor:
        """[B] log pi(y|x) - log pi_ref(y|x), nats, differentiable.

        The difference is taken token by token, where both are of a size: sums of hundreds of nats would round it away.
        """
        difference = self._logprobs(episodes) - episodes.logprobs[episodes.mask]
        total = spread(difference, episodes.mask).sum(1)
        return total / episodes.mask.sum(1) if self.per_token else total

    def of_rows(self, rows: Sequence[Row]) -> Tensor:
        """[N] of rows in their order, on the CPU, without gradient."""
        found = self._in_batches(rows, lambda batch: list(self.of(batch)))
        return torch.stack(found) if found else torch.zeros(0)

    def batch(self, answered: Sequence[Answered]) -> AnsweredBatch:
        """All responses, and what was said of them."""
        groups = [one.group for one in answered]
        rows = [row for one in answered for row in one.rows]
        return AnsweredBatch(
            episodes_of(rows, self.pad_id, self.device),
            pairs_of(groups, {}, self.device),
            labels_of(groups, self.device),
        )

    def check_same(self, answered: Sequence[Answered]) -> None:
        """Raise CheckError where the model, before it is trained, is not the one whose log-probabilities are kept."""
        rows = [row for one in answered[:4] for row in one.rows]
        tokens = torch.tensor([1 if self.per_token else row.tokens for row in rows])
        gap = float((self.of_rows(rows) / tokens).abs().max())
        if not gap <= SAME_MODEL:
            raise CheckError(
                f"before training, policy and reference differ by {gap:.2g} nats a token, and they are the same model; "
                "its forward pass gives other results each time"
            )

    def _logprobs(self, episodes: Episodes) -> Tensor:
        """[N] log-probabilities of all response tokens, row by row."""
        head = self.reader.head(episodes)
        return token_logprobs(
            head.hidden, head.weight, episodes.response_ids(), bias=head.bias, forbidden=self.forbidden
        ).logprobs

    @torch.no_grad()
    def _in_batches(self, rows: Sequence[Row], read: Callable[[Episodes], list[Tensor]]) -> list[Tensor]:
        """What `read` gives for each row, in the order of the rows, on the CPU."""
        if not rows:
            return []
        found: list[Tensor] = [torch.zeros(0)] * len(rows)

        def look(numbers: Tensor) -> None:
            chosen = numbers.tolist()
            batch = episodes_of([rows[i] for i in chosen], self.pad_id, self.device)
            for i, own in zip(chosen, read(batch), strict=True):
                found[i] = own.float().cpu()

        lengths = torch.tensor([len(row.ids) for row in rows])
        at_once = may_run_at_once(self.model) and self.precision == "float32"
        with computing_in(self.model, self.precision):
            side_by_side(look, microbatches(lengths, tokens=TOKENS_AT_ONCE), at_once=at_once)
        return found


def episodes_of(rows: Sequence[Row], pad_id: int, device: torch.device) -> Episodes:
    """Rows as PPO's learner reads sampled responses, the reference in the sampler's place."""
    ids, _ = pad_rows([row.ids for row in rows], pad_id)
    lengths = [row.tokens for row in rows]
    logprobs = torch.zeros(len(rows), max(lengths))
    for i, row in enumerate(rows):
        logprobs[i, : lengths[i]] = row.reference
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    parts = (ids, torch.tensor([row.prompt_length for row in rows]), mask, logprobs, torch.ones(len(rows)).bool())
    return Episodes(*(part.to(device) for part in parts))


def mismatched(groups: Sequence[Group], seed: int, max_length: int) -> list[list[list[int]]]:
    """For each group, a row for each of its responses: its prompt with a response to the prompt after it.

    The prompts stand in a ring drawn from the seed. Ethayarajh et al. 2024 (arXiv:2402.01306) take the next
    example of the microbatch; here the rows are the same however steps are cut into microbatches, and the reference
    reads them once. Rows longer than max_length are left out; one group alone has none.
    """
    ring = permutation(len(groups), seed).tolist()
    after = dict(zip(ring, ring[1:] + ring[:1], strict=True))
    found: list[list[list[int]]] = []
    for number, own in enumerate(groups):
        other = groups[after[number]]
        begin = len(other.prompt_ids)
        written = [other.rows[i % len(other.rows)][begin:] for i in range(len(own.rows))]
        rows = [own.prompt_ids + response for response in written]
        found.append([row for row in rows if len(row) <= max_length] if other is not own else [])
    return found
