import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from loopwright.objectives.hindsight import contrastive_loss, hindsight_loss, quantile_bins
from loopwright.objectives.language_modelling import next_token_cross_entropy

seeds = st.integers(0, 2**31)


def problem(seed, answers=5, instructions=3, tokens=6, vocabulary=7):
    """Logits [B, K, T, V] of random models, answers [B, T] of several lengths, and what they achieved."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(answers, instructions, tokens, vocabulary, generator=generator).double()
    targets = torch.randint(vocabulary, (answers, tokens), generator=generator)
    lengths = torch.randint(1, tokens + 1, (answers, 1), generator=generator)
    own = torch.randint(instructions, (answers,), generator=generator)
    return logits, targets, torch.arange(tokens) < lengths, own


def read(logits, targets, own):
    """[B, K, T] log-probabilities of the targets, [B, T] entropies under each answer's own instruction."""
    log_p = logits.log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1)[torch.arange(len(own)), own]
    return log_p.gather(-1, targets[:, None, :, None].expand(*log_p.shape[:3], 1)).squeeze(-1), entropy


def per_answer(mask):
    return mask.sum().item() / len(mask)


def loss_of(logits, targets, mask, own, *, alpha, beta, rows=slice(None)):
    logprobs, entropy = read(logits[rows], targets[rows], own[rows])
    settings = dict(alpha=alpha, beta=beta, tokens_per_answer=per_answer(mask))
    return hindsight_loss(logprobs, entropy, mask[rows], own[rows], **settings)


def test_by_hand():
    # One answer of two tokens, and padding: under its own instruction 1/2 and 1/4, under the other 1/4 and 1/8.
    logprobs = torch.tensor([[[1 / 4, 1 / 8, 1.0], [1 / 2, 1 / 4, 1.0]]]).log()
    entropy, mask = torch.tensor([[0.5, 0.7, 9.0]]), torch.tensor([[True, True, False]])
    got = hindsight_loss(logprobs, entropy, mask, torch.tensor([1]), alpha=0.5, beta=0.1, tokens_per_answer=2.0)
    assert_close(got.supervised, torch.tensor(math.log(8)))
    # 1/8 against 1/32: the answer names its instruction with probability 4/5
    assert_close(got.contrastive, torch.tensor(math.log(5 / 4)))
    assert_close(got.entropy, torch.tensor(1.2))
    assert_close(got.total, torch.tensor(math.log(8) + 0.5 * 2 * math.log(5 / 4) - 0.12))


@given(seed=seeds, alpha=st.floats(0, 2), beta=st.floats(0, 1))
def test_against_an_independent_implementation(seed, alpha, beta):
    """The paper's three terms, one answer, instruction and token at a time."""
    logits, targets, mask, own = problem(seed)
    supervised, contrastive, entropy, tokens = 0.0, 0.0, 0.0, 0
    for answer in range(len(logits)):
        length = int(mask[answer].sum())
        whole = []
        for instruction in range(logits.shape[1]):
            distributions = [logits[answer, instruction, t].softmax(0) for t in range(length)]
            found = [math.log(p[targets[answer, t]]) for t, p in enumerate(distributions)]
            whole.append(math.prod(math.exp(one) for one in found))
            if instruction == own[answer]:
                supervised -= sum(found)
                entropy += sum(float((p * p.log()).sum()) for p in distributions)
                tokens += length
        contrastive -= math.log(whole[own[answer]] / sum(whole))
    expected = supervised / tokens + alpha * contrastive / len(logits) + beta * entropy / tokens
    assert float(loss_of(logits, targets, mask, own, alpha=alpha, beta=beta).total) / tokens == pytest.approx(expected)


@given(seed=seeds)
def test_without_the_other_terms_it_is_cross_entropy(seed):
    logits, targets, mask, own = problem(seed)
    chosen = logits[torch.arange(len(own)), own]
    labels = torch.nn.functional.pad(targets.masked_fill(~mask, -100), (1, 0), value=-100)
    expected = next_token_cross_entropy(torch.nn.functional.pad(chosen, (0, 0, 0, 1)), None, labels)
    got = loss_of(logits, targets, mask, own, alpha=0.0, beta=0.0)
    assert_close(got.total, expected.total)
    assert_close(got.total, got.supervised)


@given(seed=seeds, junk=st.sampled_from([1e6, math.inf, math.nan]))
def test_padding_never_leaks(seed, junk):
    logits, targets, mask, own = problem(seed)
    logprobs, entropy = read(logits, targets, own)
    settings = dict(alpha=1.0, beta=0.1, tokens_per_answer=per_answer(mask))
    clean = [logprobs.clone().requires_grad_(), entropy.clone().requires_grad_()]
    dirty = [
        logprobs.masked_fill(~mask[:, None], junk).requires_grad_(),
        entropy.masked_fill(~mask, junk).requires_grad_(),
    ]
    found = [hindsight_loss(*tensors, mask, own, **settings) for tensors in (clean, dirty)]
    assert_close(*found)
    for one in found:
        one.total.backward()
    assert_close([tensor.grad for tensor in clean], [tensor.grad for tensor in dirty])
    assert not dirty[0].grad[~mask[:, None].expand_as(logprobs)].any()


@given(seed=seeds, cut=st.integers(0, 5))
def test_order_and_cuts_change_nothing(seed, cut):
    given_ = problem(seed)
    whole = loss_of(*given_, alpha=1.0, beta=0.1)
    parts = [loss_of(*given_, alpha=1.0, beta=0.1, rows=rows) for rows in (slice(cut), slice(cut, None))]
    assert_close([sum(terms) for terms in zip(*parts, strict=True)], list(whole))
    order = torch.randperm(len(given_[0]), generator=torch.Generator().manual_seed(seed))
    assert_close(loss_of(*(tensor[order] for tensor in given_), alpha=1.0, beta=0.1), whole)


@given(seed=seeds)
def test_what_an_instruction_is_numbered_changes_nothing(seed):
    logits, targets, mask, own = problem(seed)
    order = torch.randperm(logits.shape[1], generator=torch.Generator().manual_seed(seed))
    renumbered = logits[:, order], targets, mask, order.argsort()[own]
    assert_close(loss_of(*renumbered, alpha=1.0, beta=0.1), loss_of(logits, targets, mask, own, alpha=1.0, beta=0.1))


def test_an_answer_alike_under_all_instructions_costs_log_k_and_pushes_them_apart():
    logprobs = torch.full((1, 4), -7.0, requires_grad=True)
    loss = contrastive_loss(logprobs, torch.tensor([2]))
    loss.sum().backward()
    assert_close(loss.detach(), torch.tensor([math.log(4)]))
    assert_close(logprobs.grad, torch.tensor([[0.25, 0.25, -0.75, 0.25]]))


def test_one_instruction_has_nothing_to_be_told_from():
    assert_close(contrastive_loss(torch.randn(3, 1), torch.zeros(3, dtype=torch.int64)), torch.zeros(3))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"needs logprobs \[B, K, T\]"):
        hindsight_loss(
            torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3).bool(), torch.zeros(2).long(),
            alpha=1.0, beta=0.0, tokens_per_answer=3.0,
        )  # fmt: skip


def test_bins_by_hand():
    scores = torch.tensor([0.3, -1.0, 5.0, 0.2])
    assert quantile_bins(scores, [0.25, 0.5, 0.75]).tolist() == [2, 0, 3, 1]
    assert quantile_bins(scores, [0.5]).tolist() == [1, 0, 1, 0]
    assert quantile_bins(scores[:3], [0.5]).tolist() == [1, 0, 1]  # half of all are below the middle: it is above


@pytest.mark.parametrize("ones", [1, 2, 5, 8, 9])
@pytest.mark.parametrize("edges", [[0.5], [0.1], [0.9], [0.2, 0.4, 0.6, 0.8]])
def test_two_values_are_always_told_apart(ones, edges):
    scores = torch.tensor([1.0] * ones + [0.0] * (10 - ones))
    bins = quantile_bins(scores, edges).tolist()
    assert bins == [len(edges)] * ones + [0] * (10 - ones)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 5), seeds)
def test_bins_follow_the_scores_and_nothing_else(values, bins, seed):
    scores = torch.tensor(values).float()
    edges = [i / bins for i in range(1, bins)]
    found = quantile_bins(scores, edges)
    assert ((scores[:, None] < scores) <= (found[:, None] <= found)).all()
    assert ((scores[:, None] == scores) <= (found[:, None] == found)).all()
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(seed))
    assert quantile_bins(scores[order], edges).tolist() == found[order].tolist()
    assert quantile_bins(7 * scores - 2, edges).tolist() == found.tolist()  # no scale, no offset
    assert found[scores.argmax()] == bins - 1


@given(st.integers(1, 6), st.integers(1, 8), seeds)
def test_without_ties_bins_are_equally_full(bins, each, seed):
    scores = torch.randperm(bins * each, generator=torch.Generator().manual_seed(seed)).float()
    found = quantile_bins(scores, [i / bins for i in range(1, bins)])
    assert found.bincount().tolist() == [each] * bins
