"""What two texts have in common, word by word, as HTML: for two answers side by side, or an answer and its edit."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby

from markupsafe import Markup, escape

from loopwright.feedback.web.hidden import mark, pieces

MAX_STEPS = 200_000  # of the search for the shortest difference; what is left then counts as replaced
MAX_CHANGES = 400  # words that differ in one stretch between two common ones; the search takes the square of them


def diff(first: str, second: str) -> tuple[Markup, Markup]:
    """Both texts as by `raw`; words that only the first has stand in <del>, those of the second in <ins>.

    Words that each text has once, in the same order, are common; between two such the shortest difference is sought
    (Myers 1986, "An O(ND) difference algorithm and its variations"), within MAX_CHANGES and MAX_STEPS. So a text of
    any length takes time by its length: too much difference is shown as all different.
    """
    old, new = _words(first), _words(second)
    common = _common([text for text, _ in old], [text for text, _ in new])
    return (
        _html(old, {place for place, _ in common}, Markup("<del>{}</del>")),
        _html(new, {place for _, place in common}, Markup("<ins>{}</ins>")),
    )


# White space, one sign, one letter of a script without spaces, or a word.
_WORD = re.compile(
    "\\s+|[!-/:-@\\[-`{-~\u00a1-\u00bf\u2010-\u2027\u2030-\u205e\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\uff00-\uff65\U00020000-\U0003ffff]"
    "|[^\\s!-/:-@\\[-`{-~\u00a1-\u00bf\u2010-\u2027\u2030-\u205e\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\uff00-\uff65\U00020000-\U0003ffff]+"
)

_Word = tuple[str, Markup]  # as it is compared, and as it is shown
_Pairs = list[tuple[int, int]]  # places of common words: in the first text, in the second


def _words(text: str) -> list[_Word]:
    found: list[_Word] = []
    for piece in pieces(text):  # of the whole text: whether a character belongs depends on its neighbours
        if piece.hidden:
            found.append((piece.text, mark(piece.text)))
        else:
            found += [(word, escape(word)) for word in _WORD.findall(piece.text)]
    return found


def _html(words: Sequence[_Word], common: set[int], changed: Markup) -> Markup:
    parts = []
    for same, run in groupby(enumerate(words), key=lambda found: found[0] in common):
        html = Markup("").join(shown for _, (_, shown) in run)
        parts.append(html if same else changed.format(html))
    return Markup("").join(parts)


def _common(old: Sequence[str], new: Sequence[str]) -> _Pairs:
    start, end = _same_ends(old, new)
    found = [(i, i) for i in range(start)]
    steps = MAX_STEPS
    for a, b in _stretches(old, new, start, end):
        pairs, taken = _shortest(old[a.start : a.stop], new[b.start : b.stop], min(MAX_CHANGES, steps))
        steps = max(0, steps - taken)
        found += [(a.start + i, b.start + j) for i, j in pairs]
    return found + [(len(old) - i, len(new) - i) for i in range(end, 0, -1)]


def _same_ends(old: Sequence[str], new: Sequence[str]) -> tuple[int, int]:
    """How many words at the start and at the end are the same."""
    shorter = min(len(old), len(new))
    start = 0
    while start < shorter and old[start] == new[start]:
        start += 1
    end = 0
    while end < shorter - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return start, end


def _stretches(old: Sequence[str], new: Sequence[str], start: int, end: int) -> Iterator[tuple[range, range]]:
    """The stretches that begin with a common word of `_anchors` and reach to the next."""
    a, b = start, start
    for i, j in _anchors(old[start : len(old) - end], new[start : len(new) - end]):
        yield range(a, start + i), range(b, start + j)
        a, b = start + i, start + j
    yield range(a, len(old) - end), range(b, len(new) - end)


def _anchors(old: Sequence[str], new: Sequence[str]) -> _Pairs:
    """The longest row of words that each text has once and that follow each other in both (patience sorting)."""
    counts, places = Counter(old), {word: j for j, word in enumerate(new)}
    once = {word for word, count in Counter(new).items() if count == 1 and counts[word] == 1}
    pairs = [(i, places[word]) for i, word in enumerate(old) if word in once]
    ends: list[int] = []  # of the best row of each length, where it ends in `new`
    last: list[int] = []  # and which pair that is
    before: list[int] = []
    for number, (_, j) in enumerate(pairs):
        length = bisect_left(ends, j)
        ends[length : length + 1] = [j]
        last[length : length + 1] = [number]
        before.append(last[length - 1] if length else -1)
    row = []
    number = last[-1] if last else -1
    while number >= 0:
        row.append(pairs[number])
        number = before[number]
    return row[::-1]


def _shortest(old: Sequence[str], new: Sequence[str], max_changes: int) -> tuple[_Pairs, int]:
    """(common words of the shortest difference, steps it took); the same start alone if it is longer than allowed."""
    furthest: dict[int, int] = {1: 0}  # diagonal (place in old - place in new) -> the furthest place in old
    rounds: list[dict[int, int]] = []
    steps = 0
    for changes in range(min(len(old) + len(new), max_changes) + 1):
        rounds.append(furthest.copy())
        for k in range(-changes, changes + 1, 2):
            down = k == -changes or (k != changes and furthest[k - 1] < furthest[k + 1])
            x = furthest[k + 1] if down else furthest[k - 1] + 1
            while x < len(old) and x - k < len(new) and old[x] == new[x - k]:
                x += 1
            furthest[k] = x
            if x >= len(old) and x - k >= len(new):
                return _walked_back(rounds, len(old), len(new)), steps
        steps += changes + 1
    start, _ = _same_ends(old, new)
    return [(i, i) for i in range(start)], steps


def _walked_back(rounds: Sequence[dict[int, int]], x: int, y: int) -> _Pairs:
    pairs: _Pairs = []
    for changes in range(len(rounds) - 1, -1, -1):
        furthest, k = rounds[changes], x - y
        down = k == -changes or (k != changes and furthest[k - 1] < furthest[k + 1])
        before_x = furthest[k + 1] if down else furthest[k - 1]
        before_y = before_x - (k + 1 if down else k - 1)
        while x > max(before_x, 0) and y > max(before_y, 0):
            x, y = x - 1, y - 1
            pairs.append((x, y))
        x, y = before_x, before_y
    return pairs[::-1]
