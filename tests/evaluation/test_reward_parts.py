from pathlib import Path

import pytest

from loopwright.evaluation import reward_parts
from loopwright.evaluation.report import render_html
from loopwright.evaluation.run_files import RunFiles, StageFiles
from loopwright.evaluation.sections import pipeline
from loopwright.rewards.rules import RULES


def run_of(steps=20, *, several=True, share="contribution"):
    rows = []
    for step in range(1, steps + 1):
        row = {"stage": "ppo", "step": step, "score": 0.1 * step, "kl": 0.05 * step}
        if several:
            row |= {"score_helpful": 0.1 * step, "std_of_helpful": 1.0, "score_very_safe": -0.2 * step}
            row |= {f"{share}_helpful": 0.05 * step, f"{share}_very_safe": -0.4 * step}
            row |= {"std_of_very_safe": 1.0, "correlation_helpful_and_very_safe": -0.05 * step}
            row |= {"disagreement_helpful_and_very_safe": 0.75} if step > 1 else {}
        rows.append(row)
    return RunFiles(Path("run"), None, {"name": "x"}, {"ppo": rows}, {})


def test_each_reward_and_each_pair_at_both_ends_of_training():
    found = reward_parts.table(run_of())
    had = [part.pop("had") for part in found["parts"]]
    assert found["parts"] == [
        {"name": "helpful", "first": pytest.approx(0.15), "last": pytest.approx(1.95), "change": pytest.approx(1.8)},
        {"name": "very safe", "first": pytest.approx(-0.3), "last": pytest.approx(-3.9), "change": pytest.approx(-3.6)},
    ]
    assert had == [pytest.approx((0.075, 0.975)), pytest.approx((-0.6, -7.8))]  # weighted, not as they are
    (pair,) = found["pairs"]
    assert pair["name"] == "helpful and very safe" and pair["disagreement"] == 0.75
    assert (pair["first"], pair["last"]) == (pytest.approx(-0.075), pytest.approx(-0.975))


def test_a_panel_each_for_the_rewards_their_correlation_and_their_conflict():
    panels = [panel for panel in reward_parts.curves(run_of()) if panel is not None]
    assert [panel.title for panel in panels] == [
        "Each reward", "What each adds to the score", "Do the rewards agree?", "Conflict",
    ]  # fmt: skip
    assert [[line.label for line in panel.lines] for panel in panels] == [
        ["helpful", "very safe"], ["helpful", "very safe"], ["helpful and very safe"], ["helpful and very safe"],
    ]  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_what_each_rule_says_of_shares_is_drawn(rule):
    """The last steps tell: each rule of PPO has a panel and two columns of its own."""
    run = run_of(share=RULES[rule].shares.name)
    assert len([panel for panel in reward_parts.curves(run) if panel is not None]) == 4
    share = reward_parts.table(run)["share"]
    assert share.metric == RULES[rule].shares.name
    page = render_html(run)
    assert share.title in page and f"{share.heading}, last" in page and "−7.80" in page


def test_one_reward_has_no_such_section():
    assert reward_parts.table(run_of(several=False)) is None and reward_parts.curves(run_of(several=False)) == []
    assert "What each reward made of it" in render_html(run_of())
    assert "What each reward made of it" not in render_html(run_of(several=False))


def test_named_reward_stages_have_cards_of_a_reward():
    stages = {
        name: StageFiles(name, Path(name), {"metrics": {"pairs": 9, "accuracy": 0.75}, "seconds": 1.0})
        for name in ("reward_very_safe",)
    }
    (card,) = pipeline(RunFiles(Path("run"), None, {}, {}, stages))
    assert card["title"] == "Reward, very safe" and card["key"] == ("75\N{NO-BREAK SPACE}%", "held-out accuracy")
