import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from loopwright.objectives.pointwise import thumb_loss
from loopwright.objectives.spans import span_loss


def batch(seed, rows=3, tokens=5):
    """Logits, marks, and a mask with a prompt on the left and padding on the right."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, tokens, generator=random)
    marks = torch.randint(0, 2, (rows, tokens), generator=random).float()
    mask = torch.tensor([[False, True, True, True, False], [False, False, True, True, True], [True] * 5])
    return logits, marks, mask[:rows, :tokens]


def test_spans_by_hand():
    # Marked with probabilities 3/4, 3/4 and 1/2: marked, not marked, not marked; the last token is padding.
    logits = torch.tensor([[math.log(3.0), math.log(3.0), 0.0, 7.0]], requires_grad=True)
    marks, mask = torch.tensor([[1.0, 0.0, 0.0, 1.0]]), torch.tensor([[True, True, True, False]])
    loss = span_loss(logits, marks, mask)
    assert_close(loss, torch.tensor(math.log(4 / 3) + math.log(4.0) + math.log(2.0)))
    loss.backward()
    assert_close(logits.grad, torch.tensor([[-0.25, 0.75, 0.5, 0.0]]))  # probability - mark


def test_responses_of_one_token_are_thumbs():
    logits, good = torch.tensor([[0.3], [-2.0], [1.0]]), torch.tensor([[1.0], [0.0], [0.25]])
    assert_close(span_loss(logits, good, torch.ones(3, 1, dtype=torch.bool)), thumb_loss(logits, good).sum())


def test_the_log_odds_of_the_marked_share_are_what_a_constant_learns_nothing_from():
    marks = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    logit = torch.tensor([[math.log(1 / 3)]], requires_grad=True)
    span_loss(logit.expand(1, 4), marks, torch.ones(1, 4, dtype=torch.bool)).backward()
    assert_close(logit.grad, torch.zeros(1, 1))


@given(seed=st.integers(0, 2**31), junk=st.sampled_from([1e6, math.inf, math.nan]))
def test_prompt_and_padding_never_leak(seed, junk):
    logits, marks, mask = batch(seed)
    dirty = logits.masked_fill(~mask, junk).requires_grad_()
    loss = span_loss(dirty, marks.masked_fill(~mask, junk), mask)
    assert_close(loss, span_loss(logits, marks, mask))
    loss.backward()
    assert_close(dirty.grad[~mask], torch.zeros(int((~mask).sum())))


@given(seed=st.integers(0, 2**31))
def test_order_and_batching_never_matter(seed):
    logits, marks, mask = batch(seed)
    whole = span_loss(logits, marks, mask)
    turned = [x.flip(0) for x in (logits, marks, mask)]
    assert_close(span_loss(*turned), whole)
    alone = [span_loss(*(x[i : i + 1] for x in (logits, marks, mask))) for i in range(3)]
    assert_close(torch.stack(alone).sum(), whole)


def test_tensors_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape, got logits \(1, 2\)"):
        span_loss(torch.zeros(1, 2), torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool))
