"""What two texts have in common: right where it is small, bounded where it is large."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loopwright.feedback.web import word_diff
from loopwright.feedback.web.text import raw
from loopwright.feedback.web.word_diff import diff

WORDS = st.lists(st.sampled_from("a b c the , . \n < & \u200b 日本 می‌خواهم 👨‍👩‍👧".split(" ")), max_size=30).map(
    " ".join
)
TEXTS = WORDS | st.text(max_size=30)


def shared(markup: str, tag: str) -> str:
    return re.sub(f"<{tag}>.*?</{tag}>", "", markup, flags=re.DOTALL)


@given(TEXTS, TEXTS)
def test_each_side_is_its_text_and_the_rest_is_common(first, second):
    old, new = diff(first, second)
    assert re.sub("</?del>", "", old) == raw(first)
    assert re.sub("</?ins>", "", new) == raw(second)
    assert shared(old, "del") == shared(new, "ins")


@given(TEXTS)
def test_a_text_does_not_differ_from_itself(text):
    assert diff(text, text) == (raw(text), raw(text))


def test_by_hand():
    assert diff("the cat sat on the mat", "the dog sat on a mat!") == (
        "the <del>cat</del> sat on <del>the</del> mat",
        "the <ins>dog</ins> sat on <ins>a</ins> mat<ins>!</ins>",
    )
    assert diff("", "new") == ("", "<ins>new</ins>")
    assert diff("今日は雨", "今日は雪") == ("今日は<del>雨</del>", "今日は<ins>雪</ins>")


def test_everything_is_escaped_and_hidden_characters_are_marked():
    old, new = diff("<img src=x onerror=alert(1)>", "</ins><script>\u202e")
    assert "<img" not in old and "<script" not in new and new.count("</ins>") == new.count("<ins>")
    assert '<mark data-characters="1" dir="ltr" title="right-to-left override">U+202E</mark>' in new


def test_a_hidden_character_is_a_difference():
    old, new = diff("pay me", "pay\u200b me")
    assert old == "pay me"
    assert new.startswith("pay<ins><mark ") and new.endswith("</mark></ins> me")


def longest_common(first: list[str], second: list[str]) -> int:
    """Wagner and Fischer's table."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = row
        row = [0]
        for j, other in enumerate(second):
            row.append(before[j] + 1 if word == other else max(before[j + 1], row[-1]))
    return row[-1]


@given(st.lists(st.sampled_from("abc"), max_size=9), st.lists(st.sampled_from("abc"), max_size=9))
def test_the_search_finds_the_shortest_difference(first, second):
    pairs, _ = word_diff._shortest(first, second, 99)
    assert len(pairs) == longest_common(first, second)
    assert all(first[i] == second[j] for i, j in pairs)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in zip(pairs, pairs[1:], strict=False))


@pytest.mark.parametrize("words", [1, 2, 50, 5000])
def test_long_texts_take_a_bounded_number_of_steps(monkeypatch, words):
    """100,000 characters each; of few different words, where nothing anchors, and of many."""
    taken = []
    search = word_diff._shortest

    def counted(old, new, max_changes):
        found, steps = search(old, new, max_changes)
        taken.append(steps)
        return found, steps

    monkeypatch.setattr(word_diff, "_shortest", counted)
    chance = random.Random(0)
    first, second = (" ".join(f"w{chance.randrange(words)}" for _ in range(33_000))[:100_000] for _ in range(2))
    old, _ = diff(first + " end", second.replace("w0", "x"))
    assert sum(taken) <= word_diff.MAX_STEPS + word_diff.MAX_CHANGES**2
    assert re.sub("</?del>", "", old) == first + " end"


def test_an_edit_in_a_long_text_is_found():
    words = [f"word{i % 700}" for i in range(12_000)]
    edited = [*words[:5_000], "changed", *words[5_001:9_000], *words[9_010:]]
    old, new = diff(" ".join(words), " ".join(edited))
    assert new.count("<ins>") == 1 and "<ins>changed</ins>" in new
    assert old.count("<del>") == 2 and f"<del>{words[5_000]}</del>" in old
