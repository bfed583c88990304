import json
import math
import random

import pytest
from pydantic import ValidationError

from loopwright.training.ppo_watch import Look, Watch, WatchConfig, difference, repeated_share

PROMPTS = 4


def look(step, proxy, held_out, *, kl=0.0, length=10.0, repetition=0.0):
    """Scores that differ from prompt to prompt, and whose mean over prompts is what is given."""
    spread = [-1.5, -0.5, 0.5, 1.5]
    return Look(step, [proxy + s for s in spread], [[held_out - s for s in spread]], kl, length, repetition)


def signals(config, looks):
    watch = Watch(config)
    return watch, [watch.look(one).signal for one in looks]


# ---- the rule, by hand: without noise every fall is beyond chance


def rule(**settings):
    """Nothing else has anything to say."""
    return WatchConfig(max_spread_ratio=1e9, **settings)


def test_it_stops_when_the_rewards_part_for_as_many_looks_as_asked():
    looks = [look(0, 0, 0), look(5, 1, 1), look(10, 2, 0.5), look(15, 3, 0.4), look(20, 4, 0.3)]
    watch, said = signals(rule(patience=2), looks[:4])
    assert said == ["ok", "ok", "ok", "stop"]
    assert (watch.stopped_at, watch.best_step) == (15, 5)
    assert "since step 5 the reward rose" in watch.reason and "2 looks in a row" in watch.reason
    watch, said = signals(rule(patience=3), looks)
    assert said == ["ok"] * 4 + ["stop"] and watch.stopped_at == 20


def test_a_look_that_recovers_starts_the_count_again():
    looks = [look(0, 0, 0), look(5, 1, 1), look(10, 2, 0.5), look(15, 3, 1.0), look(20, 4, 0.5), look(25, 5, 1.5)]
    watch, said = signals(rule(patience=2), looks)
    assert said == ["ok"] * 6
    assert watch.best_step == 25


def test_rewards_that_fall_together_have_not_parted():
    """A policy that gets worse by both is a broken run, not one that exploits its reward."""
    watch, said = signals(rule(patience=1), [look(0, 0, 0), look(5, 1, 1), look(10, 0.9, 0.2)])
    assert said == ["ok"] * 3 and watch.stopped_at is None


def test_a_rise_that_the_held_out_reward_does_not_follow_is_no_fall():
    _, said = signals(rule(patience=1, stall_looks=None), [look(5 * i, i, min(i, 1)) for i in range(20)])
    assert said == ["ok"] * 20


def test_it_also_stops_when_the_held_out_reward_has_no_new_best_for_long():
    looks = [look(5 * i, i, min(i, 1)) for i in range(9)]  # the best is the second
    watch, said = signals(rule(stall_looks=4), looks[:6])
    assert said == ["ok"] * 5 + ["stop"] and (watch.stopped_at, watch.best_step) == (25, 5)
    assert "no new best, for 4 looks" in watch.reason
    _, said = signals(rule(stall_looks=4, action="warn"), looks)
    assert said == ["ok"] * 5 + ["warn"] + ["ok"] * 3
    # A new best, however little better, starts the count again; and without a rise of the proxy nothing has parted.
    _, said = signals(rule(stall_looks=4), [*looks[:5], *(look(5 * i, i, 1.01) for i in range(5, 9))])
    assert said == ["ok"] * 9
    _, said = signals(rule(stall_looks=4), [look(5 * i, min(i, 1), min(i, 1)) for i in range(9)])
    assert said == ["ok"] * 9


def test_the_rise_of_a_stall_must_exceed_its_standard_errors():
    def stalled(rises):
        watch = Watch(rule(stall_looks=1, standard_errors=2.0))
        watch.look(Look(0, [0.0] * 5, [[1.0, 0.0, 0.0, 0.0, 0.0]], 0.0, 10.0, 0.0))
        return watch.look(Look(5, rises, [[1.0, 0.0, 0.0, 0.0, 0.0]], 0.0, 10.0, 0.0)).signal

    assert stalled([0.0, 0.0, 1.0, 1.0, 3.0]) == "ok"  # 1 with a standard error of 0.5477
    assert stalled([0.0, 1.0, 1.0, 1.0, 2.0]) == "stop"  # 1 with 0.3162


def test_the_fall_must_exceed_its_standard_errors():
    config = rule(patience=1, standard_errors=2.0)

    def fall_of(steps):
        # Units do not matter here: fall and its error are divided alike.
        return Look(5, [1.0] * PROMPTS + [1.1], [[-step for step in steps]], 0.0, 10.0, 0.0)

    start = Look(0, [0.0] * PROMPTS + [0.1], [[0.0] * 5], 0.0, 10.0, 0.0)
    # mean 1, deviation 1.2247, standard error 0.5477: 1.83 of them
    falls = [0.0, 0.0, 1.0, 1.0, 3.0]
    watch = Watch(config)
    watch.look(start)
    verdict = watch.look(fall_of(falls))
    assert verdict.figures["watch_fall"] == pytest.approx(1.0)
    assert verdict.figures["watch_fall_se"] == pytest.approx(math.sqrt(1.5 / 5))
    assert verdict.signal == "ok"
    watch = Watch(config)
    watch.look(start)
    assert watch.look(fall_of([0.0, 1.0, 1.0, 1.0, 2.0])).signal == "stop"  # mean 1, error 0.3162


def test_of_looks_that_chance_tells_apart_the_earlier_is_the_best():
    watch = Watch(rule())
    start = Look(0, [0.0] * 5, [[0.0] * 5], 0.0, 10.0, 0.0)
    # The mean gains 0.4 with a standard error of 0.5099, then 0.6 with 0.4.
    looks = [
        start._replace(step=5, held_out=[[0.0, 0.0, 2.0, 1.0, -1.0]]),
        start._replace(step=10, held_out=[[0.0, 0.0, 2.0, 1.0, 0.0]]),
    ]
    assert [watch.look(one).is_best for one in (start, *looks)] == [True, False, True]
    assert watch.best_step == 10


def test_the_difference_is_paired():
    """Prompts differ by far more than the fall; prompt by prompt it is plain."""
    old = [0.0, 10.0, 20.0, 30.0]
    found = difference([9.0, 19.0, 29.0, -1.0], [10.0, 20.0, 30.0, 0.0])
    assert (found.mean, found.se) == (-1.0, 0.0)
    assert difference(old, [a - 1.0 for a in old]).exceeds(3.0)
    assert not difference([a - 1.0 for a in old], old).exceeds(3.0)


def test_warning_says_so_once_an_episode_and_goes_on():
    looks = [look(0, 0, 0), look(5, 1, 1), *(look(5 * i, i, 0.5) for i in range(2, 6)), look(30, 6, 1.0)]
    looks += [look(35, 7, 0.5), look(40, 8, 0.5)]
    watch, said = signals(rule(action="warn", patience=2), looks)
    assert said == ["ok", "ok", "ok", "warn", "ok", "ok", "ok", "ok", "warn"]
    assert watch.stopped_at is None


# ---- drift is told, and never stops


@pytest.mark.parametrize(
    ("drift", "sentence"),
    [
        ({"length": 21.0}, "responses have 21.0 tokens, 10.0 at the start"),
        ({"length": 4.9}, "responses have 4.9 tokens, 10.0 at the start"),
        ({"repetition": 0.11}, "11% of pairs of tokens repeat within a response, 0% at the start"),
        ({"kl": 10.5}, "the policy is 10.5 nats of KL from the reference, more than 10"),
    ],
)
def test_drift_warns_once_and_says_how_far(drift, sentence):
    looks = [look(0, 0, 0), look(5, 1, 1, **drift), look(10, 2, 2, **drift), look(15, 3, 3), look(20, 4, 4, **drift)]
    watch = Watch(WatchConfig())
    verdicts = [watch.look(one) for one in looks]
    assert [one.signal for one in verdicts] == ["ok", "warn", "ok", "ok", "warn"]
    assert [one.reasons for one in verdicts] == [(), (sentence,), (), (), (sentence,)]
    assert watch.stopped_at is None


def test_kl_is_recorded_at_every_look():
    watch = Watch(WatchConfig())
    kls = [0.0, 0.75, 12.5]
    assert [watch.look(look(5 * i, i, i, kl=kl)).figures["watch_kl"] for i, kl in enumerate(kls)] == kls
    _, said = signals(WatchConfig(max_kl=0.5), [look(5 * i, i, i, kl=kl) for i, kl in enumerate(kls)])
    assert said == ["ok", "warn", "ok"]  # told once


def test_a_reward_that_becomes_unsure_of_itself_warns():
    """Of an ensemble: the deviation between its members, in deviations of its own score at the first look."""
    scale = math.sqrt(1.25)  # of -1.5, -0.5, 0.5, 1.5
    starts = look(0, 0, 0)._replace(unsure=[0.1, 0.3, 0.1, 0.3])
    watch = Watch(WatchConfig())
    first, second, third = (
        watch.look(starts._replace(step=step, unsure=[factor * x for x in starts.unsure]))
        for step, factor in ((0, 1.0), (5, 2.0), (10, 2.5))
    )
    assert first.figures["watch_unsure"] == pytest.approx(0.2 / scale)
    assert [one.signal for one in (first, second, third)] == ["ok", "ok", "warn"]
    assert third.reasons == (
        f"the members of the reward differ by {0.5 / scale:.2f} on a response, {0.2 / scale:.2f} at the start",
    )
    assert "watch_unsure" not in Watch(WatchConfig()).look(look(0, 0, 0)).figures


def test_drift_within_bounds_is_not_told():
    _, said = signals(
        WatchConfig(), [look(0, 0, 0), look(5, 1, 1, length=19.9, repetition=0.09), look(10, 2, 2, length=5.1, kl=10)]
    )
    assert said == ["ok"] * 3


def test_models_that_come_to_differ_on_responses_warn():
    def with_gap(step, gap):
        return Look(step, [-1.0, 1.0, -1.0, 1.0], [[-1.0 - gap, 1.0 + gap, -1.0 + gap, 1.0 - gap]], 0.0, 10.0, 0.0)

    # Scales of the start: proxy 1, held out 1. Half the gap is the deviation of two models on one response.
    watch = Watch(WatchConfig(max_spread_ratio=2.0))
    first, second, third = (watch.look(with_gap(step, gap)) for step, gap in ((0, 0.1), (5, 0.19), (10, 0.3)))
    scale = math.sqrt((2 * 1.1**2 + 2 * 0.9**2) / 4)
    assert first.figures["watch_spread"] == pytest.approx(sum(abs(x / scale - 1) for x in (1.1, 0.9)) / 4)
    assert [one.signal for one in (first, second)] == ["ok", "ok"]
    now, before = sum(abs(x / scale - 1) for x in (1.3, 0.7)) / 4, first.figures["watch_spread"]
    assert third.signal == "warn"
    assert third.reasons == (f"the reward models differ by {now:.2f} on a response, {before:.2f} at the start",)


def test_repeated_pairs_by_hand():
    # 1 2 1 2 1: pairs 12 21 12 21, of which 2 of 4 are new; 5 6 7 repeats nothing; one token has no pair.
    assert repeated_share([[1, 2, 1, 2, 1], [5, 6, 7], [3], []]) == pytest.approx(0.5 / 4)


# ---- invariances


def test_the_unit_of_a_reward_does_not_matter():
    rng = random.Random(0)
    looks = [look(5 * i, i, rng.gauss(0, 1))._replace(unsure=[rng.random() for _ in range(4)]) for i in range(8)]
    scaled = [
        one._replace(
            proxy=[100 * x - 7 for x in one.proxy],
            held_out=[[0.01 * x + 3 for x in one.held_out[0]]],
            unsure=[100 * x for x in one.unsure],
        )
        for one in looks
    ]
    ours, theirs = Watch(WatchConfig(action="warn")), Watch(WatchConfig(action="warn"))
    for one, other in zip(looks, scaled, strict=True):
        expected, got = ours.look(one), theirs.look(other)
        assert got.signal == expected.signal and got.is_best == expected.is_best
        assert got.figures == pytest.approx(expected.figures)


def test_several_held_out_rewards_count_as_their_mean_whatever_their_units():
    watch = Watch(WatchConfig())
    first = look(0, 0, 0)
    own = list(first.held_out[0])
    watch.look(first._replace(held_out=[own, [1000 * x for x in own]]))
    deviation = math.sqrt(1.25)  # of -1.5, -0.5, 0.5, 1.5
    verdict = watch.look(first._replace(step=5, held_out=[[x + 1 for x in own], [1000 * (x + 3) for x in own]]))
    assert verdict.figures["watch_held_out"] == pytest.approx(2 / deviation)


def test_a_resumed_watch_goes_on_exactly():
    rng = random.Random(3)
    looks = [look(5 * i, 0.3 * i, rng.gauss(0.05 * i, 0.5), length=rng.uniform(3, 25), kl=1.5 * i) for i in range(14)]
    looks = [one._replace(unsure=[rng.random() for _ in range(4)]) for one in looks]
    config = WatchConfig(action="warn", patience=1, standard_errors=0.1, stall_looks=3)
    whole = Watch(config)
    expected = [whole.look(one) for one in looks]
    assert {"warn", "ok"} == {one.signal for one in expected}
    for cut in range(len(looks)):
        before, after = Watch(config), Watch(config)
        got = [before.look(one) for one in looks[:cut]]
        after.load(json.loads(json.dumps(before.state())))
        assert got + [after.look(one) for one in looks[cut:]] == expected
        assert after.state() == whole.state()


# ---- false alarms


@pytest.mark.parametrize(
    ("climb", "config"),
    [(0.0, WatchConfig()), (0.2, WatchConfig(stall_looks=None))],
    ids=["stationary", "a fall, while the proxy climbs"],
)
def test_false_alarms_are_rare(climb, config):
    """200 runs of 30 looks at 64 prompts whose held-out reward does not change, drawn afresh at every look.

    In the second case the proxy has always risen, so only the standard errors of the fall hold the alarm back; there a
    stall would be a true one.
    """
    alarms = 0
    for run in range(200):
        rng = random.Random(run)
        prompts = [rng.gauss(0, 1) for _ in range(64)]
        watch = Watch(config)
        for step in range(30):
            proxy = [level + climb * step + rng.gauss(0, 1) for level in prompts]
            held_out = [level + rng.gauss(0, 1) for level in prompts]
            if watch.look(Look(step, proxy, [held_out], 0.0, 10.0, 0.0)).signal == "stop":
                alarms += 1
                break
    assert alarms <= 10


def test_a_true_fall_is_found():
    """The held-out reward falls by a tenth of its deviation a look: every run stops, the best look is near the top."""
    for run in range(20):
        rng = random.Random(run)
        prompts = [rng.gauss(0, 1) for _ in range(128)]
        watch = Watch(WatchConfig())
        for step in range(30):
            level = 0.2 * min(step, 8) - 0.1 * max(0, step - 8)
            proxy = [x + 0.2 * step + rng.gauss(0, 1) for x in prompts]
            if (
                watch.look(Look(step, proxy, [[x + level + rng.gauss(0, 1) for x in prompts]], 0.0, 10.0, 0.0)).signal
                == "stop"
            ):
                break
        assert watch.stopped_at is not None and watch.stopped_at <= 24
        assert abs(watch.best_step - 8) <= 3


# ---- bad input


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(held_out=[]), "a proxy and a held-out reward"),
        (dict(held_out=[[1.0, 2.0]]), "on the same prompts"),
        (dict(held_out=[[1.0, 2.0, 3.0, math.nan]]), "not a finite number"),
        (dict(proxy=[1.0], held_out=[[1.0]]), "at least 2 prompts"),
        (dict(unsure=[1.0, 2.0, 3.0, math.inf]), "not a finite number"),
    ],
)
def test_looks_that_cannot_be_compared_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        Watch(WatchConfig()).look(look(0, 0, 0)._replace(**bad))


def test_prompts_may_not_change_between_looks():
    watch = Watch(WatchConfig())
    watch.look(look(0, 0, 0))
    with pytest.raises(ValueError, match="on the same prompts each time"):
        watch.look(Look(5, [1.0, 2.0, 3.0], [[1.0, 2.0, 3.0]], 0.0, 10.0, 0.0))


@pytest.mark.parametrize(
    "settings",
    [
        dict(patience=0),
        dict(max_length_ratio=1.0),
        dict(max_kl=0.0),
        dict(standard_errors=0.0),
        dict(action="abort"),
        dict(z=2),
    ],
)
def test_settings_out_of_range_are_errors(settings):
    with pytest.raises(ValidationError):
        WatchConfig(**settings)


def test_one_folder_needs_no_list(tmp_path):
    assert WatchConfig(reward=str(tmp_path)) == WatchConfig(reward=[tmp_path])
    config = WatchConfig(reward=tmp_path)
    assert WatchConfig.model_validate(config.model_dump(mode="json"), context={"resolved": True}) == config
