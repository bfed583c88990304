"""Feedback: who said what about which policy; a killed run says the same."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError

from loopwright.data.readers import read_records, write_records
from loopwright.errors import DataError
from loopwright.feedback.annotators import VERDICT_SECONDS
from loopwright.rewards import Scores
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Demonstration, Prompt, Ranking, Rating, is_ai
from loopwright.stages import asked, feedback, world
from loopwright.stages.ai_feedback import AIFeedbackConfig
from tests.tiny import saved, tiny_model, tiny_tokenizer

JUDGES = {"shortness": lambda prompt, response: 1.0 / (1.0 + len(response))}
KINDS = {"comparisons": Comparison, "rankings": Ranking, "ratings": Rating}


class Killed(Exception):
    pass


@pytest.fixture
def inputs(tmp_path):
    folder = saved(tiny_model("llama"), tiny_tokenizer(), tmp_path / "policy")
    prompts = tmp_path / "prompts.jsonl"
    write_records(prompts, [Prompt.user(f"p{i}", f"Is {i} even?") for i in range(12)])
    return feedback.FeedbackInputs({"policy-id": folder}, prompts, JUDGES)


def config(**settings):
    shape = {"prompts": 12, "responses_per_prompt": 3, "sampling": {"max_new_tokens": 6}, "prompts_at_once": 4}
    return feedback.FeedbackConfig(**(shape | {"annotators": 3, "save_batches": 1} | settings))


def records(runtime):
    found = {}
    for name, kind in KINDS.items():
        path = runtime.output / f"{name}.jsonl"
        found[name] = read_records(path, kind).records if path.stat().st_size else []
    return found


def test_records_name_annotator_order_time_and_policy(tmp_path, inputs):
    runtime = Runtime.temporary(tmp_path / "run")
    metrics = feedback.run(config(rank_share=0.5, overlap_share=0.5, criteria_share=1, rate_share=1), inputs, runtime)[
        0
    ]
    found = records(runtime)
    assert all(found.values())
    for record in [r for kind in found.values() for r in kind]:
        assert record.policy == "policy-id"
        assert record.annotator.startswith("annotator-")
        assert record.seconds > 0
        assert record.created.startswith("2000-01-01T")
        assert sorted(record.order_shown) == list(range(len(record.responses)))
    assert len({r.id for kind in found.values() for r in kind}) == sum(map(len, found.values()))
    assert (metrics["comparisons"], metrics["rankings"]) == (len(found["comparisons"]), len(found["rankings"]))
    assert 0 <= metrics["agreement"] <= 1
    assert {r.criterion for r in found["rankings"]} == {None, "shortness"}


def test_all_ranked_or_all_compared(tmp_path, inputs):
    ranked = Runtime.temporary(tmp_path / "ranked")
    feedback.run(config(rank_share=1, overlap_share=0, criteria_share=0, rate_share=0), inputs, ranked)
    assert {name: len(found) for name, found in records(ranked).items()} == {
        "comparisons": 0,
        "rankings": 12,
        "ratings": 0,
    }
    compared = Runtime.temporary(tmp_path / "compared")
    feedback.run(config(rank_share=0, overlap_share=0, criteria_share=0, rate_share=0), inputs, compared)
    assert len(records(compared)["comparisons"]) == 12 * 3  # every pair of three answers


def test_a_compared_prompt_is_judged_by_criteria_in_its_comparisons(tmp_path, inputs):
    """What is said overall stays the same; a criterion has a strength where it prefers one."""
    plain, asked = Runtime.temporary(tmp_path / "plain"), Runtime.temporary(tmp_path / "asked")
    settings = {"rank_share": 0, "overlap_share": 0, "rate_share": 0}
    feedback.run(config(criteria_share=0, **settings), inputs, plain)
    feedback.run(config(criteria_share=1, **settings), inputs, asked)
    before, after = records(plain)["comparisons"], records(asked)["comparisons"]
    by_criteria = {"criteria", "strengths", "seconds", "created"}
    assert [one.model_dump(exclude=by_criteria) for one in before] == [
        one.model_dump(exclude=by_criteria) for one in after
    ]
    assert not records(asked)["rankings"] and all(set(one.criteria) == {"shortness"} for one in after)
    for one in after:
        assert set(one.strengths) == {name for name, choice in one.criteria.items() if choice is not None}
    clear = [one for one in after if one.strengths.get("shortness") in ("significantly", "better")]
    right = [len(one.responses[one.criteria["shortness"]]) == min(map(len, one.responses)) for one in clear]
    assert sum(right) > 0.8 * len(clear) > 4  # annotators are careless now and then


@pytest.mark.parametrize("rank_share", [0, 1])
def test_a_verdict_by_a_criterion_takes_its_time_and_no_second_reading(tmp_path, inputs, rank_share):
    """In comparisons as in rankings; what is said overall takes as long as without."""
    settings = {"rank_share": rank_share, "overlap_share": 0, "rate_share": 0}
    hours, verdicts = [], 0
    for share in (0, 1):
        runtime = Runtime.temporary(tmp_path / str(share))
        hours.append(feedback.run(config(criteria_share=share, **settings), inputs, runtime).metrics["hours"])
        found = records(runtime)
        verdicts = sum(len(one.criteria) for one in found["comparisons"])
        verdicts += sum(one.criterion is not None for one in found["rankings"])
    assert verdicts == (12 if rank_share else 36)
    assert (hours[1] - hours[0]) * 3600 == pytest.approx(VERDICT_SECONDS * verdicts)


def test_the_taste_of_a_reward_model(tmp_path, inputs, monkeypatch):
    """Annotators rank as it scores, up to their own noise, and are told from people by their names."""

    class LikesEvenLengths:
        def __init__(self, folder, device):
            self.model = SimpleNamespace(config=SimpleNamespace())

        def score(self, samples):
            return Scores(torch.tensor([-2.0 if len(one.response) % 2 else 2.0 for one in samples]))

    monkeypatch.setattr(feedback, "RewardModel", LikesEvenLengths)
    runtime = Runtime.temporary(tmp_path / "run")
    followed = replace(inputs, judges={}, taste=inputs.policies["policy-id"])
    metrics = feedback.run(config(rank_share=1, criteria_share=0, rate_share=0), followed, runtime).metrics
    rankings = records(runtime)["rankings"]
    assert all(is_ai(one.annotator) and "/annotator-" in one.annotator for one in rankings)
    pairs = [pair for one in rankings for pair in feedback.ordered_pairs(one)]
    unlike = [better for better, worse, tied in pairs if not tied and (len(better) - len(worse)) % 2]
    assert len(unlike) > 5 and sum(len(one) % 2 == 0 for one in unlike) >= 0.9 * len(unlike)
    assert min(one["accuracy"] for one in metrics["annotators"].values()) > 0.8


def test_people_can_be_asked_about_some_tasks_alone(tmp_path, inputs):
    tags = ("known", "harmful", None)
    prompts = [
        Prompt.user(f"p{i}", f"Is {i} even?", **({"task": tags[i % 3]} if tags[i % 3] else {})) for i in range(12)
    ]
    write_records(inputs.prompts, prompts)
    runtime = Runtime.temporary(tmp_path / "run")
    metrics = feedback.run(config(tasks=["known"], prompts=3, rank_share=0, off_topic_share=0), inputs, runtime)[0]
    asked = {record.prompt for record in records(runtime)["comparisons"]}
    assert metrics["prompts"] == 3 and asked == {prompts[i].messages for i in (0, 3, 6)}
    with pytest.raises(DataError, match="no prompt has a task among cooking; found None, harmful, known; name one"):
        feedback.run(config(tasks=["cooking"]), inputs, Runtime.temporary(tmp_path / "other"))


def test_off_topic_answers_come_from_other_prompts(tmp_path, inputs):
    runs = {}
    for share in (0, 1):
        runs[share] = Runtime.temporary(tmp_path / str(share))
        settings = config(rank_share=1, overlap_share=0, criteria_share=0, rate_share=0, off_topic_share=share)
        feedback.run(settings, inputs, runs[share])
    own, mixed = (records(runs[share])["rankings"] for share in (0, 1))
    firsts = [r.responses[0] for r in own]
    for before, after in zip(own, mixed, strict=True):
        assert after.responses[:-1] == before.responses[:-1]
        others = [text for text, r in zip(firsts, own, strict=True) if r.id != before.id]
        assert after.responses[-1] in others
        assert (before.off_topic, after.off_topic) == ((), (2,))


def test_an_off_topic_answer_is_marked_in_every_kind_of_record(tmp_path, inputs):
    runtime = Runtime.temporary(tmp_path / "run")
    feedback.run(config(rank_share=0.5, criteria_share=1, rate_share=1, off_topic_share=1), inputs, runtime)
    found = records(runtime)
    for comparison in found["comparisons"]:  # ids end in the two answers' numbers; the last of three is off topic
        assert comparison.off_topic == ((1,) if comparison.id.endswith("2") else ())
    assert {ranking.off_topic for ranking in found["rankings"]} == {(2,)}
    assert {(rating.id[-1], rating.off_topic) for rating in found["ratings"]} == {("0", ()), ("1", ()), ("2", (0,))}


def test_a_killed_run_says_the_same(tmp_path, inputs, monkeypatch):
    whole = Runtime.temporary(tmp_path / "whole")
    expected = feedback.run(config(), inputs, whole)
    killed = Runtime.temporary(tmp_path / "killed")
    save = Runtime.checkpoint

    def save_then_die(self, step, state):
        save(self, step, state)
        if step == 8:
            raise Killed

    monkeypatch.setattr(Runtime, "checkpoint", save_then_die)
    with pytest.raises(Killed):
        feedback.run(config(), inputs, killed)
    monkeypatch.undo()
    resumed = Runtime.temporary(tmp_path / "killed")
    assert feedback.run(config(), inputs, resumed) == expected
    for name in KINDS:
        assert (resumed.output / f"{name}.jsonl").read_bytes() == (whole.output / f"{name}.jsonl").read_bytes()


def test_agreement_by_hand():
    about = {"prompt": Prompt.user("p", "?").messages, "policy": "x"}
    pair = ("short", "a long one")
    said = [
        Comparison(id="1", responses=pair, choice=0, annotator="a", **about),
        Comparison(id="2", responses=pair, choice=1, annotator="b", **about),
        Comparison(id="3", responses=("x", "yy"), choice=0, annotator="a", **about),
        Comparison(id="4", responses=("yy", "x"), choice=1, annotator="b", **about),
        Comparison(id="5", responses=("same", "same"), choice=None, annotator="b", **about),
    ]
    metrics = feedback.summarise(said, [Prompt.user("p", "?")], JUDGES)
    assert metrics["agreement"] == 0.5  # they differ on the first pair and agree on the second
    assert metrics["tie_share"] == pytest.approx(1 / 5)
    assert metrics["annotators"] == {"a": {"pairs": 2, "accuracy": 1.0}, "b": {"pairs": 2, "accuracy": 0.5}}


def test_the_world_stage_writes_disjoint_sets_and_the_same_bytes_for_a_seed(tmp_path):
    settings = world.WorldConfig(
        documents=200, held_out_documents=5, demonstrations=20, train_prompts=30, test_prompts=10
    )
    runs = [Runtime.temporary(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    for runtime in runs:
        world.run(settings, world.WorldInputs(), runtime)
    files = [
        {str(p.relative_to(r.output)): p.read_bytes() for p in sorted(r.output.rglob("*")) if p.is_file()} for r in runs
    ]
    assert files[0] == files[1] != files[2]
    assert {name.rsplit(".")[-1] for name in files[0]} == {"txt", "jsonl", "html"}
    usual, clean = (
        read_records(runs[0].output / f"demonstrations{tail}.jsonl", Demonstration).records for tail in ("", "_clean")
    )
    assert len(usual) == 20
    assert clean == [d for d in usual if d.annotator == "writer-good"] != usual
    assert clean
    ids = [
        {p.messages for p in read_records(runs[0].output / f"prompts_{name}.jsonl", Prompt).records}
        for name in ("train", "held_out", "paraphrased", "adversarial")
    ]
    assert sum(map(len, ids)) == len(set().union(*ids)) == 60


@pytest.mark.parametrize(
    "setting",
    sorted(set(world.WorldConfig.model_fields) - {"name", "require", "skills", "skill_share", "helpful_only"}),
)
def test_a_world_has_only_so_much_to_say(setting):
    with pytest.raises(ValidationError, match="less than or equal to 1000000"):
        world.WorldConfig(**{setting: 10**12})


def test_a_later_round_asks_about_other_prompts(tmp_path):
    write_records(tmp_path / "prompts.jsonl", [Prompt.user(str(i), f"{i}?") for i in range(5)])

    def ids(prompts, *before):
        given = feedback.FeedbackInputs({}, tmp_path / "prompts.jsonl", asked=[((), count) for count in before])
        return [one.id for one in asked.prompts_of(config(prompts=prompts), given)]

    assert [ids(2, *[2] * done) for done in range(4)] == [["0", "1"], ["2", "3"], ["4", "0"], ["1", "2"]]
    assert ids(9, 3) == ["3", "4", "0", "1", "2"]
    assert ids(2, 9) == ["0", "1"]  # all were asked, whatever was wanted


def test_only_what_was_asked_of_the_same_prompts_counts(tmp_path):
    made = {"policy": before({}, "sft"), "world": before({"name": "front_desk"}, "world")}
    for number, file in enumerate((None, "${data_dir}/other.jsonl", None)):
        made[f"v{number}.feedback"] = before({"prompts": 7 + number, "prompts_file": file}, "feedback")
    assert feedback.bind(config(), made).asked == [((), 7), ((), 9)]
    del made["world"]
    asked_by_ai = asked.bind(AIFeedbackConfig(prompts=4, prompts_file="/data/other.jsonl"), made)
    assert asked_by_ai.asked == [((), 8)]


def before(config, kind):
    about = SimpleNamespace(kind=kind, config=config, metrics={})
    return SimpleNamespace(id=f"{kind}-id", manifest=about, file=Path)


def test_a_round_that_asks_about_other_tasks_takes_none_of_this_ones_prompts(tmp_path):
    prompts = [Prompt.user(f"{'hk'[i % 2]}{i}", f"{i}?", task=("harmful", "known")[i % 2]) for i in range(8)]
    write_records(tmp_path / "prompts.jsonl", prompts)

    def ids(tasks, count, *before):
        given = feedback.FeedbackInputs({}, tmp_path / "prompts.jsonl", asked=before)
        return [one.id for one in asked.prompts_of(config(prompts=count, tasks=tasks), given)]

    before = (("harmful",), 3), (("known",), 2)
    assert ids(["harmful"], 2, *before) == ["h6", "h0"] and ids(["known"], 2, *before) == ["k5", "k7"]
    assert ids([], 4, *before) == ["k5", "h6", "k7", "h0"]


def test_attacks_that_red_teaming_found_are_asked_about_the_newest_first(tmp_path):
    attacks = [Prompt.user(str(i), f"attack {i}") for i in range(4)]
    files = [tmp_path / f"{name}.jsonl" for name in ("first", "second", "third")]
    for path, found in zip(files, (attacks[:3], [attacks[3], attacks[1]], []), strict=True):
        write_records(path, found)
    write_records(tmp_path / "prompts.jsonl", [Prompt.user("own", "own")])
    given = feedback.FeedbackInputs({"policy": tmp_path}, tmp_path / "prompts.jsonl", attacks=files)
    found = [[one.id for one in asked.prompts_of(config(prompts=1, attacks=n), given)] for n in (0, 1, 3, 9)]
    assert found == [["own"], ["3", "own"], ["3", "1", "0", "own"], ["3", "1", "0", "2", "own"]]


def test_attacks_are_judged_whatever_the_budget_of_labels(tmp_path, inputs):
    write_records(tmp_path / "attacks.jsonl", [Prompt.user(f"attack-{i}", f"attack {i}") for i in range(3)])
    given = replace(inputs, attacks=[tmp_path / "attacks.jsonl"])
    runtime = Runtime.temporary(tmp_path / "run")
    feedback.run(config(attacks=3, labels=2, rank_share=1, overlap_share=0), given, runtime)
    judged = records(runtime)["rankings"]
    assert [one.prompt[0].content for one in judged] == ["attack 0", "attack 1"]


def test_prompts_whose_answers_are_all_alike_are_not_judged(tmp_path, inputs):
    greedy = {"max_new_tokens": 6, "temperature": 0}
    said = config(sampling=greedy, off_topic_share=0, rank_share=1)
    metrics = feedback.run(said, inputs, Runtime.temporary(tmp_path / "alike")).metrics
    assert (metrics["alike"], metrics["labels"]) == (12, 0)
    runtime = Runtime.temporary(tmp_path / "some")
    metrics = feedback.run(said.model_copy(update={"off_topic_share": 1, "overlap_share": 0}), inputs, runtime).metrics
    ranked = records(runtime)["rankings"]
    assert metrics["labels"] == len(ranked) == 12 - metrics["alike"] > 0
    assert all(len(set(one.responses)) == len(one.responses) == 2 and one.off_topic == (1,) for one in ranked)


def test_a_budget_of_labels_ends_the_judging_and_changes_none(tmp_path, inputs):
    wide, tight = (Runtime.temporary(tmp_path / name) for name in ("wide", "tight"))
    feedback.run(config(rank_share=1), inputs, wide)
    assert feedback.run(config(rank_share=1, labels=5), inputs, tight).metrics["labels"] == 5
    assert {one.id for one in records(tight)["rankings"]} < {one.id for one in records(wide)["rankings"]}
    with pytest.raises(ValidationError, match="labels has no effect with store"):
        feedback.FeedbackConfig(store="http://localhost:1", project="p", wait={"comparisons": 1}, labels=5)


def test_two_versions_answer_in_turns(tmp_path, inputs):
    """Each answer is the one that its policy would have given alone, and the label says whose it is."""
    older = saved(tiny_model("llama", seed=7), tiny_tokenizer(), tmp_path / "older")
    both = feedback.FeedbackInputs({"newer": inputs.policies["policy-id"], "older": older}, inputs.prompts, JUDGES)
    alone = {}
    for name, folder in both.policies.items():
        runtime = Runtime.temporary(tmp_path / f"{name}-alone")
        feedback.run(config(rank_share=1, off_topic_share=0), replace(both, policies={name: folder}), runtime)
        alone[name] = {one.prompt: one.responses for one in records(runtime)["rankings"]}
    runtime = Runtime.temporary(tmp_path / "both")
    feedback.run(config(versions=2, rank_share=1, off_topic_share=0), both, runtime)
    for one in records(runtime)["rankings"]:
        assert one.policy == "newer" and set(one.policies) <= {"newer", "older"}
        for response, policy in zip(one.responses, one.policies, strict=True):
            assert response in alone[policy][one.prompt]


def test_who_writes_beside_the_newest_version():
    def made(name):
        return SimpleNamespace(id=name, file=lambda part: name)

    there = {"policy": made("v2"), "start": made("sft"), "v1": made("v1"), "v2": made("v2")}  # by role

    def writers(**settings):
        return list(asked.who_write(config(**settings), there))

    assert writers(versions=2) == ["v2", "v1"]
    assert writers(start_answers=True) == ["v2", "sft"]
    assert writers(versions=2, start_answers=True) == ["v2", "v1", "sft"]
    with pytest.raises(ValidationError, match="3 versions cannot all write 2 of responses_per_prompt"):
        config(responses_per_prompt=2, versions=2, start_answers=True)
    with pytest.raises(ValidationError, match="start_answers has no effect beside policy"):
        config(start_answers=True, policy="here")
