"""The responder of this process: letter by letter what the engine samples, and under whose name."""

import json

import pytest
import torch

from loopwright.data.chat import ensure_chat_template, render_prompt
from loopwright.errors import ArtifactError, DataError
from loopwright.generation.base import SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.models.loading import save_model
from loopwright.responders.judge import JudgeModelConfig
from loopwright.responders.judges import open_judge
from loopwright.responders.local import LocalResponder, _Letters, identity
from loopwright.responders.sources import ResponderConfig
from loopwright.schemas import Message, ReplySettings, whole
from loopwright.tracking import ArtifactStore, Origin
from loopwright.tracking.artifacts import id_of_file
from tests.tiny import tiny_model, tiny_tokenizer

QUESTION = [Message(role="user", content="Hi é")]


@pytest.fixture(scope="module")
def engine():
    tokenizer = tiny_tokenizer()
    ensure_chat_template(tokenizer)
    model = tiny_model("llama", seed=3)
    with torch.no_grad():  # some replies end, some do not
        model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 3
    return make_engine(model, tokenizer)


def test_pieces_are_the_engines_response(engine):
    """The tokenizer's tokens are bytes, the model random: most letters take several, many are none."""
    sampling, ends, broken = SamplingConfig(max_new_tokens=24), set(), 0
    prompt = render_prompt(engine.tokenizer, QUESTION)
    for seed in range(60):
        *pieces, reply = LocalResponder(engine, "me", "id").reply(QUESTION, ReplySettings(max_new_tokens=24, seed=seed))
        rollouts = engine.generate([prompt], sampling, [seed])
        assert reply.text == "".join(pieces) == decode_responses(engine.tokenizer, rollouts)[0]
        assert reply.finished == bool(rollouts.finished[0])
        assert (reply.model, reply.policy) == ("me", "id")
        assert "" not in pieces
        ends.add(reply.finished)
        broken += "\ufffd" in reply.text
    assert ends == {True, False} and broken > 10


@pytest.mark.parametrize("text", ["a déjà vu 語😀\U0010ffff end", "", " leading", "\ufffdé"])
def test_a_letter_comes_when_it_is_whole(text):
    tokenizer = tiny_tokenizer()
    letters = _Letters(tokenizer)
    pieces = [letters.add(token) for token in tokenizer.encode(text, add_special_tokens=False)]
    assert "".join(pieces) + letters.rest() == text
    assert [piece for piece in pieces if piece] == (
        [] if not text else ["\ufffdé"] if text[0] == "\ufffd" else list(text)
    )


def test_without_a_seed_replies_differ_and_temperature_0_needs_none(engine):
    responder = LocalResponder(engine, "me")
    assert len({whole(responder.reply(QUESTION, ReplySettings(max_new_tokens=8))).text for _ in range(8)}) > 1
    greedy = ReplySettings(max_new_tokens=8, temperature=0)
    assert len({whole(responder.reply(QUESTION, greedy)).text for _ in range(4)}) == 1


def test_nothing_is_forgotten_where_the_context_is_full(engine):
    long = [*QUESTION, Message(role="assistant", content="x" * 60), Message(role="user", content="and?")]
    with pytest.raises(DataError, match="more than the model's context of 64"):
        next(LocalResponder(engine, "me").reply(long, ReplySettings(max_new_tokens=8)))


def test_replies_of_a_runs_policy_name_its_artifact(tmp_path):
    store = ArtifactStore(tmp_path / "artifacts")
    origin = Origin(kind="sft", parents={}, config={}, seed=0, code="", versions={})
    save_model(tiny_model("llama"), tiny_tokenizer(), store.begin("sft", origin.key()) / "model")
    artifact = store.commit(origin, name="run", seconds=0, peak_rss_mb=0, metrics={})
    responder = LocalResponder.open(artifact.path / "model")
    reply = whole(responder.reply(QUESTION, ReplySettings(max_new_tokens=2)))
    assert (responder.name, reply.model, reply.policy) == (artifact.path.name, artifact.path.name, artifact.id)

    config = artifact.path / "model" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"changed": 1}))
    with pytest.raises(ArtifactError, match="config.json was changed after the artifact was made"):
        LocalResponder.open(artifact.path / "model")


def test_a_responder_and_a_judge_that_write_slowly_say_so(tmp_path):
    tokenizer = tiny_tokenizer()
    ensure_chat_template(tokenizer)
    save_model(tiny_model("granite"), tokenizer, tmp_path / "model")
    device, said = torch.device("cpu"), []
    ResponderConfig(path=tmp_path / "model").open(device, said.append)
    assert len(said) == 1 and "slower: granite models are not among" in said[0]
    chooser = open_judge(JudgeModelConfig(path=tmp_path / "model"), None, device, said.append)
    for _ in range(2):
        chooser.write([QUESTION], [ReplySettings(max_new_tokens=2, seed=0)])
    assert len(said) == 2 and said[1] == said[0]


def test_a_plain_folder_is_known_by_its_content(tmp_path):
    for name, seed in (("a", 0), ("b", 1)):
        save_model(tiny_model("llama", seed=seed), tiny_tokenizer(), tmp_path / name)
    (tmp_path / "a").rename(tmp_path / "c")
    (name, first), (_, second) = identity(tmp_path / "c"), identity(tmp_path / "b")
    assert name == "c" and first != second and first == id_of_file(tmp_path / "c")
    save_model(tiny_model("llama", seed=0), tiny_tokenizer(), tmp_path / "a")
    assert identity(tmp_path / "a")[1] == first
