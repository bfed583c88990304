"""AI feedback: marked as a model's, never counted as people's, the same after a kill, and good enough to train on."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from loopwright.data.constitution import dump_constitution
from loopwright.data.readers import read_records, write_records
from loopwright.errors import ConfigError
from loopwright.feedback.agreement import agreement_report
from loopwright.generation.answers import Item
from loopwright.loop import config_from
from loopwright.loop.plan import make_plan
from loopwright.responders.judge import JudgeConfig, Verdict
from loopwright.responders.local_chooser import LocalChooser
from loopwright.responders.server import model_app
from loopwright.responders.wire import TOKEN_VARIABLE
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Constitution, Message, Principle, Prompt, Reply, is_ai
from loopwright.stages import ai_feedback, ai_feedback_people, reward
from loopwright.stages.ai_feedback_people import PeopleConfig
from loopwright.stages.base import Bound, check_requirements
from loopwright.stages.reward_config import RewardConfig
from loopwright.tracking.artifacts import Promise
from loopwright.worlds import WORLDS
from tests.responders.judges import Scripted, by_worth, read
from tests.serving import TOKEN, RunningApp
from tests.tiny import saved, tiny_model, tiny_tokenizer

JUDGES = {"shortness": lambda prompt, response: 1.0 / (1.0 + len(response))}
PRINCIPLES = [
    Principle(id=name, critique_request="?", revision_request="!", preference_question=f"Which is more {name}?")
    for name in ("kind", "brief")
]


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    model = tiny_model("llama")
    model.config.max_position_embeddings = 1024
    return saved(model, tiny_tokenizer(), tmp_path_factory.mktemp("policy") / "model")


@pytest.fixture
def inputs(tmp_path, policy):
    prompts = tmp_path / "prompts.jsonl"
    write_records(prompts, [Prompt.user(f"p{i}", f"Is {i} even?") for i in range(12)])
    judge = by_worth(lambda text: -0.2 * len(text))
    return ai_feedback.AIFeedbackInputs({"policy-id": policy}, prompts, JUDGES, judge=judge)


def config(**settings):
    shape = {"prompts": 12, "responses_per_prompt": 3, "sampling": {"max_new_tokens": 6}, "prompts_at_once": 4}
    return ai_feedback.AIFeedbackConfig(**(shape | {"save_batches": 1, "canaries": 0} | settings))


def comparisons(runtime):
    return read_records(runtime.output / "comparisons.jsonl", Comparison).records


def run(path, inputs, **settings):
    runtime = Runtime.temporary(path)
    return ai_feedback.run(config(**settings), inputs, runtime).metrics, comparisons(runtime)


def test_every_pair_is_labelled_softly_by_a_marked_judge(tmp_path, inputs):
    metrics, labels = run(tmp_path / "run", inputs, off_topic_share=1)
    assert metrics["pairs"] == metrics["labels_of_ai"] == len(labels) == 12 * 3
    assert metrics["labels_of_people"] == 0
    for label in labels:
        assert label.annotator == "ai:judge-1" and is_ai(label.annotator)
        assert (label.policy, label.order_shown, label.seconds) == ("policy-id", None, None)
        assert label.selection_probability == 1.0  # the judge labels all
        longer = len(label.responses[0]) - len(label.responses[1])
        assert (label.probability > 0.5) == (longer < 0) and (label.probability == 0.5) == (longer == 0)
    assert {label.off_topic for label in labels} == {(), (1,)}
    assert metrics["accuracy"] == 1.0 and metrics["liking_for_first"] == 0.5
    assert len({label.id for label in labels}) == len(labels)


def test_a_judge_is_no_person(tmp_path, inputs):
    _, labels = run(tmp_path / "run", inputs)
    people = [
        one.model_copy(update={"annotator": name, "probability": None, "id": f"{one.id}/{name}"})
        for one in labels[:4]
        for name in ("anna", "ben")
    ]
    alone, mixed = agreement_report(people), agreement_report([*people, *labels])
    assert mixed.pop("of_ai") == len(labels) and alone.pop("of_ai") == 0
    assert mixed == alone
    assert agreement_report(labels)["pairs"] == 0


def test_clamping_reasons_and_the_judges_own_answer_are_kept(tmp_path, inputs):
    judge = {"clamp": 0.1, "reasoning": {"max_new_tokens": 4}, "reference": {"max_new_tokens": 5}}
    metrics, labels = run(tmp_path / "run", inputs, judge=judge)
    assert all(0.4 <= label.probability <= 0.6 for label in labels)
    assert all(label.rationale.startswith("reason ") for label in labels)
    lines = (tmp_path / "run" / "output" / "judged.jsonl").read_text().splitlines()
    assert {json.loads(line)["reference"] for line in lines} == {"reason None"}
    assert metrics["consistent_share"] <= 1


def test_a_principle_is_drawn_for_each_pair_and_stored(tmp_path, inputs):
    inputs = replace(inputs, principles=PRINCIPLES)
    _, labels = run(tmp_path / "a", inputs)
    names = [label.guideline for label in labels]
    assert set(names) == {"kind", "brief"}
    asked = [messages[0].content.split("\n")[-1] for messages in inputs.judge.asked]
    assert asked[::2] == asked[1::2] == [f"Which is more {name}? Reply with A or B." for name in names]
    _, again = run(tmp_path / "b", inputs)
    assert again == labels


def test_prompts_that_were_asked_about_come_last(tmp_path, inputs):
    _, labels = run(tmp_path / "run", replace(inputs, asked=[((), 5)]), prompts=8)
    assert list(dict.fromkeys(label.id.split("/")[0] for label in labels)) == [
        *(f"p{n}" for n in range(5, 12)),
        "p0",
    ]


class InWords:
    """A responder that says which answer is shorter, and nothing else."""

    name = "in-words"

    def reply(self, messages, settings):
        seen = read(messages[0].content)
        said = "A" if len(seen["A"]) < len(seen["B"]) else "B" if len(seen["A"]) > len(seen["B"]) else "Neither."
        yield Reply(text=said, finished=True, model=self.name)


def test_a_judge_on_a_server_labels_in_words(tmp_path, inputs, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    running = RunningApp(model_app(InWords(), None, TOKEN))
    try:
        judge = {"url": f"{running.url}/v1", "model": "in-words", "logprobs": False}
        metrics, labels = run(tmp_path / "run", replace(inputs, judge=None), prompts=4, judge=judge)
    finally:
        running.stop()
    assert metrics["judge"] == "in-words" and {label.annotator for label in labels} == {"ai:in-words"}
    assert (
        len(labels) + metrics["left_out"] == metrics["pairs"] == 4 * 3 and 2 * metrics["left_out"] == metrics["unheard"]
    )
    assert all(label.probability in (0.0, 1.0) for label in labels) and metrics["accuracy"] == 1.0


def test_attacks_that_red_teaming_found_are_judged_too(tmp_path, inputs):
    """Where a model labels what is harmful, what the red team found goes to it."""
    write_records(tmp_path / "attacks.jsonl", [Prompt.user(f"attack-{i}", f"attack {i}") for i in range(3)])
    _, labels = run(tmp_path / "run", replace(inputs, attacks=[tmp_path / "attacks.jsonl"]), prompts=2, attacks=2)
    assert list(dict.fromkeys(label.id.split("/")[0] for label in labels)) == ["attack-0", "attack-1", "p0", "p1"]
    rounds = {"schedule": {"v1-v2": {"ai_feedback": {"attacks": 2}, "red_team": {}}}}
    values = {"name": "x", "world": {"skills": ["judge"]}, "pretrain": {}, "sft": {}, "rounds": rounds}
    steps = {step.name: step.parents for step in make_plan(config_from(values, "test")).steps}
    assert [step for step in steps["v2.ai_feedback"].values() if "red_team" in step] == ["v1.red_team"]


def test_equal_answers_are_no_pair_and_each_pair_has_seeds_of_its_own(tmp_path):
    runtime = Runtime.temporary(tmp_path)
    item = Item(0, Prompt.user("p", "?"), ("a", "b", "a"), (2,))
    pairs = ai_feedback.pairs_of(item, (), runtime)
    assert [(pair.responses, pair.off_topic) for pair in pairs] == [(("a", "b"), ()), (("b", "a"), (1,))]
    seeds = [seed for pair in pairs for seed in ai_feedback.as_asked(pair, JudgeConfig(), runtime).seeds]
    assert len(set(seeds)) == 4


def test_a_killed_run_says_the_same(tmp_path, inputs, policy, monkeypatch):
    """Killed while answers are sampled, and while pairs are judged, by a real model with reasons."""
    monkeypatch.setattr(ai_feedback, "PAIRS_AT_ONCE", 8)
    inputs = replace(inputs, judge=policy)
    settings = config(
        judge={"reasoning": {"max_new_tokens": 3}, "reference": {"max_new_tokens": 3}},
        people={"share": 0.5, "control_share": 0.25},
    )
    whole = Runtime.temporary(tmp_path / "whole")
    expected = ai_feedback.run(settings, inputs, whole)
    save = Runtime.checkpoint
    for step in (8, 20, 36):

        def save_then_die(self, at, state, step=step):
            save(self, at, state)
            if at == step:
                raise Killed

        monkeypatch.setattr(Runtime, "checkpoint", save_then_die)
        with pytest.raises(Killed):
            ai_feedback.run(settings, inputs, Runtime.temporary(tmp_path / "killed"))
    monkeypatch.setattr(Runtime, "checkpoint", save)
    resumed = Runtime.temporary(tmp_path / "killed")
    assert ai_feedback.run(settings, inputs, resumed) == expected
    for name in ("comparisons.jsonl", "judged.jsonl"):
        assert (resumed.output / name).read_bytes() == (whole.output / name).read_bytes()


def test_batches_do_not_matter(tmp_path, inputs, policy, monkeypatch):
    inputs = replace(inputs, judge=policy)

    def judged(name):
        runtime = Runtime.temporary(tmp_path / name)
        ai_feedback.run(config(), inputs, runtime)
        return [json.loads(line) for line in (runtime.output / "judged.jsonl").read_text().splitlines()]

    together = judged("together")
    monkeypatch.setattr(ai_feedback, "PAIRS_AT_ONCE", 1)
    alone = judged("alone")
    assert [one["id"] for one in alone] == [one["id"] for one in together]
    assert [one["probability"] for one in alone] == pytest.approx([one["probability"] for one in together], abs=1e-5)


def test_people_label_where_the_judge_is_unsure(tmp_path, inputs):
    people = {"share": 0.5, "control_share": 0.25, "annotators": 3}
    metrics, labels = run(tmp_path / "run", inputs, people=people, off_topic_share=1)
    of_people = [label for label in labels if not is_ai(label.annotator)]
    of_ai = [label for label in labels if is_ai(label.annotator)]
    assert (metrics["labels_of_people"], metrics["labels_of_ai"]) == (len(of_people), len(of_ai)) == (18, 18)
    assert metrics["people"]["control_pairs"] == 9
    pairs = {(label.prompt, label.responses) for label in labels}
    assert len(pairs) == 36  # nothing is labelled by both
    assert {label.selection_probability for label in of_people} == {0.25, 1.0}
    assert {label.off_topic for label in of_people} == {(), (1,)} and len({one.annotator for one in of_people}) == 3
    assert len({one.created for one in of_people}) > 1  # each works on a clock of their own
    unsure = [label for label in of_people if label.selection_probability == 1.0]
    assert len(unsure) == 9
    assert 0 < metrics["people"]["minutes"] < metrics["people"]["minutes_for_all"]
    errs = metrics["people"]["judge_errs"]
    assert errs is None or 0 <= errs["low"] <= errs["mean"] <= errs["high"] <= 1


def test_who_is_chosen_by_hand():
    verdicts = [Verdict(0.9, 0.8), Verdict(0.6, 0.5), Verdict(0.9, 0.2), Verdict(0.6, 0.6), Verdict(0.9, 0.9)]
    settings = PeopleConfig(share=0.6, control_share=0.0)
    assert ai_feedback_people.choose(verdicts, settings, random.Random(0)) == (frozenset(), (1, 2, 3))
    drawn = PeopleConfig(share=0.6, control_share=0.4)
    control, chosen = ai_feedback_people.choose(verdicts, drawn, random.Random(0))
    assert len(control) == 2 and len(chosen) == 3 and control <= set(chosen)
    drawings = {ai_feedback_people.choose(verdicts, drawn, random.Random(seed))[0] for seed in range(99)}
    assert len(drawings) == 10  # any two of five


def test_the_judges_errors_are_estimated_on_the_random_pairs_alone():
    about = {"prompt": (Message(role="user", content="?"),), "responses": ("a", "b")}

    def said(choice, name):
        return Comparison(id=name, choice=choice, annotator=name, seconds=30.0, **about)

    labels = [said(0, "ai:x"), said(0, "ai:x"), said(1, "ai:x"), said(None, "ai:x")]
    people = {0: [said(0, "p")], 1: [said(1, "p")], 2: [said(0, "p")], 3: [said(0, "p")]}
    pairs = [ai_feedback.Pair("x", Prompt.user("p", "?"), ("a", "b"), (), (), None)] * 4
    found = ai_feedback_people.LabelsOfPeople(frozenset({0, 1, 3}), people).figures(pairs, labels)
    assert found["judge_errs"]["mean"] == 0.5 and found["judge_errs"]["pairs"] == 2  # the tie says nothing
    assert found["minutes"] == 2.0


def test_what_all_pairs_would_take_real_people_is_estimated_on_the_random_pairs():
    """The others are the hard ones. A pair takes as long as all who label it."""
    about = {"prompt": (Message(role="user", content="?"),), "responses": ("a", "b")}

    def said(seconds):
        return Comparison(id="x", choice=0, annotator="p", seconds=seconds, **about)

    pairs = [ai_feedback.Pair("x", Prompt.user("p", "?"), ("a", "b"), (), (), None)] * 12
    people = {0: [said(20.0), said(10.0)], 1: [said(50.0)], 2: [said(None)], 3: [said(600.0)]}
    drawn = ai_feedback_people.LabelsOfPeople(frozenset({0, 1, 2, 5}), people, simulated=False)
    assert drawn.figures(pairs, [None] * 12)["minutes_for_all"] == 12 * (30 + 50) / 2 / 60
    none_drawn = ai_feedback_people.LabelsOfPeople(frozenset(), people, simulated=False)
    assert none_drawn.figures(pairs, [None] * 12)["minutes_for_all"] is None


def test_figures_of_the_judge_by_hand(inputs):
    """Right once, undecided once; of the others, one contradiction, one silence, one verdict that hangs on talk."""
    pairs = [ai_feedback.Pair(f"p{n}", Prompt.user("p", "?"), ("a", "bb"), (), (), None) for n in range(5)]
    verdicts = [
        Verdict(0.9, 0.7), Verdict(0.5, 0.5), Verdict(0.9, 0.2), Verdict(0.5, 0.5, unheard=2),
        Verdict(0.5, 0.5, confirmed=False),
    ]  # fmt: skip
    labels = [
        ai_feedback.label_of(*one, inputs.judge, JudgeConfig(), inputs) for one in zip(pairs, verdicts, strict=True)
    ]
    assert [None if label is None else label.choice for label in labels] == [0, None, None, None, None]
    assert [label is None for label in labels] == [False, False, True, True, True]
    found = ai_feedback.summarise(pairs, verdicts, labels, inputs)
    assert found == {
        "pairs": 5, "ties": 1, "left_out": 3, "unheard": 2, "unconfirmed": 1, "consistent_share": 1 / 5,
        "liking_for_first": pytest.approx((0.6 + 0.85 + 3 * 0.5) / 5),
        "confidence": pytest.approx(0.5 + (0.3 + 0.05) / 5), "accuracy": 0.75,
    }  # fmt: skip
    unknown = ai_feedback.summarise(pairs, verdicts, labels, replace(inputs, judges={}))
    assert unknown["accuracy"] is None


def test_the_judge_is_tried_out_with_lures_and_labels_nothing_by_them(tmp_path, inputs):
    tried, labels = run(tmp_path / "tried", inputs, canaries=5)
    untried, same = run(tmp_path / "untried", inputs)
    assert labels == same and "canaries" not in untried
    found = tried["canaries"]
    assert (found["pairs"], found["flipped_share"]) == (5, 0.0)  # to this judge, longer is worse
    assert found.keys() == {"pairs", "flipped_share", "undecided_share", "flipped_by_plain_share", "shift", "worst"}
    check_requirements("ai_feedback", {"canaries.flipped_share": Bound(max=0.05)}, tried)  # as the page says


def test_what_comes_from_where(tmp_path):
    made = {"policy": Promise.of("ppo", {}), "judge_model": Promise.of("sft", {})}
    made["world"] = Promise.of("world", {"name": "front_desk", "skills": ["critique"]})
    mine = tmp_path / "mine.yaml"
    mine.write_text(dump_constitution(Constitution(principles=tuple(PRINCIPLES))))

    found = ai_feedback.bind(config(), made)
    assert (found.policy_id, found.judge, found.principles) == ("ppo", Path("sft/model"), ())
    assert found.prompts == Path("world/prompts_train.jsonl") and found.judges
    of_the_world = ai_feedback.bind(config(constitution="world"), made).principles
    assert of_the_world == WORLDS["front_desk"].constitution.principles
    named = config(judge={"path": tmp_path / "large"}, constitution=mine)
    assert ai_feedback.bind(named, made).judge == tmp_path / "large"
    assert list(ai_feedback.bind(named, made).principles) == PRINCIPLES
    assert ai_feedback.files(named) == [tmp_path / "large", mine]
    assert ai_feedback.bind(config(judge={"url": "http://127.0.0.1:1/v1"}), made).judge is None
    with pytest.raises(ConfigError, match="ai_feedback has no judge; add an sft section"):
        ai_feedback.bind(config(), {name: one for name, one in made.items() if name != "judge_model"})


def test_no_verdict_makes_no_label(tmp_path, inputs):
    inputs = replace(inputs, judge=Scripted(lambda text, choices: None))
    runtime = Runtime.temporary(tmp_path / "run")
    runtime.log = (said := []).append
    metrics = ai_feedback.run(config(), inputs, runtime).metrics
    assert metrics["labels_of_ai"] == 0 and metrics["left_out"] == metrics["pairs"] == 36
    assert not (runtime.output / "comparisons.jsonl").read_text()
    assert any("the judge labels none of 36 pairs: 72 of its 72 replies were no verdict" in line for line in said)


def test_a_judge_that_contradicts_itself_makes_no_label(tmp_path, inputs):
    """It likes the first position more than it likes any answer."""
    inputs = replace(inputs, judge=by_worth(lambda text: -0.2 * len(text), position=50.0))
    runtime = Runtime.temporary(tmp_path / "run")
    metrics = ai_feedback.run(config(), inputs, runtime).metrics
    judged = [json.loads(line) for line in (runtime.output / "judged.jsonl").read_text().splitlines()]
    assert len(judged) == 36 and not any(one["consistent"] for one in judged)
    assert (metrics["left_out"], metrics["unconfirmed"], metrics["labels_of_ai"]) == (36, 0, 0)


def test_a_verdict_that_hangs_on_talk_to_the_judge_makes_no_label_and_goes_to_people(tmp_path, inputs):
    pairs = [ai_feedback.Pair(f"p{n}", Prompt.user("p", "?"), ("a long answer", "b"), (), (), None) for n in range(2)]
    verdicts = [Verdict(0.5, 0.5, confirmed=False), Verdict(0.7, 0.6)]
    judge = inputs.judge
    labels = [ai_feedback.label_of(*one, judge, JudgeConfig(), inputs) for one in zip(pairs, verdicts, strict=True)]
    assert labels[0] is None and labels[1].choice == 0
    assert ai_feedback.summarise(pairs, verdicts, labels, inputs)["unconfirmed"] == 1
    chosen = ai_feedback_people.choose(verdicts, PeopleConfig(share=0.5, control_share=0.0), random.Random(0))
    assert chosen == (frozenset(), (0,))


def test_a_reward_model_learns_from_judge_and_people_together(tmp_path, inputs, policy):
    first, second = Runtime.temporary(tmp_path / "ai"), Runtime.temporary(tmp_path / "people")
    ai_feedback.run(config(), inputs, first)
    people = [one.model_copy(update={"annotator": "anna", "probability": None}) for one in comparisons(first)[:6]]
    second.output.mkdir(exist_ok=True)
    write_records(second.output / "comparisons.jsonl", people)
    files = [one.output / "comparisons.jsonl" for one in (first, second)]
    settings = RewardConfig(batch_size_per_device=4, accumulation=1, reference_samples=4, normalise_on="responses")
    metrics = reward.run(settings, reward.RewardInputs(policy, files), Runtime.temporary(tmp_path / "reward")).metrics
    assert metrics["judgements_of_ai"] == 36
    ties = metrics["ties"]
    assert metrics["pairs"] + metrics["pairs_held_out"] + ties == 42


def test_the_reward_stage_takes_feedback_of_either_kind_or_both():
    sections = {"world": {"skills": ["judge"]}, "pretrain": {}, "sft": {}, "reward": {}}
    for also in (["ai_feedback"], ["feedback"], ["feedback", "ai_feedback"]):
        plan = make_plan(config_from({"name": "x", **sections, **{name: {} for name in also}}, "test"))
        parents = next(step for step in plan.steps if step.name == "reward").parents
        assert [role for role in parents if "feedback" in role] == also  # both are read


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"constitution": "world", "judge": {"instruction": "Which?"}}, "no effect with constitution"),
        ({"people": {"share": 0.1, "control_share": 0.2}}, "more than share"),
        ({"people": {"store": "http://127.0.0.1:8600"}}, "belong together"),
        (
            {"people": {"store": "http://127.0.0.1:8600", "project": "desk", "annotators": 3}},
            "annotators has no effect",
        ),
    ],
)
def test_settings_without_an_effect_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        config(**settings)


def test_what_a_recipe_lacks_is_said_before_anything_runs():
    base = {"name": "x", "pretrain": {}, "sft": {}}
    with pytest.raises(ConfigError, match="world writes none"):
        make_plan(config_from({**base, "world": {}, "ai_feedback": {"constitution": "world"}}, "test"))
    with pytest.raises(ConfigError, match="takes a world"):
        own = {"pretrain": {"data": ["."]}, "sft": {"demonstrations": "."}}
        make_plan(config_from({**base, **own, "ai_feedback": {"people": {}}}, "test"))


def test_the_default_judge_is_the_sft_policy(policy):
    assert JudgeConfig().path is None
    assert ai_feedback.STAGE.needs["judge_model"] == ("sft", "pretrain")
    assert LocalChooser.open(policy).name == "model"


def test_a_pair_says_which_version_wrote_each_answer(tmp_path, inputs):
    older = saved(tiny_model("llama", seed=7), tiny_tokenizer(), tmp_path / "older")
    both = replace(inputs, policies={**inputs.policies, "older": older})
    _, labels = run(tmp_path / "run", both, responses_per_prompt=2, versions=2, off_topic_share=0)
    assert labels and all((one.policy, one.policies) == ("policy-id", ("policy-id", "older")) for one in labels)
