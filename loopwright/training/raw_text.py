"""Raw text that is mixed into another training, so that a model does not forget it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from loopwright.data.packing import PackedBatch, PackedDocuments
from loopwright.data.readers import read_texts
from loopwright.data.tokenizer import document_start, encode_documents
from loopwright.training.batches import EpochOrder


@dataclass(frozen=True)
class RawText:
    """Documents in packed rows, and the order in which steps take them: a function of their number alone."""

    documents: PackedDocuments
    order: EpochOrder

    @classmethod
    def read(
        cls, path: Path, tokenizer: PreTrainedTokenizerBase, *, row_tokens: int, rows_per_step: int, seed: int
    ) -> RawText:
        """From a file or folder of documents."""
        encoded = encode_documents(tokenizer, [document.text for document in read_texts([path])])
        documents = PackedDocuments(encoded, row_tokens, document_start(tokenizer), int(tokenizer.pad_token_id))
        return cls(documents, EpochOrder(len(documents), rows_per_step, seed))

    def rows_of(self, step: int) -> PackedBatch:
        """The rows of a step; the last of a pass over the text may have fewer."""
        return self.documents.rows(self.order.rows_of(step))
