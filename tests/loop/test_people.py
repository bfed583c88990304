"""People in the loop, from end to end: a run asks them over HTTP, trains on what they said, and asks again."""

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from loopwright.data.readers import read_records
from loopwright.errors import ArtifactError, StoreError
from loopwright.evaluation.report import render
from loopwright.feedback import asking
from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.simulation import World, work
from loopwright.loop import config_from, run
from loopwright.loop.trace import in_words, trace
from loopwright.schemas import Attack, Comparison, Prompt, Thumb
from loopwright.stages import feedback, kto, reward
from loopwright.stages.base import Stage, StageConfig, StageOutput
from loopwright.tracking.artifacts import current_artifacts, id_of_file
from loopwright.worlds import WORLDS
from tests.cli.test_cli import call
from tests.feedback.web.people import Office
from tests.loop.test_pedigree import Said
from tests.tiny import saved, tiny_model, tiny_tokenizer

PROMPTS = 24
OVERLAP = 2
WORLD = {"documents": 300, "held_out_documents": 12, "demonstrations": 60, "train_prompts": 60, "test_prompts": 8}
SAMPLING = {"max_new_tokens": 12}
TRAINING = {
    "pretrain": {
        "vocab_size": 380,
        "shape": {"hidden_size": 32, "layers": 1, "heads": 2, "intermediate_size": 48, "max_positions": 192},
        "max_length": 96, "max_steps": 6, "batch_size_per_device": 8, "assess_documents": 4, "copy_samples": 0,
    },
    "sft": {"max_steps": 4, "batch_size_per_device": 8, "max_length": 160},
    "reward": {
        "max_steps": 4, "batch_size_per_device": 8, "max_length": 160, "reference_samples": 8, "sampling": SAMPLING,
    },
    "ppo": {
        "steps": 2, "rollouts_per_step": 8, "minibatch_size": 4, "epochs_per_batch": 1, "max_new_tokens": 12,
    },
    "evaluate": {
        "held_out_prompts": 6, "paraphrased_prompts": 4, "adversarial_prompts": 4, "sampling": SAMPLING, "best_of": 0,
        "perplexity_texts": 4, "greedy": False,
    },
}  # fmt: skip


class Killed(BaseException):
    """As a signal would: nothing in between handles it."""


class People:
    """A server with a project, and the simulated annotators who work there while a run waits."""

    def __init__(self, office, folder):
        self.office, self.folder = office, folder
        self.project, self.labelers = office.open_project("desk", labelers=3, overlap=OVERLAP)
        self.config = ProjectConfig(kind="comparison", gold_share=0.0, overlap=OVERLAP)

    def feedback(self, **more):
        wait = {"comparisons": PROMPTS * OVERLAP}  # everything that can be said
        asked = {"store": self.office.url, "project": "desk", "wait": wait, "responses_per_prompt": 2}
        return {"prompts": PROMPTS, "sampling": SAMPLING, "prompts_at_once": 12, "save_batches": 1} | asked | more

    def recipe(self, *stages, name="people", **feedback):
        sections = {stage: dict(TRAINING[stage]) for stage in stages}
        values = {"name": name, "tensorboard": False, "world": dict(WORLD), "feedback": self.feedback(**feedback)}
        return config_from(values | sections, "test")

    def label_everything(self):
        """All that is asked now; how many labels that were."""
        files = self.folder.glob("*/artifacts/world-*/prompts_train.jsonl")
        prompts = [prompt for path in files for prompt in read_records(path, Prompt).records]
        world = World.of(prompts, WORLDS["front_desk"].judges)
        return work(self.office.url, self.project, self.config, self.labelers, world)

    def label_when_asked(self):
        """As people who come as soon as there is something new."""
        before = len(self.items())
        while len(self.items()) == before:
            time.sleep(0.05)
        self.label_everything()

    def items(self):
        with self.office.client() as client:
            return [(item["key"], item["policy"]) for item in _pages(client, self.project)]


def _pages(client, project):
    reply = {"cursor": ""}
    while reply["cursor"] is not None:
        query = {"cursor": reply["cursor"]} if reply["cursor"] else {}
        reply = client._connection.get(f"projects/{project}/items", limit=500, **query)
        yield from reply["items"]


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    yield from working(tmp_path_factory.mktemp("people"))


def working(folder):
    with pytest.MonkeyPatch.context() as patch, Office(folder) as office:
        patch.setenv("LOOPWRIGHT_FEEDBACK_TOKEN", office.token)
        patch.setattr(asking, "POLL_SECONDS", 0.05)
        yield People(office, folder)


@pytest.fixture(scope="module")
def first(people):
    """The first round: killed while it waits, then finished although the server goes away meanwhile."""
    out = people.folder / "first"
    config = people.recipe("pretrain", "sft", "reward", "ppo", "evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "time", SimpleNamespace(sleep=killed))
        with pytest.raises(Killed):
            run(config, out, render=no_report)
    waiting = people.items()
    assert len(waiting) == PROMPTS

    given = []

    def meanwhile():
        people.office.stop()
        people.office.start()
        given.append(people.label_everything())

    others = threading.Thread(target=meanwhile)
    others.start()
    run(config, out, render=no_report)
    others.join()
    assert people.items() == waiting  # nothing was published twice
    assert given == [OVERLAP * len(waiting)]
    return out


def killed(seconds: float) -> None:
    raise Killed


def no_report(out: Path) -> None:
    pass


def records(artifact):
    return read_records(artifact.file("comparisons.jsonl"), Comparison).records


def test_the_reward_model_learns_from_what_people_said_in_the_store(people, first):
    made = current_artifacts(first)
    said = records(made["feedback"])
    with people.office.client() as client:
        stored = [line for line in client.labels(people.project) if line.record.policy == made["sft"].id]
    assert [one.id for one in said] == [line.label for line in stored]
    assert len(said) == PROMPTS * OVERLAP
    assert {one.policy for one in said} == {made["sft"].id}
    assert {one.annotator for one in said} == {f"desk annotator-{number:02}" for number in range(3)}
    assert all(one.order_shown is not None and one.seconds > 0 for one in said)
    (source,) = json.loads(made["feedback"].file("store.json").read_text())
    assert source["labels"] == [one.id for one in said]
    assert made["reward"].manifest.parents["feedback"] == made["feedback"].id
    assert made["reward"].manifest.metrics["pairs"] > 0


def test_the_report_shows_who_judged(first):
    text = render(first).read_text(encoding="utf-8")
    assert "desk annotator-02" in text


def test_a_number_that_no_answer_has_is_said(first):
    with pytest.raises(ArtifactError, match=r"has no answer 10000; there are \d+, from 1"):
        trace(first, 10_000)


def test_the_token_is_in_no_file_of_the_run(people, first):
    secret = people.office.token.encode()
    assert not [path for path in first.rglob("*") if path.is_file() and secret in path.read_bytes()]


def test_another_run_on_the_same_policy_asks_nobody_again_and_comes_to_the_same(people, first):
    before = people.items()
    out = people.folder / "again"
    run(people.recipe("pretrain", "sft"), out, render=no_report)
    assert people.items() == before
    assert current_artifacts(out)["feedback"].id == current_artifacts(first)["feedback"].id


@pytest.fixture(scope="module")
def second(people, first):
    """The second round: the PPO policy answers, and people judge that."""
    policy = current_artifacts(first)["ppo"].file("model")
    out = people.folder / "second"
    others = threading.Thread(target=people.label_when_asked)
    others.start()
    run(people.recipe(name="second", policy=str(policy)), out, render=no_report)
    others.join()
    return out


def test_what_ppo_made_is_sampled_for_the_next_labels_and_every_way_is_known(people, first, second):
    made, later = current_artifacts(first), current_artifacts(second)["feedback"]
    asked = [policy for _, policy in people.items()]
    assert asked.count(made["ppo"].id) == asked.count(made["sft"].id) == PROMPTS
    assert {one.policy for one in records(later)} == {made["ppo"].id}
    with people.office.client() as client:
        # forward: from one of the first labels to the labels after the next
        told = client.made_from(people.project, records(made["feedback"])[0].id)
        assert set(told) == {made[stage].id for stage in ("feedback", "reward", "ppo", "evaluate")} | {later.id}
        assert client.made_from(people.project, records(later)[0].id) == [later.id]
        # and back: the second feedback rests on both rounds of labels
        behind = client._connection.get(f"projects/{people.project}/sources", artifact=later.id)["labels"]
        assert {one["label"] for one in behind} == {one.id for one in [*records(made["feedback"]), *records(later)]}


def test_an_answer_is_traced_to_the_labels_behind_it_and_says_what_is_stale(people, first, second, monkeypatch, capsys):
    made = current_artifacts(first)
    rows = [json.loads(line) for line in made["evaluate"].file("samples.jsonl").read_text().splitlines()]
    number = next(i for i, row in enumerate(rows, start=1) if row["version"] == "ppo")
    found = trace(first, number)
    assert (found.version, found.response) == ("ppo", rows[number - 1]["response"])
    assert found.links[0].id == made["ppo"].id
    assert [link.kind for link in found.links] == ["ppo", "sft", "reward", "pretrain", "world", "feedback"]
    (labels,) = (link.labels for link in found.links if link.labels)
    assert labels.ids == tuple(one.id for one in records(made["feedback"]))
    assert (labels.store, labels.project, labels.stale, labels.unknown) == (people.office.url, "desk", (), None)
    assert sum(labels.annotators.values()) == labels.count == PROMPTS * OVERLAP
    shown = "\n".join(in_words(found))
    assert f"{PROMPTS * OVERLAP} labels, project desk at {people.office.url}: desk annotator-0" in shown
    assert labels.ids[0] in shown and "stale" not in shown
    status, out, _ = call(monkeypatch, capsys, "show", str(first), "--answer", str(number))
    assert status == 0 and f"{PROMPTS * OVERLAP} labels, project desk at" in out and labels.ids[0] in out
    before = next(i for i, row in enumerate(rows, start=1) if row["version"] == "base")
    assert not [link for link in trace(first, before).links if link.labels]  # the base model heard nobody

    with people.office.client() as client:
        name = "desk annotator-01"
        account = next(one.account for one in client.members(people.project) if one.name == name)
        client.exclude(people.project, {"annotator": account})
        mine = sum(one.annotator == name for one in records(made["feedback"]))
        lines = list(in_words(trace(first, number)))
        assert f"  stale: {mine} labels of annotator {name} are excluded" in lines
        lost = {one.id: (one.stale_labels, one.stale_because_of) for one in client.artifacts(people.project)}
    assert lost[made["feedback"].id] == (mine, None)
    assert lost[made["reward"].id] == (0, made["feedback"].id)
    assert lost[made["ppo"].id][1] is not None


HOSTILE = "<b>\u2028<|end|>\x1b[m"


def samples(config, inputs, runtime):
    """An evaluation of one answer."""
    line = json.dumps({"version": "kto", "prompt": "Hi", "response": "Hello."})
    (runtime.output / "samples.jsonl").write_text(line + "\n")
    return StageOutput({})


TALKED = {
    "feedback": feedback.STAGE, "reward": reward.STAGE, "kto": kto.STAGE,
    "evaluate": Stage("evaluate", StageConfig, {"kto": ("kto",)}, lambda *_: None, samples, lambda config: []),
}  # fmt: skip


def test_thumbs_and_attacks_of_conversations_train_and_are_traced(tmp_path, office, monkeypatch):
    """The ChatGPT-style loop: the run waits while people talk with its policy, trains on what they said of its answers,
    and killed meanwhile goes on."""
    policy = saved(tiny_model("llama"), tiny_tokenizer(), tmp_path / "policy")
    (chat, ann), (red, bob) = office.open_conversations("chat", "chat"), office.open_conversations("red", "red_team")
    tiny = {"kinds": ["thumbs", "attacks"], "max_steps": 1, "max_length": 64, "held_out_share": 0}
    config = config_from(
        {
            "name": "talk", "tensorboard": False, "evaluate": {},
            "feedback": {
                "policy": str(policy), "store": office.url, "project": ["chat", "red"],
                "wait": {"thumbs": 4, "attacks": 2},
            },
            "reward": tiny | {"model": str(policy), "reference_samples": 2, "sampling": {"max_new_tokens": 4}},
            "kto": tiny | {"policy": str(policy)},
        },
        "test",
        stages=TALKED,
    )  # fmt: skip
    out, said = tmp_path / "run", Said()

    monkeypatch.setattr(asking, "time", SimpleNamespace(sleep=killed))

    def go_on():
        run(config, out, stages=TALKED, display=said, render=no_report)

    with pytest.raises(Killed):
        go_on()
    assert sum("nobody has talked with it yet" in line for line in said.lines) == 2
    office.model.policy = "before"
    office.talk(chat, ann, "Of an earlier version", answer={"good": True})
    office.model.policy = id_of_file(policy)
    office.talk(chat, ann, "Is it open?", "a", answer={"good": True, "reason": "It is right."})
    office.talk(red, bob, HOSTILE, answer={"broke": True, "harm": 3})
    with pytest.raises(Killed):
        go_on()
    (last,) = office.talk(chat, ann, HOSTILE, answer={"good": False})
    office.talk(chat, ann, "And now?", answer={"good": False})
    office.talk(red, bob, "Swear!", answer={"broke": False})
    go_on()

    made = current_artifacts(out)
    thumbs, attacks = (
        read_records(made["feedback"].file(f"{kind}.jsonl"), record).records
        for kind, record in (("thumbs", Thumb), ("attacks", Attack))
    )
    assert [[turn.content for turn in one.prompt] for one in thumbs] == [
        ["Is it open?"], ["Is it open?", "Is it open? Is it open?", "a"], [HOSTILE], ["And now?"],
    ]  # fmt: skip
    assert [(one.responses, one.broke) for one in attacks] == [
        ((f"{HOSTILE} {HOSTILE}",), True), (("Swear! Swear!",), False),
    ]  # fmt: skip
    assert {one.policy for one in [*thumbs, *attacks]} == {id_of_file(policy)}
    metrics = {stage: made[stage].manifest.metrics for stage in ("feedback", "reward", "kto")}
    assert metrics["kto"]["thumbs"] == metrics["feedback"]["labels"] == 6
    assert metrics["reward"]["judgements"] == {"attacks": 2, "thumbs": 4}
    assert metrics["reward"]["prompts"] == 5  # one was asked in both projects

    assert "red annotator-00" in render(out).read_text(encoding="utf-8")
    with office.client() as client, office.client(ann.token) as person:
        made_from = set(client.made_from(red, attacks[0].id))
        assert made_from == {made[stage].id for stage in ("feedback", "reward", "kto", "evaluate")}
        with pytest.raises(StoreError, match="this label is frozen"):
            person.label(last, {"good": True})
        lines = list(in_words(trace(out, 1)))
        assert f"  6 labels, project chat, red at {office.url}: chat annotator-00 (4), red annotator-00 (2)" in lines
        account = next(one.account for one in client.members(red) if one.role == "annotator")
        client.exclude(red, {"annotator": account})
        assert "  stale: 2 labels of annotator red annotator-00 are excluded" in in_words(trace(out, 1))


@pytest.fixture
def office(tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "POLL_SECONDS", 0.05)
    with Office(tmp_path) as office:
        monkeypatch.setenv("LOOPWRIGHT_FEEDBACK_TOKEN", office.token)
        yield office


@pytest.fixture
def others(tmp_path):
    """Another server, where nobody is excluded."""
    yield from working(tmp_path)


def test_rounds_ask_people_about_each_version_although_the_server_dies_in_between(others):
    """Two rounds in one run: killed while it waits for the second, and the server stopped before people come."""
    methods = {"feedback": others.feedback(), "reward": TRAINING["reward"], "ppo": TRAINING["ppo"]}
    values = {"name": "rounds", "seed": 5, "tensorboard": False, "world": dict(WORLD)}
    values |= {stage: dict(TRAINING[stage]) for stage in ("pretrain", "sft", "evaluate")}
    config = config_from(values | {"rounds": {"schedule": {"v1-v2": methods}}}, "test")
    out = others.folder / "rounds"

    labeling = threading.Thread(target=others.label_when_asked)
    labeling.start()
    naps = iter(range(10**6))

    def first_labels_then_killed(seconds):
        labeling.join(0.05)
        if not labeling.is_alive() and len(others.items()) == 2 * PROMPTS and next(naps):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asking, "time", SimpleNamespace(sleep=first_labels_then_killed))
        with pytest.raises(Killed):
            run(config, out, render=no_report)
    assert "v1.ppo" in current_artifacts(out) and "v2.feedback" not in current_artifacts(out)

    def meanwhile():
        others.office.stop()
        others.office.start()
        others.label_everything()

    labeling = threading.Thread(target=meanwhile)
    labeling.start()
    run(config, out, render=no_report)
    labeling.join()
    made = current_artifacts(out)
    asked = [policy for _, policy in others.items()]
    assert asked.count(made["sft"].id) == asked.count(made["v1.ppo"].id) == PROMPTS  # each once
    assert len(asked) == 2 * PROMPTS
    said = [records(made[f"v{number}.feedback"]) for number in (1, 2)]
    assert [len(one) for one in said] == [PROMPTS * OVERLAP] * 2
    assert not {one.prompt for one in said[0]} & {one.prompt for one in said[1]}
    assert {"v1.feedback", "v2.feedback"} <= made["v2.reward"].manifest.parents.keys()
    assert list(made["evaluate"].manifest.metrics["versions"]) == ["base", "sft", "v1", "v2"]
