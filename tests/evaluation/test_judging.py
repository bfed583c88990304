from loopwright.evaluation.judging import judge, judge_all
from loopwright.schemas import Prompt

PROMPT = Prompt.user("p", "When does the pool close?")


def test_gold_is_the_minimum_of_the_judges_that_apply():
    judges = {"helpful": lambda p, r: 0.4, "honest": lambda p, r: 0.9, "harmless": lambda p, r: None}
    assert judge(judges, PROMPT, "At six.") == {"gold": 0.4, "helpful": 0.4, "honest": 0.9, "harmless": None}


def test_no_judge_means_no_gold():
    assert judge({}, PROMPT, "At six.") == {"gold": None}
    assert judge({"helpful": lambda p, r: None}, PROMPT, "At six.")["gold"] is None


def test_judge_all_keeps_the_order():
    verdicts = judge_all({"short": lambda p, r: 1.0 / len(r)}, [PROMPT] * 2, ["ab", "abcd"])
    assert [verdict["gold"] for verdict in verdicts] == [0.5, 0.25]
