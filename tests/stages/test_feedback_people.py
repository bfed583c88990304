"""The stages that ask people: their settings, and the files that their answers become."""

import threading
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from loopwright.data.readers import read_records, write_records
from loopwright.errors import ConfigError, StoreError
from loopwright.feedback import asking
from loopwright.feedback.asking import read_sources
from loopwright.feedback.client import Line
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.simulation import World, work
from loopwright.generation import answers
from loopwright.loop import config_from
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Attack, Demonstration, Prompt, Ranking, Thumb
from loopwright.stages import asked, demonstrations, feedback, feedback_people, sft
from loopwright.tracking.artifacts import Artifact, Manifest, id_of_file
from tests.tiny import saved, tiny_model, tiny_tokenizer

STORE = {"store": "http://127.0.0.1:8600", "project": "desk", "wait": {"comparisons": 5}}
ABOUT = {"config": {}, "parents": {}, "seed": 0, "code": "", "versions": {}, "created": "", "seconds": 0, "metrics": {}}
JUDGES = {"shortness": lambda prompt, response: 1.0 / (1.0 + len(response))}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"project": "desk"}, "project has no effect without store"),
        ({"wait": {"comparisons": 5}}, "wait has no effect without store"),
        ({"reward": "model"}, "reward has no effect without store"),
        ({"prompts_file": "prompts.jsonl"}, "prompts_file has no effect without store"),
        ({"responses_per_prompt": 1}, "responses_per_prompt = 1 leaves nothing to compare"),
        (STORE | {"annotators": 3}, "annotators has no effect with store"),
        (STORE | {"rank_share": 0.5}, "rank_share has no effect with store"),
        ({"store": STORE["store"], "wait": {"comparisons": 5}}, "store needs project"),
        ({"store": STORE["store"], "project": "desk"}, "store needs wait"),
        (STORE | {"wait": {}}, "name some of attacks, comparisons"),
        (STORE | {"wait": {"comparisons": 5, "prompts": 5}}, "name some of attacks, comparisons"),
        (STORE | {"wait": {"comparisons": 0}}, "greater than 0"),
        (STORE | {"wait": {"demonstrations": 5}}, "wait names demonstrations, which judge no answer"),
        (STORE | {"store": "http://me:secret@there"}, "address is none"),
        (STORE | {"token": "t"}, "token"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        feedback.FeedbackConfig(**settings)


def test_a_password_in_the_address_is_not_repeated():
    with pytest.raises(ConfigError) as error:
        config_from({"name": "x", "feedback": STORE | {"store": "http://me:secret@there"}}, "here")
    assert "secret" not in str(error.value)


def test_demonstrations_wait_for_demonstrations():
    with pytest.raises(ValidationError, match="wait names comparisons, which judge answers"):
        demonstrations.DemonstrationsConfig(**STORE)


def test_answers_of_a_policy_of_ones_own_are_ranked_by_people_with_scores_beside(tmp_path, office):
    """Neither a world nor another stage: a model's folder, a file of prompts, a reward model's scores."""
    from transformers import LlamaForSequenceClassification

    policy = saved(tiny_model("llama"), tiny_tokenizer(), tmp_path / "policy")
    config = tiny_model("llama").config
    config.num_labels, config.pad_token_id = 1, 257
    reward = saved(LlamaForSequenceClassification(config), tiny_tokenizer(), tmp_path / "reward")
    prompts = [Prompt.user(f"p{i}", f"Is {i} even?") for i in range(4)]
    write_records(tmp_path / "prompts.jsonl", prompts)
    desks = {"desk": "ranking", "thumbs": "thumb"}
    opened = [office.open_project(name, labelers=1, kind=kind) for name, kind in desks.items()]
    project = opened[0][0]
    settings = feedback.FeedbackConfig(
        prompts=4, responses_per_prompt=3, sampling={"max_new_tokens": 6}, policy=policy, off_topic_share=1.0,
        prompts_file=tmp_path / "prompts.jsonl", reward=reward, store=office.url, project=tuple(desks),
        wait={"rankings": 4, "thumbs": 12},
    )  # fmt: skip
    inputs = feedback.bind(settings, {})
    assert inputs.policy_id == id_of_file(policy)
    runtime = Runtime.temporary(tmp_path / "run")
    done = threading.Event()
    people = [
        threading.Thread(
            target=work,
            args=(office.url, id, ProjectConfig(kind=kind, gold_share=0.0), labelers, World.of(prompts, JUDGES)),
            kwargs={"stay": lambda: not done.is_set()},
        )
        for kind, (id, labelers) in zip(desks.values(), opened, strict=True)
    ]
    for one in people:
        one.start()
    try:
        metrics = feedback.run(settings, inputs, runtime).metrics
    finally:
        done.set()
        for one in people:
            one.join()
    found = read_records(runtime.output / "rankings.jsonl", Ranking).records
    thumbs = read_records(runtime.output / "thumbs.jsonl", Thumb).records
    assert (len(found), len(thumbs)) == (metrics["rankings"], metrics["thumbs"]) == (4, 12)
    assert metrics["labels"] == 16
    assert {one.policy for one in found} == {inputs.policy_id}
    assert {one.off_topic for one in found} == {(2,)}
    assert {one.reward_model for one in found} == {id_of_file(reward)}
    for name in ("comparisons", "ratings"):  # so that the reward stage finds what it looks for
        assert (runtime.output / f"{name}.jsonl").read_text() == ""
    source, of_thumbs = read_sources(runtime.output)
    assert (of_thumbs.project, of_thumbs.labels) == ("thumbs", tuple(one.id for one in thumbs))
    assert source.labels == tuple(one.id for one in found)
    assert (source.store, source.project, source.policy) == (office.url, "desk", inputs.policy_id)
    with office.client() as client:
        items = client._connection.get(f"projects/{project}/items")["items"]
        assert all(len(item["scores"]) == 3 for item in items)


class Killed(BaseException):
    pass


def test_a_run_that_is_killed_while_it_waits_samples_and_publishes_nothing_again(tmp_path, office, monkeypatch):
    policy = saved(tiny_model("llama"), tiny_tokenizer(), tmp_path / "policy")
    prompts = [Prompt.user(f"p{i}", f"Is {i} even?") for i in range(4)]
    write_records(tmp_path / "prompts.jsonl", prompts)
    project, labelers = office.open_project("desk", labelers=1, kind="thumb")
    settings = feedback.FeedbackConfig(
        prompts=4, responses_per_prompt=1, sampling={"max_new_tokens": 6}, prompts_at_once=1, save_batches=3,
        policy=policy, prompts_file=tmp_path / "prompts.jsonl", store=office.url, project="desk", wait={"thumbs": 4},
    )  # fmt: skip
    inputs = feedback.bind(settings, {})

    def killed(seconds):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(asking, "time", SimpleNamespace(sleep=killed))
        with pytest.raises(Killed):
            feedback.run(settings, inputs, Runtime.temporary(tmp_path / "run"))
    thumbs = ProjectConfig(kind="thumb", gold_share=0.0)
    assert work(office.url, project, thumbs, labelers, World.of(prompts, JUDGES)) == 4
    monkeypatch.setattr(answers, "make_engine", None)
    runtime = Runtime.temporary(tmp_path / "run")
    feedback.run(settings, inputs, runtime)
    found = read_records(runtime.output / "thumbs.jsonl", Thumb).records
    assert len(found) == 4
    with office.client() as client:
        assert client.batch(project, inputs.policy_id).items == 4
        assert [line.record for line in client.labels(project)] == found


WITHOUT_EFFECT = {
    "prompts": 5, "tasks": ["known"], "prompts_file": "prompts.jsonl", "attacks": 3, "responses_per_prompt": 2,
    "versions": 1, "start_answers": False, "sampling": {"max_new_tokens": 6}, "off_topic_share": 0.0,
    "prompts_at_once": 8, "save_batches": 1, "reward": "model",
}  # fmt: skip


def talking(office, wait, *projects, **more):
    return feedback.FeedbackConfig(store=office.url, project=projects, wait=wait, **more)


def test_a_label_takes_its_time_once_however_many_records_it_makes():
    """People rank overall and by each criterion on one form."""
    about = {"responses": ("a", "b"), "annotator": "ann", "seconds": 36.0}
    ranked = [Ranking(id=f"r{by}", ranks=(1, 2), criterion=by, **about) for by in (None, "helpful", "harmless")]
    lines = [Line(1, "r", "rankings", one) for one in ranked]
    lines.append(Line(2, "s", "rankings", ranked[0].model_copy(update={"id": "s"})))
    found = feedback_people.summarise(lines, [])
    assert (found["labels"], found["rankings"], found["hours"]) == (2, 4, pytest.approx(2 * 36 / 3600))


def test_what_samples_need_is_refused_where_people_write_the_prompts(tmp_path, office):
    office.open_conversations("talk", "chat")
    inputs, runtime = feedback.FeedbackInputs({"v1": tmp_path}, None), Runtime.temporary(tmp_path / "run")
    for name, value in WITHOUT_EFFECT.items():
        settings = talking(office, {"thumbs": 5}, "talk", **{name: value})
        with pytest.raises(ConfigError, match=rf"test\.{name} has no effect where people write the prompts"):
            feedback.run(settings, inputs, runtime)
    assert WITHOUT_EFFECT.keys() == set(feedback_people.OF_SAMPLES)
    with pytest.raises(StoreError, match="there is no project chats that this token may manage; there are: talk"):
        feedback.run(talking(office, {"thumbs": 5}, "chats"), inputs, runtime)
    office.open_project("thumbs", kind="thumb")  # of answers to given prompts, and there are none
    with pytest.raises(ConfigError, match="feedback has no prompts_file; add a world or dataset section"):
        feedback.run(talking(office, {"thumbs": 5}, "thumbs"), inputs, runtime)


def test_prompts_may_be_missing_where_people_may_write_them(tmp_path, office):
    policy = saved(tiny_model("llama"), tiny_tokenizer(), tmp_path / "policy")
    both = talking(office, {"thumbs": 5, "attacks": 5}, "talk", "attack", policy=policy)
    assert feedback.bind(both, {}).prompts is None
    with pytest.raises(ConfigError, match="feedback has no prompts_file"):
        feedback.bind(talking(office, {"thumbs": 5, "rankings": 5}, "talk", "desk", policy=policy), {})


def test_conversations_are_waited_for_beside_answers_to_prompts(tmp_path, office):
    policy = saved(tiny_model("llama"), tiny_tokenizer(), tmp_path / "policy")
    prompts = [Prompt.user(f"p{i}", f"Is {i} even?") for i in range(3)]
    write_records(tmp_path / "prompts.jsonl", prompts)
    desk, labelers = office.open_project("desk", labelers=1, kind="thumb")
    talk, person = office.open_conversations("attack", "red_team")
    settings = talking(
        office, {"attacks": 2, "thumbs": 3}, "desk", "attack", policy=policy, prompts=3, responses_per_prompt=1,
        sampling={"max_new_tokens": 6}, prompts_file=tmp_path / "prompts.jsonl",
    )  # fmt: skip
    inputs, runtime = feedback.bind(settings, {}), Runtime.temporary(tmp_path / "run")
    office.model.policy = inputs.policy_id
    office.talk(talk, person, "Say it!", "Say it now!", answer={"broke": True, "harm": 2})
    thumbs, world = ProjectConfig(kind="thumb", gold_share=0.0), World.of(prompts, JUDGES)
    done = threading.Event()
    works = {"stay": lambda: not done.is_set()}
    labeling = threading.Thread(target=work, args=(office.url, desk, thumbs, labelers, world), kwargs=works)
    labeling.start()
    try:
        metrics = feedback.run(settings, inputs, runtime).metrics
    finally:
        done.set()
        labeling.join()
    assert (metrics["attacks"], metrics["thumbs"], metrics["labels"], metrics["prompts"]) == (2, 3, 5, 3)
    attacks = read_records(runtime.output / "attacks.jsonl", Attack).records
    assert [(one.prompt[-1].content, one.broke, one.harm) for one in attacks] == [
        ("Say it!", True, 2), ("Say it now!", True, 2),
    ]  # fmt: skip
    assert {one.policy for one in attacks} == {inputs.policy_id}


def test_prompts_that_nobody_was_asked_about_are_asked_about_in_the_next_round(tmp_path):
    prompts = [Prompt.user(f"p{i}", f"Is {i} even?") for i in range(6)]
    write_records(tmp_path / "prompts.jsonl", prompts)
    (tmp_path / "policy").mkdir()
    config = feedback.FeedbackConfig(
        **STORE, prompts=2, policy=tmp_path / "policy", prompts_file=tmp_path / "prompts.jsonl"
    )

    def asked_about(**metrics):
        about = ABOUT | {"config": config.model_dump(mode="json"), "metrics": metrics}
        before = Artifact(tmp_path, Manifest(id="f", key="f", kind="v1.feedback", name="n", files={}, **about))
        return [one.id for one in asked.prompts_of(config, feedback.bind(config, {"v1.feedback": before}))]

    assert asked_about(prompts=2) == ["p2", "p3"]
    assert asked_about(prompts=0) == ["p0", "p1"]  # people wrote the prompts of that round themselves


def test_people_write_the_demonstrations_that_sft_learns_from(tmp_path, office):
    write_records(tmp_path / "prompts.jsonl", [Prompt.user(f"p{i}", f"Is {i} even?") for i in range(3)])
    project, (writer, *_) = office.open_project("write", labelers=1, kind="demonstration")
    settings = demonstrations.DemonstrationsConfig(
        store=office.url, project="write", wait={"demonstrations": 2}, prompts_file=tmp_path / "prompts.jsonl"
    )

    def write():
        with office.client(writer.token) as person:
            given = 0
            while given < 2:
                for task in person.tasks(project).tasks:
                    given += bool(person.label(task.ticket, {"response": f"To {task.prompt[-1].content} yes."}))

    person = threading.Thread(target=write)
    person.start()
    runtime = Runtime.temporary(tmp_path / "run")
    metrics = demonstrations.run(settings, demonstrations.bind(settings, {}), runtime).metrics
    person.join()
    assert metrics == {"demonstrations": 2, "writers": 1}
    made = read_records(runtime.output / "demonstrations.jsonl", Demonstration).records
    assert all(one.response == f"To {one.prompt[-1].content} yes." for one in made)
    assert read_sources(runtime.output)[0].labels == tuple(one.id for one in made)

    names = {path.name: "" for path in runtime.output.iterdir()} | {"model/x": ""}
    manifest = Manifest(id="d", key="d", kind="demonstrations", name="n", files=names, **ABOUT)
    artifacts = {"demonstrations": Artifact(runtime.output, manifest), "model": Artifact(tmp_path, manifest)}
    assert sft.bind(sft.SFTConfig(), artifacts).demonstrations == runtime.output / "demonstrations.jsonl"
    with pytest.raises(ConfigError, match="demonstrations = mine.jsonl contradicts the stage demonstrations"):
        sft.bind(sft.SFTConfig(demonstrations="mine.jsonl"), artifacts)


def test_the_id_of_a_folder_is_its_artifacts_or_its_contents(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("1")
    first = id_of_file(folder)
    (folder / "weights").write_text("2")
    assert id_of_file(folder) != first
    manifest = Manifest(id="of-the-artifact", key="k", kind="ppo", name="n", files={}, **ABOUT)
    (tmp_path / "manifest.json").write_text(manifest.model_dump_json())
    assert id_of_file(folder) == "of-the-artifact"
