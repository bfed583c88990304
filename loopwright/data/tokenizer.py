"""Byte-level BPE tokenizers of our own, and text as tokens for any tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from loopwright.errors import DataError

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = (PAD, END, USER, ASSISTANT)
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)
# transformers sets whether special tokens are read as such on the tokenizer that all threads share, then encodes: two
# threads at once, and what a person wrote becomes a special token.
ONE_AT_A_TIME = threading.Lock()


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-pair encoding (Sennrich et al. 2016) on bytes (Radford et al. 2019): any text has a form, none is unknown.

    Deterministic, whatever the order of the texts. The result has at most `vocab_size` tokens; less when
    the texts offer fewer pairs to merge. EOS is `<|end|>`, padding is `<|pad|>`; there is no BOS.

    Raises:
        DataError: there is no text, or `vocab_size` has no room for the bytes and special tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise DataError(
            f"vocab_size = {vocab_size} has no room for 256 bytes and {len(SPECIAL_TOKENS)} special tokens; "
            f"set it to at least {SMALLEST_VOCABULARY}"
        )
    texts = sorted(texts)
    if not texts:
        raise DataError("no text to train a tokenizer on; give at least one document")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain texts: nothing added, and text that spells a special token stays text."""
    return _encoded(tokenizer, texts, split_special_tokens=True)


def encode_rendered(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of what a chat template wrote: there, and only there, special tokens are written as text."""
    return _encoded(tokenizer, texts, split_special_tokens=False)


def _encoded(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, split_special_tokens: bool
) -> list[list[int]]:
    if not texts:
        return []
    with ONE_AT_A_TIME:
        encoded = tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=split_special_tokens,
            return_attention_mask=False,
            verbose=False,  # long documents are cut later, by us
        )
    return list(encoded["input_ids"])


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of one plain text; see `encode_texts`."""
    return encode_texts(tokenizer, [text])[0]


def bos_prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """[BOS] for tokenizers that start every text with it (Llama), [] for the others (GPT-2, Qwen2, ours)."""
    with ONE_AT_A_TIME:
        return [token for token in tokenizer("")["input_ids"] if token == tokenizer.bos_token_id][:1]


def encode_documents(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, batch: int = 1024
) -> Iterator[list[int]]:
    """Each text as pre-training predicts it: the text, EOS. What stands before it is `document_start`."""
    for first in range(0, len(texts), batch):
        for ids in encode_texts(tokenizer, texts[first : first + batch]):
            yield [*ids, tokenizer.eos_token_id]


def document_start(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token before a document: BOS where the tokenizer uses one, else EOS, as if another had ended."""
    return (bos_prefix(tokenizer) or [tokenizer.eos_token_id])[0]
