import random

import pytest

from loopwright.errors import DataError
from loopwright.schemas import Prompt, ScoredAnswer
from loopwright.training.selection import at_least, best_of_each, examples_of, score_quantile


def answer(prompt: int, tokens: list[int], score: float) -> ScoredAnswer:
    return ScoredAnswer(
        prompt=Prompt.user(f"p{prompt}", "?"), response="".join(map(str, tokens)), prompt_ids=[prompt],
        response_ids=tokens, finished=True, score=score, temperature=1.0, stage="test",
    )  # fmt: skip


GIVEN = [
    answer(1, [5, 9], 0.2), answer(1, [6, 9], 0.9), answer(1, [7, 9], 0.4),
    answer(2, [5, 9], -3.0), answer(2, [6, 6, 9], -1.0), answer(2, [8, 9], -1.0),
    answer(3, [4, 9], 0.5), answer(3, [4, 9], 0.5), answer(3, [5, 9], 0.1),
]  # fmt: skip


def seen(answers):
    return [(one.prompt_ids[0], one.response_ids) for one in answers]


def test_the_best_of_each_prompt_by_hand():
    assert seen(best_of_each(GIVEN)) == [(1, [6, 9]), (2, [8, 9]), (3, [4, 9])]  # of equal scores the shorter
    two = [(1, [6, 9]), (1, [7, 9]), (2, [8, 9]), (2, [6, 6, 9]), (3, [4, 9]), (3, [5, 9])]
    assert seen(best_of_each(GIVEN, 2)) == two  # two different ones, though the best of prompt 3 came twice


def test_with_one_answer_each_all_are_kept():
    alone = [answer(prompt, [prompt, 9], random.Random(prompt).random()) for prompt in range(8)]
    assert best_of_each(alone) == alone


def test_an_answer_of_two_scores_counts_with_its_best():
    assert [one.score for one in best_of_each([answer(1, [5, 9], 0.1), answer(1, [5, 9], 0.7)])] == [0.7]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_answers_never_matters(seed):
    shuffled = random.Random(seed).sample(GIVEN, len(GIVEN))
    for keep in (1, 2, 9):
        assert best_of_each(shuffled, keep) == best_of_each(GIVEN, keep)
    assert at_least(shuffled, 0.1) == at_least(GIVEN, 0.1)


def test_a_threshold_keeps_what_reaches_it_as_often_as_it_was_drawn():
    expected = [(1, [6, 9]), (3, [4, 9]), (3, [4, 9])]
    assert seen(at_least(GIVEN, 0.5)) == expected
    assert score_quantile(GIVEN, 0.5) == 0.2
    assert len(at_least(GIVEN, score_quantile(GIVEN, 0.0))) == len(GIVEN)
    with pytest.raises(DataError, match="no answer scores 1 or more, the best of 9 has 0.9; lower the threshold"):
        at_least(GIVEN, 1.0)


def test_what_is_learned_are_the_tokens_that_were_sampled():
    assert [tuple(one) for one in examples_of(GIVEN[:2])] == [([1], [5, 9]), ([1], [6, 9])]
