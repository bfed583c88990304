"""What every responder keeps to, here with one model: in this process, and behind our server on a socket."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from loopwright.data.chat import ensure_chat_template, render_prompt
from loopwright.errors import DataError, ResponderError
from loopwright.generation.base import SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.responders.local import LocalResponder
from loopwright.responders.openai import OpenAIResponder
from loopwright.responders.server import model_app
from loopwright.responders.wire import TOKEN_VARIABLE
from loopwright.schemas import Message, ReplySettings, whole
from tests.serving import TOKEN, RunningApp
from tests.tiny import tiny_model, tiny_tokenizer

CONVERSATION = [
    Message(role="system", content="é"),
    Message(role="user", content="Hi \u2028<|end|>"),
    Message(role="assistant", content="Ho"),
    Message(role="user", content="?"),
]
SEEDS = range(20)


@pytest.fixture(scope="module")
def local():
    tokenizer = tiny_tokenizer()
    ensure_chat_template(tokenizer)
    model = tiny_model("llama", seed=3)
    with torch.no_grad():  # some replies end, some do not
        model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 3
    return LocalResponder(make_engine(model, tokenizer), "policy-1", "a" * 64)


@pytest.fixture(scope="module")
def server(local):
    running = RunningApp(model_app(local, local.policy, TOKEN))
    yield running
    running.stop()


@pytest.fixture(params=["local", "streamed", "whole", "whichever model"])
def responder(request, local, server, monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    if request.param == "local":
        return local
    model = None if request.param == "whichever model" else "policy-1"
    return OpenAIResponder(server.url + "/v1", model, stream=request.param != "whole")


def test_a_reply_is_the_engines(responder, local):
    """The same seed gives the same text, in pieces or at once, here or from another process."""
    engine, ends = local.engine, set()
    assert responder.name in ("policy-1", getattr(responder, "url", None))
    prompt = render_prompt(engine.tokenizer, CONVERSATION)
    for seed in SEEDS:
        rollouts = engine.generate([prompt], SamplingConfig(max_new_tokens=16, temperature=0.8), [seed])
        settings = ReplySettings(max_new_tokens=16, temperature=0.8, seed=seed)
        *pieces, reply = responder.reply(CONVERSATION, settings)
        assert all(isinstance(piece, str) and piece for piece in pieces)
        assert "".join(pieces) == reply.text == decode_responses(engine.tokenizer, rollouts)[0]
        assert reply.finished == bool(rollouts.finished[0])
        assert (reply.model, reply.policy) == ("policy-1", "a" * 64)
        ends.add(reply.finished)
    assert ends == {True, False}


def test_temperature_0_is_the_likeliest(responder, local):
    rollouts = local.engine.generate(
        [render_prompt(local.engine.tokenizer, CONVERSATION)], SamplingConfig(max_new_tokens=8, temperature=0.0), [0]
    )
    reply = whole(responder.reply(CONVERSATION, ReplySettings(max_new_tokens=8, temperature=0)))
    assert reply.text == decode_responses(local.engine.tokenizer, rollouts)[0]


def test_without_a_seed_replies_differ(responder):
    texts = {whole(responder.reply(CONVERSATION, ReplySettings(max_new_tokens=8))).text for _ in range(8)}
    assert len(texts) > 1


def test_what_does_not_fit_is_refused_before_a_word(responder):
    long = [Message(role="user", content="x" * 80)]
    with pytest.raises((DataError, ResponderError), match="more than the model's context of 64"):
        next(responder.reply(long, ReplySettings(max_new_tokens=8)))


def test_whoever_stops_listening_harms_nobody(responder):
    settings = ReplySettings(max_new_tokens=16, temperature=0)
    expected = whole(responder.reply(CONVERSATION, settings))
    for _ in range(3):
        pieces = responder.reply(CONVERSATION, settings)
        assert isinstance(next(pieces), str)
        pieces.close()
    assert whole(responder.reply(CONVERSATION, settings)) == expected


def test_several_threads_may_ask(responder):
    settings = [ReplySettings(max_new_tokens=8, seed=seed) for seed in range(6)]
    expected = [whole(responder.reply(CONVERSATION, one)) for one in settings]
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(lambda one: whole(responder.reply(CONVERSATION, one)), settings)) == expected
