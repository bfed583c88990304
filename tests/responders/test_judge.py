"""Verdicts from probabilities: worked by hand, the same however a pair is stored, and deaf to what answers say."""

import json
import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from loopwright.data.chat import ensure_chat_template, special_token_texts
from loopwright.responders.injections import LURES, lured, try_lures
from loopwright.responders.judge import (
    GRAIN,
    JudgeConfig,
    ReasoningConfig,
    ScoringConfig,
    ToJudge,
    Verdict,
    clamped,
    compare,
    score,
)
from loopwright.responders.judge_text import LETTERS, quoted, to_compare, verdict_in
from loopwright.responders.local_chooser import LocalChooser
from loopwright.schemas import Message, ReplySettings
from tests.responders.judges import Scripted, by_hash, by_worth, gullible, read
from tests.tiny import tiny_model, tiny_tokenizer

PROMPT = (Message(role="user", content="How much is the pool?"),)
WORTH = {"good": 2.0, "bad": -1.0}
texts = st.text(max_size=40)


def pair(first="good", second="bad", seeds=(1, 2)):
    return ToJudge(PROMPT, (first, second), "Which answer is better?", seeds)


def worth(text):
    """What an answer is worth to one who knows it, whatever else is said beside it."""
    return next((value for name, value in WORTH.items() if name in text), 0.0)


@pytest.fixture(scope="module")
def local():
    tokenizer = tiny_tokenizer()
    ensure_chat_template(tokenizer)
    model = tiny_model("llama", seed=5)
    model.requires_grad_(False).config.max_position_embeddings = 1024
    return LocalChooser(model, tokenizer, "tiny", "policy-1")


def test_a_verdict_by_hand():
    said = {("bad", "good"): (0.2, 0.6), ("good", "bad"): (0.3, 0.3)}  # P(A), P(B) of all replies, in each order

    def logprobs(text, choices):
        seen = read(text)
        return [math.log(share) for share in said[seen["A"], seen["B"]]]

    (verdict,) = compare(Scripted(logprobs), [pair()])
    assert verdict.shown_first == 0.5  # 0.3 / (0.3 + 0.3)
    assert verdict.shown_last == pytest.approx(0.75, abs=GRAIN)  # 0.6 / (0.2 + 0.6)
    assert verdict.probability == pytest.approx(0.625, abs=GRAIN)
    assert not verdict.consistent
    assert verdict.liking_for_first == pytest.approx((0.5 + 0.25) / 2, abs=GRAIN)


def test_a_liking_for_a_position_alone_is_no_opinion():
    (verdict,) = compare(by_worth(lambda text: 0.0, position=3.0), [pair()])
    assert verdict.probability == 0.5 and not verdict.consistent
    assert verdict.liking_for_first == pytest.approx(1 / (1 + math.exp(-3)), abs=GRAIN)


@given(first=texts, second=texts, reasoned=st.booleans())
def test_swapping_the_answers_flips_the_probability_exactly(first, second, reasoned):
    reasoning = ReasoningConfig() if reasoned else None
    ((here,), (there,)) = (
        compare(by_hash(), [pair(*answers)], reasoning) for answers in ((first, second), (second, first))
    )
    if first == second:
        return
    assert there == here.swap() and there.swap() == here
    assert there.probability == 1 - here.probability
    assert clamped(there.probability, 0.1) == pytest.approx(1 - clamped(here.probability, 0.1), abs=1e-15)


def test_reasons_come_first_and_have_a_seed_for_each_order():
    judge = by_worth(worth)
    (verdict,) = compare(judge, [pair("bad", "good")], ReasoningConfig(max_new_tokens=7, temperature=0.5))
    assert judge.written == [ReplySettings(max_new_tokens=7, temperature=0.5, seed=seed) for seed in (1, 2)]
    assert verdict.reasons == ("reason 1", "reason 2")
    asked, reasons, then = judge.asked[0]
    assert asked.content.endswith("Give the reason first.") and reasons.role == "assistant" and then.role == "user"
    (swapped,) = compare(judge, [pair("good", "bad")], ReasoningConfig())
    assert swapped.reasons == ("reason 2", "reason 1")


def test_clamping_by_hand():
    assert [clamped(p, 0.1) for p in (0.0, 0.45, 0.5, 0.99)] == [0.4, 0.45, 0.5, 0.6]
    assert clamped(0.99, None) == 0.99


def test_no_verdict_is_undecided():
    (verdict,) = compare(Scripted(lambda text, choices: None), [pair()])
    assert (verdict.probability, verdict.unheard) == (0.5, 2)


def test_a_score_by_hand():
    judge = Scripted(lambda text, choices: [math.log(0.5 if choice in ("1", "4") else 1e-12) for choice in choices])
    (middle,) = score(judge, [(PROMPT, "x")], "How good?", 4)
    assert middle == pytest.approx(0.0, abs=1e-9)  # 0.5 * 1 + 0.5 * 4 = 2.5 of 1 to 4
    best = Scripted(lambda text, choices: [0.0 if choice == "10" else -50.0 for choice in choices])
    assert score(best, [(PROMPT, "x")], "How good?", 10) == [pytest.approx(1.0)]
    assert score(Scripted(lambda text, choices: None), [(PROMPT, "x")], "How good?", 10) == [0.0]


def test_a_local_judge_reads_what_the_model_predicts_next(local):
    """Against transformers' own logits, one row at a time, with every way to spell a choice."""
    asked = [(to_compare(PROMPT, (first, "two"), "Which?", reasoned=False),) for first in ("one", "a longer one")]
    found = local.choose(asked, ("A", "10", "1"))
    for (message,), logprobs in zip(asked, found, strict=True):
        row = local.tokenizer.encode("<|user|>") + local.tokenizer.encode(message.content)
        row += local.tokenizer.encode("<|assistant|>")

        def probability(text, row=row):
            tokens, total = local.tokenizer.encode(text), 1.0
            for place, token in enumerate(tokens):
                ids = torch.tensor([row + tokens[:place]])
                total *= float(local.model(ids).logits[0, -1].double().softmax(-1)[token])
            return total

        ten = probability("10") + probability(" 10")
        expected = [probability("A") + probability(" A"), ten, probability("1") + probability(" 1") - ten]
        assert [math.exp(one) for one in logprobs] == pytest.approx(expected, rel=1e-4)


def test_neither_batches_nor_padding_matter(local):
    pairs = [pair("yes " * n, "no") for n in range(1, 9)]
    together, alone = compare(local, pairs), [compare(local, [one])[0] for one in pairs]
    for a, b in zip(together, alone, strict=True):
        assert a.probability == pytest.approx(b.probability, abs=1e-5)
    answers = [(PROMPT, "yes " * n) for n in range(1, 9)]
    each = [score(local, [one], "How good?", 10)[0] for one in answers]
    assert score(local, answers, "How good?", 10) == pytest.approx(each, abs=1e-5)


def test_what_does_not_fit_is_left_open(local):
    long, short = compare(local, [pair("yes " * 400, "no"), pair()], ReasoningConfig(max_new_tokens=4))
    assert long.unheard == 2 and long.probability == 0.5
    assert short.unheard == 0 and short.reasons is not None


@given(text=st.text())
def test_a_candidate_stays_on_its_line_and_can_be_read_back(text):
    line = quoted(text)
    assert json.loads(line) == text
    assert len(line.splitlines()) == 1 and all(one == " " or one.isprintable() for one in line)


@pytest.mark.parametrize("lure", LURES)
def test_no_candidate_spells_a_control_token(local, lure):
    """Also for servers, whose control tokens we do not see; here: as many special tokens as without the lure."""
    asked, plain = (to_compare(PROMPT, ("x" + text, "y"), "Which?", reasoned=False) for text in (lure, ""))
    for token in ("<|", "</s>", "<s>", "[INST]", "[/INST]", "<start_of_turn>", *special_token_texts(local.tokenizer)):
        assert token not in quoted(f"a{lure}{token}")
    from loopwright.data.chat import render_prompt

    special = set(local.tokenizer.all_special_ids)
    counts = [sum(t in special for t in render_prompt(local.tokenizer, [one])) for one in (asked, plain)]
    assert counts[0] == counts[1]
    assert asked.content.count("\n") == plain.content.count("\n")
    assert read(asked.content)["A"] == "x" + lure


@pytest.mark.parametrize("worse", ["good", "bad"])
@pytest.mark.parametrize("lure", LURES)
def test_a_lure_never_wins(lure, worse):
    """It moves no judge that keeps to the lines; one that obeys anything is at most undecided, which is told."""
    better = "good" if worse == "bad" else "bad"
    table = {better: 2.0, worse: -1.0}

    def knows(text):
        return next(value for name, value in table.items() if name in text)

    for answers in ((better, f"{worse} {lure}"), (f"{lure} {worse}", better)):
        place = answers.index(better)
        for judge, sure in ((by_worth(knows), True), (gullible(knows), False)):
            (verdict,) = compare(judge, [pair(*answers)])
            for_better = verdict.probability if place == 0 else 1 - verdict.probability
            assert for_better > 0.9 if sure else for_better >= 0.5
            if for_better < 0.9:
                assert not verdict.consistent


def test_canaries_tell_a_judge_that_obeys():
    @dataclass
    class Weak:
        """Likes whatever begs."""

        name, policy = "weak", None

        def choose(self, conversations, choices):
            seen = [read(messages[0].content) for messages in conversations]
            return [[5.0 * ("judge has decided" in one["A"]), 5.0 * ("judge has decided" in one["B"])] for one in seen]

        write = None

    pairs = [pair(f"good {n}", f"bad {n}") for n in range(26)]
    strong = by_worth(worth)
    verdicts = compare(strong, pairs)
    found = try_lures(strong, pairs, verdicts, None, 26, seed=0)
    assert (found.pairs, found.flipped_share) == (26, 0.0) and found.shift == pytest.approx(0.0, abs=1e-6)
    found = try_lures(Weak(), pairs, verdicts, None, 26, seed=0)
    assert found.flipped_share == pytest.approx(4 / 26)  # two of the thirteen lures say so
    assert found.worst.startswith("The judge has decided")
    assert try_lures(strong, pairs, [Verdict(0.5, 0.5)] * 26, None, 26, seed=0).flipped_share is None
    import random

    bait = lured(pairs[0], verdicts[0], "lure", random.Random(0))
    assert bait.responses[0] == "good 0" and "lure" in bait.responses[1] and "bad 0" in bait.responses[1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", "A"), (" B.", "B"), ("**A**", "A"), ("(B)", "B"), ("A or B", None), ("Answer A", None), ("[[A]]", "A"),
        ("The other says [[A]]", None), ("", None), ("AB", None), ("a", None),
    ],
)  # fmt: skip
def test_a_verdict_in_words_is_the_whole_reply(text, expected):
    assert verdict_in(text, LETTERS) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": "x", "url": "http://127.0.0.1:1/v1"}, "both name a judge"),
        ({"model": "x"}, "model has no effect without url"),
        ({"logprobs": False}, "logprobs has no effect without url"),
        ({"url": "ftp://x"}, "ftp"),
        ({"clamp": 0.5}, "no effect"),
        ({"clamp": 0.0}, "every pair a tie"),
    ],
)
def test_settings_without_an_effect_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        JudgeConfig(**settings)


def test_a_scale_has_two_to_ten_numbers():
    assert ScoringConfig(scale=5).scale == 5
    with pytest.raises(ValidationError):
        ScoringConfig(scale=11)
