"""Characters that a reader cannot see, or that turn the order of those around them: which they are, and their marks.

They pass through every sanitiser, for they are text. An answer may carry words in them for whoever reads it next (a
judge model, a program), or show letters in another order than they have. So each run of them is replaced by a mark
that says what stood there; those that writing needs stay: joiners within emoji and where letters of Arabic or Indic
scripts meet, variation selectors after what they vary, spaces without width between words of Khmer, Lao, Thai, Burmese.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from markupsafe import Markup, escape

SHOWN = 8  # characters of a run that its mark names; one run may have a hundred thousand


class Piece(NamedTuple):
    text: str
    hidden: bool


def pieces(text: str) -> Iterator[Piece]:
    """The text cut into what can be seen and runs of what cannot; together they are the text."""
    end = 0
    for start, stop in _hidden_runs(text):
        if end < start:
            yield Piece(text[end:start], hidden=False)
        yield Piece(text[start:stop], hidden=True)
        end = stop
    if end < len(text):
        yield Piece(text[end:], hidden=False)


def marked(text: str) -> Markup:
    """The text as HTML, escaped, every run of hidden characters replaced by its mark."""
    return Markup("").join(mark(piece.text) if piece.hidden else escape(piece.text) for piece in pieces(text))


@lru_cache(1024)
def mark(run: str) -> Markup:
    """What is shown in place of hidden characters.

    `dir` keeps the mark out of what dir="auto" looks at, and apart from the text around it; `data-characters` says how
    many characters (code points) of the text it stands for, so that places in the text can be counted.
    """
    shown = " ".join(f"U+{ord(character):04X}" for character in run[:SHOWN])
    if len(run) > SHOWN:
        shown += f" and {len(run) - SHOWN:,} more"
    return Markup('<mark data-characters="{}" dir="ltr" title="{}">{}</mark>').format(len(run), _said(run), shown)


def _said(run: str) -> str:
    """The names of a run's characters; of tag characters, the letters that they spell."""
    spelled = "".join(chr(ord(character) - _TAGS) for character in run if 0x20 <= ord(character) - _TAGS < 0x7F)
    if spelled:
        return f"hidden letters: {spelled[:200]}"
    return ", ".join(_name(character) for character in dict.fromkeys(run[:SHOWN]))


def _name(character: str) -> str:
    other = "control character" if unicodedata.category(character) == "Cc" else "character without a name"
    return unicodedata.name(character, other).lower()


def _hidden_runs(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each run of characters that have no place in the text."""
    start = end = -1
    for match in _SUSPECTS.finditer(text):
        if len(match[0]) > 1 or _belongs(text, match.start()):
            continue
        if match.start() != end:
            if end >= 0:
                yield start, end
            start = match.start()
        end = match.end()
    if end >= 0:
        yield start, end


_TAGS = 0xE0000  # the letters of ASCII once more, without a shape

# All of the categories Cc, Cf, Zl, Zp and Cs but tab, line feed and the signs that Arabic, Syriac and Kaithi put under
# numbers, which have a shape; and what else has none: fillers, joiners, variation selectors, the plane of tags.
_SUSPECTS = re.compile(
    "\U0001f3f4\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074|"
    "\U000e0077\U000e006c\U000e0073)\U000e007f"  # the flags of England, Scotland, Wales
    "|[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff\ud800-\udfff]"
)
_ZWNJ, _ZWJ = "\u200c", "\u200d"
# Letters that take another shape beside others: Arabic, Syriac, N'Ko, Mandaic, Mongolian, Adlam.
_CURSIVE = re.compile("[\u0620-\u07ff\u0840-\u08ff\u1807-\u18aa\ufb50-\ufdff\U0001e900-\U0001e94b]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17d3\u19e0-\u19ff\uaa60-\uaa7f]")
_HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_MONGOLIAN = re.compile("[\u1807-\u18aa]")
_VARIED = re.compile("[0-9#*\u203c\u2049\u2139\u3030\u303d\u3297\u3299]")  # of emoji, what is no symbol


def _belongs(text: str, place: int) -> bool:
    """Whether the writing needs this character here. Never two of them in a row."""
    character, before, after = text[place], text[max(place - 1, 0) : place], text[place + 1 : place + 2]
    if character == "\r":
        return after == "\n"
    if character in (_ZWNJ, _ZWJ):
        return _joins(character, before, after)
    if character == "\u200b":
        return bool(_UNSPACED.match(before) and _UNSPACED.match(after))
    if "\ufe00" <= character <= "\ufe0f":
        return _is_symbol(before) or bool(_VARIED.match(before) or _HAN.match(before))
    if "\U000e0100" <= character <= "\U000e01ef":
        return bool(_HAN.match(before))
    return "\u180b" <= character <= "\u180f" and bool(_MONGOLIAN.match(before))


def _joins(joiner: str, before: str, after: str) -> bool:
    if _is_virama(before) or _is_virama(after):  # Indic scripts: which form of two letters that meet
        return True
    sides = bool(_CURSIVE.match(before)) + bool(_CURSIVE.match(after))
    if joiner == _ZWNJ:  # Persian: two letters that would join, and must not
        return sides == 2
    if sides == 1:  # an Arabic letter in the shape that it has beside another
        return True
    return (_is_symbol(before) or before == "\ufe0f") and _is_symbol(after)  # an emoji of several


def _is_virama(character: str) -> bool:
    return character != "" and unicodedata.combining(character) == 9


def _is_symbol(character: str) -> bool:
    """Emoji are symbols, but for those that are younger than Python's tables."""
    return character != "" and (
        unicodedata.category(character).startswith("S") or "\U0001f000" <= character <= "\U0001faff"
    )
