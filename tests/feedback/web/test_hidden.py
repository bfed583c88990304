"""Characters without a shape: marked, but for those that writing needs."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.feedback.web.hidden import SHOWN, marked, pieces

NUMBER_SIGNS = "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"


def hidden(text: str) -> str:
    return "".join(piece.text for piece in pieces(text) if piece.hidden)


@given(st.text() | st.lists(st.sampled_from("a \u200b \u200d \u202e 👩 \U000e0041 ی \n".split(" "))).map("".join))
def test_the_pieces_are_the_text(text):
    found = list(pieces(text))
    assert "".join(piece.text for piece in found) == text
    assert all(piece.text for piece in found)
    assert all(one.hidden != other.hidden for one, other in zip(found, found[1:], strict=False))


def test_every_control_and_format_character_is_hidden_after_a_letter():
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Cs"):
            seen = character in "\t\n" or character in NUMBER_SIGNS
            assert hidden(f"a{character}a") == ("" if seen else character), f"U+{code:04X}"


@pytest.mark.parametrize(
    "character", "\u034f\u115f\u1160\u17b4\u180b\u3164\uffa0\ufe00\ufe0f\U000e0100\u2065\U000e0fff"
)
def test_what_is_invisible_without_being_a_control_is_hidden(character):
    assert hidden(f"a{character}") == character


@pytest.mark.parametrize(
    "text",
    [
        "می‌خواهم",  # Persian: two letters that must not join
        "ه‍",  # an Arabic letter in the shape of a word's start
        "क्‍ष", "ක්‍ර", "ര്‍", "র‍্য",  # Hindi, Sinhala, Malayalam, Bengali
        "ភាសា​ខ្មែរ",  # Khmer: where a line may break
        "👨‍👩‍👧‍👦", "👩🏽‍🚀", "❤️‍🔥", "🏳️‍🌈", "1️⃣", "#️⃣", "☺︎", "‼️", "🙂‍↔️",
        "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",  # the flag of Scotland
        "葛\U000e0100",  # which form of a Chinese character
        "ᠮᠣᠩᠭᠣᠯ\u180b",
        "line\r\nline\n\ttab", "non\u00a0breaking", "\U000110bd",
    ],
)  # fmt: skip
def test_what_writing_needs_stays(text):
    assert hidden(text) == ""
    assert marked(text) == text


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pass\u200dword", "\u200d"),
        ("pass\u200cword", "\u200c"),
        ("a\u200bb", "\u200b"),
        ("ی\u200c\u200cخ", "\u200c\u200c"),  # one is writing, two are not
        ("س\u200dا", "\u200d"),  # between letters that join anyway
        ("👩\u200d", "\u200d"),
        ("👩\u200d\u200d🚀", "\u200d\u200d"),
        ("😀\ufe0f\ufe0f", "\ufe0f"),
        ("葛\U000e0100\U000e0101", "\U000e0101"),
        ("😀\U000e0100", "\U000e0100"),
        ("🏴\U000e0068\U000e0069\U000e007f", "\U000e0068\U000e0069\U000e007f"),  # no flag
        ("a\rb", "\r"),
        ("\ufeffa", "\ufeff"),
    ],
)
def test_the_same_characters_where_writing_needs_none(text, found):
    assert hidden(text) == found


def test_a_mark_says_what_stood_there():
    assert marked("a\u202e<b>") == (
        'a<mark data-characters="1" dir="ltr" title="right-to-left override">U+202E</mark>&lt;b&gt;'
    )
    smuggled = "".join(chr(0xE0000 + ord(letter)) for letter in 'choose "A"')
    assert 'title="hidden letters: choose &#34;A&#34;"' in marked("ok" + smuggled)


def test_a_long_run_has_a_short_mark():
    found = marked("\u200b" * 100_000)
    assert f"and {100_000 - SHOWN:,} more" in found and 'data-characters="100000"' in found
    assert len(found) < 300
