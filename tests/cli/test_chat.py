"""A conversation: what is remembered, what is forgotten, which model of a run answers."""

import io
import json

import pytest
import yaml

from loopwright.cli.chat import Conversation, find_model, read_messages
from loopwright.errors import DataError, ModelError
from loopwright.generation.base import SamplingConfig
from loopwright.models.loading import save_model
from loopwright.tracking import ArtifactStore, Origin
from tests.tiny import CONTEXT, tiny_model, tiny_tokenizer


def conversation(max_new_tokens=4):
    sampling = SamplingConfig(max_new_tokens=max_new_tokens)
    return Conversation(tiny_model("llama"), tiny_tokenizer(), sampling, seed=0)


def test_both_sides_are_remembered():
    talk = conversation()
    answers = [talk.reply("a"), talk.reply("b")]
    assert [(turn.role, turn.content) for turn in talk.turns] == [
        ("user", "a"),
        ("assistant", answers[0]),
        ("user", "b"),
        ("assistant", answers[1]),
    ]


def test_the_same_seed_gives_the_same_conversation():
    one, two = conversation(), conversation()
    assert [one.reply("a"), one.reply("b")] == [two.reply("a"), two.reply("b")]


def test_the_oldest_turns_are_forgotten_when_the_context_is_full():
    talk = conversation()
    for word in ("first", "second", "third", "fourth", "fifth", "sixth"):
        talk.reply(word * 3)
    assert talk.turns[0].role == "user"
    assert talk.turns[0].content != "first" * 3
    assert talk.turns[-2].content == "sixth" * 3


def test_a_single_message_longer_than_the_context_is_refused():
    with pytest.raises(DataError):
        conversation().reply("x" * (CONTEXT + 1))


def test_lines_are_messages_and_empty_ones_are_not():
    assert list(read_messages(io.StringIO("one\n\n  two \nthree"))) == ["one", "two", "three"]


def test_find_model_takes_a_folder_an_artifact_or_the_last_policy_of_a_run(tmp_path):
    plain = tmp_path / "plain"
    save_model(tiny_model("llama"), tiny_tokenizer(), plain)
    assert find_model(plain) == plain

    run = tmp_path / "run"
    store, made = ArtifactStore(run / "artifacts"), {}
    for stage in ("pretrain", "sft"):
        origin = Origin(kind=stage, parents={}, config={}, seed=0, code="", versions={})
        save_model(tiny_model("llama"), tiny_tokenizer(), store.begin(stage, origin.key()) / "model")
        made[stage] = store.commit(origin, name="run", seconds=0, peak_rss_mb=0, metrics={})
    (run / "config.yaml").write_text(yaml.safe_dump({"name": "run"}))
    stages = {stage: {"artifact": artifact.path.name} for stage, artifact in made.items()}
    (run / "summary.json").write_text(json.dumps({"stages": stages}))
    assert find_model(run) == made["sft"].path / "model"
    assert find_model(made["pretrain"].path) == made["pretrain"].path / "model"

    (run / "summary.json").write_text(json.dumps({"stages": {}}))
    with pytest.raises(ModelError, match="no stage of this run has made a model that writes"):
        find_model(run)
