"""A judge on a server: the probabilities of its first token where it gives them, else the words of a whole reply."""

import json
import math

import pytest

from loopwright.errors import ResponderError
from loopwright.responders.asked_chooser import UNSAID, AskedChooser, of_tokens
from loopwright.responders.judge import JudgeModelConfig
from loopwright.responders.judges import open_judge
from loopwright.responders.openai import OpenAIResponder
from loopwright.responders.wire import TOKEN_VARIABLE
from loopwright.schemas import Message, Reply, ReplySettings
from tests.serving import scripted

ASKED = [(Message(role="user", content="A or B?"),)]


@pytest.fixture(autouse=True)
def no_token(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)


def says(text, top=None, **changes):
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
    if top is not None:
        places = [{"token": token, "logprob": logprob} for token, logprob in top.items()]
        choice["logprobs"] = {"content": [{**places[0], "top_logprobs": places}]} if places else None
    body = json.dumps({"model": "m", "choices": [choice | changes]}).encode()
    return lambda request: (200, {"Content-Type": "application/json"}, body)


def judge(url, **settings):
    return AskedChooser(OpenAIResponder(url, "m", stream=False, attempts=1), **settings)


def test_log_probabilities_of_the_first_token():
    top = {"A": math.log(0.5), " A": math.log(0.1), "B": math.log(0.3), "The": math.log(0.05)}
    with scripted(says("A", top)) as (url, seen):
        ((a, b),) = judge(url).choose(ASKED, ("A", "B"))
    assert (math.exp(a), math.exp(b)) == (pytest.approx(0.6), pytest.approx(0.3))
    asked = json.loads(seen[0][2])
    assert asked["logprobs"] is True and asked["top_logprobs"] == 20 and asked["max_tokens"] == 1
    assert asked["messages"] == [{"role": "user", "content": "A or B?"}]


def test_a_choice_that_is_not_listed_counts_as_the_last_that_is():
    assert of_tokens({"A": -0.1, "x": -7.0}, ("A", "B")) == [pytest.approx(-0.1), -7.0]
    assert of_tokens({"x": -0.1}, ("A", "B")) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [("B", [UNSAID, 0.0]), ("**A**", [0.0, UNSAID]), ("As the answer says: A", None), ("", None)],
)
def test_words_where_the_server_keeps_its_probabilities(text, expected):
    with scripted(says(text, {})) as (url, _):
        assert judge(url).choose(ASKED, ("A", "B")) == [expected]
    with scripted(says(text, finish_reason="stop")) as (url, seen):
        assert judge(url, logprobs=False).choose(ASKED, ("A", "B")) == [expected]
    assert "logprobs" not in json.loads(seen[0][2])


@pytest.mark.parametrize("logprob", ['"-1"', "5", "1e999"])
def test_what_is_no_log_probability_is_not_believed(logprob):
    places = f'{{"content":[{{"token":"A","logprob":{logprob}}}]}}'
    text = f'{{"choices":[{{"finish_reason":"stop","message":{{"content":"A"}},"logprobs":{places}}}]}}'
    with (
        scripted(lambda request: (200, {"Content-Type": "application/json"}, text.encode())) as (url, _),
        pytest.raises(ResponderError, match="logprob"),
    ):
        judge(url).choose(ASKED, ("A", "B"))


def test_any_responder_judges_in_words_and_writes_reasons():
    class Words:
        name = "words"

        def reply(self, messages, settings):
            text = "B" if settings.temperature == 0 else f"{messages[-1].content} {settings.seed}"
            yield Reply(text=text, finished=True, model="words")

    chooser = AskedChooser(Words())
    assert chooser.choose(ASKED * 3, ("A", "B")) == [[UNSAID, 0.0]] * 3
    assert chooser.write(ASKED * 2, [ReplySettings(seed=1), ReplySettings(seed=2)]) == ["A or B? 1", "A or B? 2"]


def test_the_settings_name_a_server():
    chooser = open_judge(JudgeModelConfig(url="http://127.0.0.1:9/v1", model="m", logprobs=False))
    assert isinstance(chooser, AskedChooser) and chooser.name == "m" and not chooser.logprobs
