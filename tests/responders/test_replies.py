"""Many conversations at once: what each is told never depends on the others, and nothing is waited for forever."""

import pytest
import torch

from loopwright.data.chat import ensure_chat_template
from loopwright.errors import ConfigError
from loopwright.models.loading import save_model
from loopwright.responders.local import LocalResponder
from loopwright.responders.openai import OpenAIResponder
from loopwright.responders.replies import CHARACTERS_A_TOKEN, replies
from loopwright.responders.sources import ResponderConfig
from loopwright.schemas import Message, Reply, ReplySettings, whole
from tests.responders.speakers import Echo, Endless
from tests.tiny import CONTEXT, tiny_model, tiny_tokenizer

SETTINGS = ReplySettings(max_new_tokens=8)


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    folder, tokenizer = tmp_path_factory.mktemp("model"), tiny_tokenizer()
    ensure_chat_template(tokenizer)
    model = tiny_model("llama", seed=3)
    with torch.no_grad():  # some replies end, some do not
        model.get_output_embeddings().weight[tokenizer.eos_token_id] *= 3
    save_model(model, tokenizer, folder)
    return LocalResponder.open(folder, torch.device("cpu"))


def asked(*texts: str) -> list[Message]:
    return [Message(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(texts)]


def test_a_batch_says_what_each_conversation_is_told_alone(local):
    conversations = [asked(f"{'why ' * (i % 4)}{i}?", "so", "<|end|>") for i in range(24)]
    seeds = [100 + i for i in range(24)]
    together = replies(local, conversations, SETTINGS, seeds)
    alone = [
        whole(local.reply(one, SETTINGS.model_copy(update={"seed": seed})))
        for one, seed in zip(conversations, seeds, strict=True)
    ]
    assert together == alone
    assert {reply.finished for reply in alone} == {True, False}
    order = list(reversed(range(24)))
    assert replies(local, [conversations[i] for i in order], SETTINGS, [seeds[i] for i in order]) == together[::-1]


def test_what_does_not_fit_the_context_has_no_reply_and_harms_no_other(local):
    short, long = asked("Why?"), asked("x" * (CONTEXT - 9))  # with <|user|> and <|assistant|> one token too many
    assert replies(local, [short, long], SETTINGS, [1, 2]) == [*replies(local, [short], SETTINGS, [1]), None]
    assert replies(local, [asked("x" * (CONTEXT - 10))], SETTINGS, [2]) != [None]
    assert replies(local, [long], SETTINGS, [2]) == [None]
    assert replies(local, [], SETTINGS, []) == []


def test_other_responders_are_asked_side_by_side_each_with_its_own_seed():
    echo = Echo()
    said = replies(echo, [asked(f"word {i}") for i in range(30)], SETTINGS, list(range(30)))
    assert [reply.text for reply in said] == [f"word{i}" for i in range(30)]
    assert sorted((messages[-1].content, settings.seed) for messages, settings in echo.asked) == sorted(
        (f"word {i}", i) for i in range(30)
    )
    assert {settings.max_new_tokens for _, settings in echo.asked} == {8}


def test_an_endless_reply_is_cut_and_its_writer_stopped():
    endless = Endless()
    (reply,) = replies(endless, [asked("Go on?")], SETTINGS, [0])
    assert not reply.finished and len(reply.text) == 8 * CHARACTERS_A_TOKEN
    assert endless.closed.is_set()


def test_a_long_reply_in_one_piece_is_cut_too():
    class AtOnce(Echo):
        def reply(self, messages, settings):
            yield Reply(text="y" * 10_000, finished=True, model="at once")

    (reply,) = replies(AtOnce(), [asked("Go on?")], SETTINGS, [0])
    assert not reply.finished and len(reply.text) == 8 * CHARACTERS_A_TOKEN


def test_a_seed_for_each_conversation():
    with pytest.raises(ValueError, match="one seed a conversation, got 2 and 1"):
        replies(Echo(), [asked("a"), asked("b")], SETTINGS, [0])


def test_a_recipe_names_a_folder_or_a_server(tmp_path, local):
    tokenizer = tiny_tokenizer()
    save_model(tiny_model("llama"), tokenizer, tmp_path / "m")
    opened = ResponderConfig(path=tmp_path / "m").open(torch.device("cpu"))
    assert isinstance(opened, LocalResponder) and opened.context == CONTEXT
    server = ResponderConfig(url="http://127.0.0.1:9/v1", model="m").open(torch.device("cpu"))
    assert isinstance(server, OpenAIResponder) and server.name == "m"
    with pytest.raises(ConfigError, match="model server"):
        ResponderConfig(url="nowhere").open(torch.device("cpu"))
    for wrong, message in (
        ({}, "by path or by url"),
        (dict(path="a", url="http://h/v1"), "by path or by url"),
        (dict(path="a", model="m"), "model has no effect without url"),
    ):
        with pytest.raises(ValueError, match=message):
            ResponderConfig(**wrong)
