"""Real comparisons dealt out by prompt: nothing that judges is learned from."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from loopwright.data.readers import read_records, read_texts
from loopwright.errors import ConfigError, DataError
from loopwright.loop import config_from
from loopwright.loop.plan import make_plan
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Demonstration, Prompt, Ranking, is_ai
from loopwright.stages import dataset, evaluate, pretrain, reward_of_part
from loopwright.stages.dataset import DatasetConfig, DatasetInputs, demonstrations_of
from loopwright.tracking.artifacts import Artifact, Promise, hash_files

PARTS = ("annotators", "judge", "held_out")


def dialogue(*turns):
    return "".join(f"\n\n{who}: {text}" for who, text in zip(("Human", "Assistant") * 9, turns, strict=False))


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def hh(tmp_path):
    """60 dialogues of one question, and 20 that go on from the first of these."""
    rows = [
        {"chosen": dialogue(f"Is {i} even?", "Yes."), "rejected": dialogue(f"Is {i} even?", "No.")} for i in range(60)
    ]
    more = [(f"Is {i} even?", "Yes.", "Why?") for i in range(20)]
    rows += [{"chosen": dialogue(*one, "So."), "rejected": dialogue(*one, "Ask.")} for one in more]
    return written(tmp_path / "hh.jsonl", rows)


def made(path, folder, **settings):
    runtime = Runtime.temporary(folder)
    metrics = dataset.run(DatasetConfig(format="hh-rlhf", files=(path,), **settings), DatasetInputs(), runtime).metrics
    return runtime.output, metrics


def comparisons(folder):
    path = folder / "comparisons.jsonl"
    return read_records(path, Comparison).records if path.stat().st_size else []


def openings(records):
    return {record.prompt[0].content for record in records}


def test_dialogues_that_begin_alike_are_of_one_part(tmp_path, hh):
    out, metrics = made(hh, tmp_path / "run")
    parts = [comparisons(out / name) for name in ("", *PARTS)]
    assert sum(map(len, parts)) == 80 and all(parts)
    assert sum(len(openings(part)) for part in parts) == len(set().union(*map(openings, parts))) == 60
    assert metrics["comparisons"] == len(parts[0]) and metrics["comparisons_judge"] == len(parts[2])

    shuffled = hh.read_text().splitlines(keepends=True)
    random.Random(0).shuffle(shuffled)
    (tmp_path / "again.jsonl").write_text("".join(shuffled[:40]))
    fewer, _ = made(tmp_path / "again.jsonl", tmp_path / "again")
    for name, part in zip(("", *PARTS), parts, strict=True):
        assert openings(comparisons(fewer / name)) <= openings(part)  # neither order nor the other rows matter


def test_what_is_learned_from_is_of_its_own_part(tmp_path, hh):
    out, metrics = made(hh, tmp_path / "run")
    train = comparisons(out)
    asked = read_records(out / "prompts_train.jsonl", Prompt).records
    assert {one.messages for one in asked} == {one.prompt for one in train} and len(asked) == metrics["prompts_train"]
    held_out = read_records(out / "prompts_held_out.jsonl", Prompt).records
    assert {one.messages for one in held_out} == {one.prompt for one in comparisons(out / "held_out")}
    shown = read_records(out / "demonstrations.jsonl", Demonstration).records
    assert {(one.prompt, one.response) for one in shown} == {(one.prompt, one.responses[one.choice]) for one in train}
    texts = [one.text for one in read_texts([out / "text.jsonl.gz"])]
    assert sorted(texts) == sorted(
        "\n\n".join([*(m.content for m in one.prompt), answer]) for one in train for answer in one.responses
    )


def test_long_prompts_and_unreadable_rows_are_counted(tmp_path, hh):
    hh.write_text(hh.read_text() + "{}\n")
    out, metrics = made(hh, tmp_path / "run", longest_prompt=11)
    kept = [one for name in ("", *PARTS) for one in comparisons(out / name)]
    assert {len(one.prompt) for one in kept} == {1} and max(len(one.prompt[0].content) for one in kept) == 11
    assert (len(kept), metrics["too_long"], metrics["bad_rows"]) == (60, 20, 1)
    assert (out / "bad_rows.jsonl").read_text().count("\n") == 1


def test_a_share_of_nothing_is_written_empty(tmp_path, hh):
    out, metrics = made(hh, tmp_path / "run", annotators_share=0)
    assert comparisons(out / "annotators") == [] and "comparisons_annotators" not in metrics
    with pytest.raises(DataError, match=r"of 1 records none falls into the part \w+; give more data, or another share"):
        made(written(tmp_path / "one.jsonl", [json.loads(hh.read_text().splitlines()[0])]), tmp_path / "one")


def test_texts_without_a_prompt_cannot_be_dealt(tmp_path):
    plain = written(tmp_path / "plain.jsonl", [{"chosen": "A", "rejected": "B"}])
    with pytest.raises(DataError, match="no record has a prompt"):
        dataset.run(DatasetConfig(format="trl", files=(plain,)), DatasetInputs(), Runtime.temporary(tmp_path / "run"))


def test_the_reference_answers_are_demonstrated_once(tmp_path):
    answers = written(tmp_path / "answers.jsonl", [{"instruction": f"Q{i}", "output": f"R{i}"} for i in range(40)])
    rows = [{"instruction": f"Q{i}", "output_2": f"{m}{i}", "preference": 1.9} for i in range(40) for m in "ab"]
    config = DatasetConfig(
        format="alpaca-eval", files=(written(tmp_path / "rows.jsonl", rows),), reference=answers,
        demonstrations="reference",
    )  # fmt: skip
    runtime = Runtime.temporary(tmp_path / "run")
    metrics = dataset.run(config, DatasetInputs(), runtime).metrics
    shown = read_records(runtime.output / "demonstrations.jsonl", Demonstration).records
    assert {one.response[0] for one in shown} == {"R"} and len(shown) == metrics["prompts_train"]
    assert all(is_ai(one.annotator) for one in comparisons(runtime.output))


def test_what_is_best_is_demonstrated():
    prompt = Prompt.user("p", "Q").messages
    records = [
        Comparison(id="1", prompt=prompt, responses=("A", "B"), choice=1),
        Comparison(id="2", prompt=prompt, responses=("C", "B"), choice=1),
        Comparison(id="3", prompt=prompt, responses=("C", "D"), choice=None),
        Ranking(id="4", prompt=prompt, responses=("E", "F", "G"), ranks=(2, 1, 3)),
        Ranking(id="5", prompt=prompt, responses=("E", "F"), ranks=(1, 1)),
        Demonstration(id="6", prompt=prompt, response="H"),
    ]
    assert [one.response for one in demonstrations_of(records, "chosen")] == ["B", "F"]
    assert [one.response for one in demonstrations_of(records, "reference")] == ["A", "C"]
    assert [one.response for one in demonstrations_of(records, "given")] == ["H"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"format": "hh"}, "format hh is unknown; choose from alpaca-eval"),
        ({"judge_share": 0.5, "annotators_share": 0.4}, "add up to 1; leave some to train"),
        ({"demonstrations": "reference"}, "needs the file of reference answers"),
    ],
)
def test_what_is_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        DatasetConfig(**({"format": "hh-rlhf", "files": ("x.jsonl",)} | settings))


def artifact(folder, **config):
    about = SimpleNamespace(config=config, metrics={"accuracy": 0.6}, kind="made", files=hash_files(folder))
    return Artifact(folder, about)


def test_who_judges_reads_its_own_part(tmp_path, hh):
    out, _ = made(hh, tmp_path / "run")
    given = artifact(out, annotators_share=0.2)
    config = reward_of_part.PartConfig(model=tmp_path / "body", kinds=("comparisons",))
    found = reward_of_part.ANNOTATOR.bind(config, {"dataset": given})
    assert found.comparisons == (out / "annotators" / "comparisons.jsonl",)
    assert found.held_out == out / "held_out" / "comparisons.jsonl"
    assert found.model == tmp_path / "body"
    with pytest.raises(
        ConfigError, match="annotators has no ratings.jsonl, but comparisons, rankings; .* annotator.kinds"
    ):
        reward_of_part.ANNOTATOR.bind(config.model_copy(update={"kinds": ("ratings",)}), {"dataset": given})
    with pytest.raises(ValidationError, match="held_out_share has no effect, for the dataset section"):
        reward_of_part.PartConfig(held_out_share=0.2)


def test_text_beside_other_text(tmp_path):
    given = {"dataset": Promise.of("dataset", {})}
    found = pretrain.bind(pretrain.PretrainConfig(data=("reviews.jsonl",)), given)
    assert [path.name for path in found.corpus] == ["reviews.jsonl", "text.jsonl.gz"]


def test_evaluation_asks_what_is_held_out_and_the_judge(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights").touch()
    given = {"sft": Promise.of("sft", {}), "dataset": Promise.of("dataset", {}), "judge": artifact(tmp_path)}
    found = evaluate.bind(evaluate.EvaluateConfig(), given)
    assert found.prompts == {"held_out": Path("dataset/prompts_held_out.jsonl")} and list(found.versions) == ["sft"]
    assert (found.judge, found.judge_accuracy) == (tmp_path / "model", 0.6)


ROUND = {"feedback": {}, "reward": {}, "ppo": {}}
SECTIONS = {"dataset": {"format": "hh-rlhf", "files": ["x.jsonl"]}, "sft": {"model": "m"}, "annotator": {}, "judge": {}}


def recipe(tmp_path, monkeypatch, **changed):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.jsonl").touch()
    (tmp_path / "m").mkdir()
    rounds = {"schedule": {"v1": {"reward": {}, "ppo": {}}, "v2": ROUND}}
    return make_plan(config_from({"name": "x", "rounds": rounds, "evaluate": {}} | SECTIONS | changed, "here"))


def test_who_feeds_whom(tmp_path, monkeypatch):
    parents = {step.name: step.parents for step in recipe(tmp_path, monkeypatch).steps}
    assert list(parents)[:4] == ["dataset", "sft", "annotator", "judge"]
    assert list(parents["v1.reward"].values()) == ["sft", "dataset"]
    assert list(parents["v2.reward"].values()) == ["sft", "dataset", "v2.feedback"]
    assert parents["v2.feedback"] == {"policy": "v1.ppo", "dataset": "dataset", "annotator": "annotator"}
    taught = {name for name, found in parents.items() if {"annotator", "judge"} & set(found.values())}
    assert taught == {"v2.feedback", "evaluate"}  # neither trains a policy or its reward model
    assert [name for name, found in parents.items() if "judge" in found.values()] == ["evaluate"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"dataset": SECTIONS["dataset"] | {"judge_share": 0}},
            "dataset.judge_share = 0 leaves judge nothing to learn",
        ),
        (
            {"dataset": False, "sft": SECTIONS["sft"] | {"demonstrations": "."}},
            "annotator learns from a part of a dataset; add a dataset section, or drop annotator",
        ),
        (
            {"sft": False, "annotator": {"model": "m"}},
            "judge has no model; add an sft section to the recipe, or set judge.model",
        ),
        ({"rounds": {"schedule": {"v1": {"reward": {"held_out_share": 0.2}}}}}, "reward.held_out_share has no effect"),
        ({"evaluate": {"prompts": "x.jsonl"}}, "evaluate.prompts has no effect beside a dataset"),
        ({"evaluate": {"judge": {"labelled": "x.jsonl"}}}, "evaluate.judge contradicts the stage judge"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(changed, said, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=said):
        recipe(tmp_path, monkeypatch, **changed)


def test_people_and_their_stand_ins_are_not_both_asked(tmp_path, monkeypatch):
    asked = {"store": "http://127.0.0.1:8600", "project": "p", "wait": {"rankings": 9}}
    rounds = {"schedule": {"v1": {"feedback": asked, "reward": {}, "ppo": {}}}}
    with pytest.raises(ConfigError, match=r"annotator has no effect where people judge \(feedback.store"):
        recipe(tmp_path, monkeypatch, rounds=rounds)
