from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from loopwright.data.chat import Example
from loopwright.data.packing import (
    IGNORED,
    PackedBatch,
    PackedDocuments,
    pack_examples,
    pack_lengths,
    pad_by_length,
    pad_examples,
)
from loopwright.errors import DataError
from tests.tiny import CONTEXT, FAMILIES, tiny_model


def examples(*shapes: tuple[int, int], seed: int = 0) -> list[Example]:
    """Random prompts and responses of these lengths."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> list[int]:
        return torch.randint(0, 250, (count,), generator=generator).tolist()

    return [Example(draw(prompt), draw(response)) for prompt, response in shapes]


def test_a_packed_row_by_hand():
    batch = pack_examples([Example([1, 2], [3]), Example([4], [5, 6])], capacity=7, pad_id=0)
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 3, IGNORED, 5, 6]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 2, 2, 2]]
    padded = pad_examples([Example([1, 2], [3]), Example([4], [5])], pad_id=0)
    assert padded.input_ids.tolist() == [[1, 2, 3], [4, 5, 0]]
    assert padded.labels.tolist() == [[IGNORED, IGNORED, 3], [IGNORED, 5, IGNORED]]
    assert padded.position_ids.tolist() == [[0, 1, 2], [0, 1, 2]]  # no gap, for which a mask would be built


def test_like_lengths_share_a_batch_by_hand():
    rows = [Example([7] * n, []) for n in (6, 1, 3, 2)]
    assert [batch.input_ids.shape for batch in pad_by_length(rows, 2, 99, pad_id=0)] == [(3, 3), (1, 6)]
    assert [batch.input_ids.shape for batch in pad_by_length(rows, 2, 8, pad_id=0)] == [(2, 2), (1, 3), (1, 6)]
    assert [batch.input_ids.shape for batch in pad_by_length(rows, 1, 99, pad_id=0)] == [(4, 6)]
    assert [batch.input_ids.shape for batch in pad_by_length(rows[:1], 5, 99, pad_id=0)] == [(1, 6)]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 9), st.integers(30, 3000))
def test_batches_of_like_length_hold_everything_once(lengths, batches, most):
    found = pad_by_length([Example([i + 1] * n, []) for i, n in enumerate(lengths)], batches, most, pad_id=0)
    assert most < 1800 or len(found) <= batches  # 60 rows of 30 fit
    assert all(batch.input_ids.numel() <= most for batch in found)
    assert sorted(row[row > 0].tolist() for batch in found for row in batch.input_ids) == sorted(
        [i + 1] * n for i, n in enumerate(lengths)
    )
    sizes = [int((batch.input_ids > 0).sum()) for batch in found]
    assert max(sizes) <= sum(lengths) / batches + max(lengths)


def test_nothing_before_a_segment_predicts_its_first_token():
    batch = pack_examples([Example([], [3, 4]), Example([], [5, 6])], capacity=4, pad_id=0)
    assert batch.labels.tolist() == [[IGNORED, 4, IGNORED, 6]]


def gradients(model, batch: PackedBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )
    loss = loss / (batch.labels[:, 1:] != IGNORED).sum()
    model.zero_grad()
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_equals_padded_in_loss_and_gradients(family):
    model = tiny_model(family, vocab_size=260)
    rows = examples((5, 9), (3, 4), (20, 11), (1, 1), (12, 2), (7, 7))
    packed, padded = pack_examples(rows, CONTEXT, pad_id=0), pad_examples(rows, pad_id=0)
    assert packed.input_ids.shape[0] == 2 < padded.input_ids.shape[0]
    (loss, grads), (expected_loss, expected_grads) = gradients(model, packed), gradients(model, padded)
    assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    assert_close(grads, expected_grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_equals_one_by_one(family):
    model = tiny_model(family, vocab_size=260)
    rows = examples((5, 9), (3, 4), (1, 1))
    alone = [gradients(model, pad_examples([row], pad_id=0)) for row in rows]
    tokens = torch.tensor([9.0, 4.0, 1.0])
    expected = (torch.stack([loss for loss, _ in alone]) * tokens).sum() / tokens.sum()
    assert_close(gradients(model, pad_examples(rows, pad_id=99))[0], expected, rtol=1e-5, atol=1e-5)


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(30, 64))
def test_bins_hold_everything_once_within_capacity(lengths, capacity):
    bins = pack_lengths(lengths, capacity)
    assert sorted(i for row in bins for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= capacity for row in bins)
    # Two bins that would fit one would have been one.
    fill = sorted(sum(lengths[i] for i in row) for row in bins)
    assert len(fill) < 2 or fill[0] + fill[1] > capacity
    assert pack_lengths(lengths, capacity) == bins


def test_bins_by_hand():
    assert pack_lengths([3, 5, 2, 6, 4], 10) == [[3, 4], [1, 0, 2]]
    with pytest.raises(ValueError, match="11 tokens does not fit 10"):
        pack_lengths([11], 10)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(2, 10))
def test_documents_are_learned_whole_and_once(lengths, capacity):
    documents = [[100 * i + j + 1 for j in range(size)] for i, size in enumerate(lengths)]
    packed = PackedDocuments(documents, capacity, before=0, pad_id=7)
    batch = packed.rows(range(len(packed)))
    learned = batch.labels[batch.labels != IGNORED].tolist()
    assert Counter(learned) == Counter(token for document in documents for token in document)
    assert packed.tokens == len(learned) == sum(lengths)
    assert batch.input_ids.shape[1] <= capacity
    # A document that fits a row begins at position 0 behind `before`, and is in one segment.
    for document in (d for d in documents if len(d) < capacity):
        ((row, place),) = (batch.input_ids == document[0]).nonzero().tolist()
        end = place + len(document)
        assert batch.input_ids[row, place - 1 : end].tolist() == [0, *document]
        assert batch.position_ids[row, place - 1 : end].tolist() == list(range(len(document) + 1))
        assert len(set(batch.segment_ids[row, place - 1 : end].tolist())) == 1


def test_a_long_document_goes_on_in_another_row():
    packed = PackedDocuments([[1, 2, 3, 4, 5]], capacity=3, before=0, pad_id=7)
    assert [example.prompt_ids + example.response_ids for example in packed.examples] == [[0, 1, 2], [2, 3, 4], [4, 5]]


def test_no_documents_are_an_error():
    with pytest.raises(DataError, match="no tokens"):
        PackedDocuments([], 8, before=0, pad_id=7)
