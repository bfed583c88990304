"""How documents start, as prompts that ask for a continuation."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from loopwright.data.tokenizer import encode_texts
from loopwright.schemas import Prompt


def openings(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], tokens: int) -> list[Prompt]:
    """The first tokens of each text that has so many; `opening-<i>` is that of texts[i]."""
    starts = [ids[:tokens] for ids in encode_texts(tokenizer, texts)]
    return [Prompt.user(f"opening-{i}", str(tokenizer.decode(s))) for i, s in enumerate(starts) if len(s) == tokens]
