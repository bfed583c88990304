from loopwright.data.openings import openings
from loopwright.schemas import Prompt
from tests.tiny import tiny_tokenizer


def test_openings_by_hand():
    found = openings(tiny_tokenizer(), ["once upon", "too", "four", "<|end|> of"], 4)
    assert found == [Prompt.user(f"opening-{i}", text) for i, text in ((0, "once"), (2, "four"), (3, "<|en"))]
