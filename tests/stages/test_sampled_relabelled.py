"""The stages `hindsight` and `conditioned`: what they share is tested on both."""

import itertools
import random

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from loopwright.data.chat import CHAT_TEMPLATE, ensure_chat_template, render_prompt
from loopwright.data.readers import read_records
from loopwright.errors import ConfigError, ModelError
from loopwright.models.loading import load_tokenizer
from loopwright.rewards import CallableReward
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Message, Prompt, ScoredAnswer
from loopwright.stages import conditioned, hindsight
from loopwright.stages.conditioned import ConditionedConfig
from loopwright.stages.hindsight import HindsightConfig
from loopwright.stages.sampled import SampledInputs
from loopwright.stages.sampled_relabelled import bins_of, prompts_under
from tests.letters import LETTERS, distribution, letters_model
from tests.stages.test_pretrain import Killed, figures, killed_after
from tests.tiny import saved, tiny_model, tiny_tokenizer

PROMPTS = [Prompt.user(str(i), "".join(letters)) for i, letters in enumerate(itertools.permutations(LETTERS))]
SMALL = dict(
    loops=2, max_prompts=8, samples_per_prompt=4, max_steps=3, batch_size_per_device=16, max_new_tokens=3,
    max_length=24, held_out_prompts=4, missing_eos_penalty=0.0, learning_rate=1e-2, save_steps=2, log_steps=1,
)  # fmt: skip
# What a policy that writes letters can read.
OWN = {"hindsight": dict(poor="d", poor_by="{criterion}"), "conditioned": dict(condition="d{bin}", bins=2)}
both = pytest.mark.parametrize("stage", ["hindsight", "conditioned"])


def likes_a(prompts, responses):
    return [response.count("a") - 0.5 * response.count("b") for response in responses]


def starts_with_a(prompts, responses):
    return [float(response[:1] == "a") for response in responses]


def ends_with_c(prompts, responses):
    return [float(response[-1:] == "c") for response in responses]


def both_of_two(prompts, responses):
    return [a * c for a, c in zip(starts_with_a(prompts, responses), ends_with_c(prompts, responses), strict=True)]


LONE = ((CallableReward(likes_a, "a"), 1.0),)
TWO = ((CallableReward(starts_with_a, "a"), 1.0), (CallableReward(ends_with_c, "c"), 1.0))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return letters_model(tmp_path_factory.mktemp("start"))


def settings_of(stage, **changes):
    settings = SMALL | {name: value for name, value in OWN[stage].items() if name != "poor_by"} | changes
    return (HindsightConfig if stage == "hindsight" else ConditionedConfig)(**settings)


def low_bytes(prompts, responses):
    return [sum(letter < "`" for letter in response) for response in responses]


def trained(stage, start, folder, rewards=LONE, *, inside=None, prompts=PROMPTS, **changes):
    runtime = Runtime.temporary(folder, stage=stage)
    runtime = runtime if inside is None else inside(runtime)
    run = {"hindsight": hindsight.run, "conditioned": conditioned.run}[stage]
    return run(settings_of(stage, **changes), SampledInputs(start, list(rewards), prompts), runtime).metrics


def weights(folder):
    return safetensors.torch.load_file(folder / "output" / "model" / "model.safetensors")


def expected_reward(folder, likes=likes_a, prompt=PROMPTS[0]):
    """Over every response that there is to the plain prompt."""
    responses, policy = distribution(folder, prompt, SMALL["max_new_tokens"])
    return policy.dot(torch.tensor(likes([], responses)).double()).item()


@pytest.mark.parametrize(
    "stage,gain,changes",
    [("hindsight", 0.8, {}), ("hindsight", 0.4, {"alpha": 0.0}), ("conditioned", 0.3, {"loops": 6, "max_steps": 30})],
)
def test_the_plain_prompt_learns_to_be_answered_well(start, tmp_path, stage, gain, changes):
    changes = dict(loops=4, max_prompts=12, samples_per_prompt=8, max_steps=15, batch_size_per_device=32) | changes
    metrics = trained(stage, start, tmp_path, save_steps=1000, **changes)
    before, after = expected_reward(start), expected_reward(tmp_path / "output" / "model")
    assert after > before + gain
    assert metrics["loops"][-1]["score"] > metrics["loops"][0]["score"]
    assert metrics["answers"] == changes["loops"] * 12 * 8
    assert metrics["held_out_kl"] > 0.05  # of the plain prompt, against the policy that came in


@pytest.mark.parametrize(("stage", "times"), [("hindsight", [1, 1, 1]), ("conditioned", [1, 2, 3])])
def test_which_loops_answers_are_learned(start, tmp_path, stage, times):
    """Those of the last loop by hindsight, those of all so far by conditioned: 8 prompts, 4 answers, 16 a step."""
    metrics = trained(stage, start, tmp_path, loops=3, epochs=1, max_steps=None)
    assert [loop["steps"] for loop in metrics["loops"]] == [2 * more for more in times]


def test_several_rewards_are_learned_by_each(start, tmp_path):
    changes = dict(loops=4, max_prompts=12, samples_per_prompt=8, max_steps=15, batch_size_per_device=32)
    settings = dict(poor_by="{criterion}", save_steps=1000, alpha=1.0)
    runtime = Runtime.temporary(tmp_path, stage="hindsight")
    config = HindsightConfig(**(SMALL | changes | settings))
    hindsight.run(config, SampledInputs(start, list(TWO), PROMPTS), runtime)
    before, after = expected_reward(start, both_of_two), expected_reward(tmp_path / "output" / "model", both_of_two)
    assert before < 0.05 < 0.25 < after


@both
def test_what_is_saved_is_asked_as_any_policy_is(tmp_path, stage):
    """The exported tokenizer renders the prompt as the best condition had it: as it was."""
    tokenizer = tiny_tokenizer()
    ensure_chat_template(tokenizer)
    start = saved(tiny_model("llama", scale=1.0), tokenizer, tmp_path / "start")
    prompts = [Prompt.user(str(i), f"{i}?") for i in range(12)]
    rewards = [(CallableReward(low_bytes, "low"), 1.0)]
    own = dict(poor="Bad.\n") if stage == "hindsight" else {}
    trained(stage, start, tmp_path / "run", rewards, prompts=prompts, **(own | dict(max_length=40, max_new_tokens=2)))
    exported = load_tokenizer(tmp_path / "run" / "output" / "model")
    assert exported.chat_template == tokenizer.chat_template == CHAT_TEMPLATE
    assert exported.get_vocab() == tokenizer.get_vocab()
    learned = read_records(tmp_path / "run" / "output" / "samples.jsonl", ScoredAnswer).records
    for answer in learned:
        best, other = prompts_under(exported, [(answer, ""), (answer, "Bad.\n")])
        assert best == render_prompt(exported, answer.prompt.messages) == answer.prompt_ids
        assert exported.decode(other) == f"Bad.\n<|user|>{answer.prompt.messages[0].content}<|assistant|>"


@both
@pytest.mark.parametrize("checkpoints", [1, 3])
def test_a_killed_run_ends_as_an_undisturbed_one(start, tmp_path, stage, checkpoints):
    expected = trained(stage, start, tmp_path / "whole")
    with pytest.raises(Killed):
        trained(stage, start, tmp_path / "cut", inside=lambda runtime: killed_after(runtime, checkpoints))
    assert trained(stage, start, tmp_path / "cut") == expected
    assert_close(weights(tmp_path / "cut"), weights(tmp_path / "whole"), rtol=0, atol=0)
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")


def test_a_run_killed_while_a_reward_answers_goes_on_to_the_same_end(start, tmp_path):
    calls = []

    def dies_once(prompts, responses):
        calls.append(len(responses))
        if len(calls) == 4:
            raise Killed
        return likes_a(prompts, responses)

    rewards = [(CallableReward(dies_once, "a"), 1.0)]
    expected = trained("hindsight", start, tmp_path / "whole")
    with pytest.raises(Exception, match=r"."):
        trained("hindsight", start, tmp_path / "cut", rewards)
    assert trained("hindsight", start, tmp_path / "cut", rewards) == expected
    assert_close(weights(tmp_path / "cut"), weights(tmp_path / "whole"), rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{}, {"packing": False}])
def test_neither_microbatches_nor_packing_change_what_is_learned(start, tmp_path, changes):
    found = []
    for rows, accumulation, packing in ((16, 1, {}), (2, 8, changes)):
        folder = tmp_path / f"{rows}"
        cut = dict(batch_size_per_device=rows, accumulation=accumulation)
        trained("hindsight", start, folder, loops=1, **cut, **packing)
        found.append(weights(folder))
    assert_close(*found, rtol=1e-4, atol=1e-5)


def answer(prompt, criteria, score=0.0):
    return ScoredAnswer(
        prompt=Prompt.user(prompt, prompt), response="a", prompt_ids=[ord(prompt)], response_ids=[0], finished=True,
        score=score, criteria=criteria, temperature=1.0, stage="hindsight",
    )  # fmt: skip


def test_bins_against_the_prompt_and_against_all_by_hand():
    # "x" is easy, "y" is hard; to "z" all answers are alike, and good
    prompts, scores = "xxyyzz", [9.0, 8.0, 1.0, 2.0, 10.0, 10.0]
    answers = [answer(prompt, {}) for prompt in prompts]
    assert bins_of(scores, answers, [0.5], "all") == [1, 0, 0, 0, 1, 1]
    assert bins_of(scores, answers, [0.5], "prompt") == [1, 0, 0, 1, 1, 1]
    # one answer a prompt: there is nothing to compare with but the others
    alone = [answer(prompt, {}) for prompt in "uvwxyz"]
    assert bins_of(scores, alone, [0.5], "prompt") == bins_of(scores, alone, [0.5], "all")


@both
def test_the_order_of_answers_changes_no_bin(stage):
    rng = random.Random(0)
    pairs = [(answer(rng.choice("xyz"), {}), float(rng.randint(0, 4))) for _ in range(40)]
    edges = [0.5] if stage == "hindsight" else [0.2, 0.4, 0.6, 0.8]
    order = rng.sample(range(40), 40)
    found = bins_of([score for _, score in pairs], [one for one, _ in pairs], edges, "prompt")
    shuffled = [pairs[i] for i in order]
    again = bins_of([score for _, score in shuffled], [one for one, _ in shuffled], edges, "prompt")
    assert again == [found[i] for i in order]


def test_an_answer_is_told_from_the_instructions_that_differ_in_one_criterion():
    config = HindsightConfig(poor_by="not {criterion};", against="all")
    criteria = [{"safe": 1.0, "kind": 1.0}, {"safe": 0.0, "kind": 1.0}, {"safe": 0.0, "kind": 0.0}]
    got = hindsight.relabel(config, [answer("x", one) for one in criteria], ["safe", "kind"])
    assert got == [
        ["", "not safe;", "not kind;"],
        ["not safe;", "", "not safe;not kind;"],
        ["not safe;not kind;", "not kind;", "not safe;"],
    ]
    without = config.model_copy(update={"alpha": 0.0})
    assert hindsight.relabel(without, [answer("x", one) for one in criteria], ["safe", "kind"]) == [
        each[:1] for each in got
    ]


def test_one_reward_has_two_instructions():
    answers = [answer("x", {"a": score}) for score in (3.0, 1.0, 2.0, 0.0)]
    got = hindsight.relabel(HindsightConfig(), answers, ["a"])
    good, poor = ["", "A poor answer.\n"], ["A poor answer.\n", ""]
    assert got == [good, poor, good, poor]
    few = hindsight.relabel(HindsightConfig(good_share=0.25), answers, ["a"])
    assert few == [good, poor, poor, poor]


def test_bins_have_texts_and_the_best_has_none():
    config = ConditionedConfig(bins=3, against="all")
    answers = [answer("x", {}, score) for score in (5.0, 1.0, 3.0)]
    assert conditioned.relabel(config, answers) == ["", "Quality 1 of 3.\n", "Quality 2 of 3.\n"]


def test_a_condition_shares_the_message_of_a_system_prompt():
    tokenizer = tiny_tokenizer()
    ensure_chat_template(tokenizer)
    turns = (Message(role="system", content="Be brief."), Message(role="user", content="Why?"))
    one = answer("x", {}).model_copy(update={"prompt": Prompt(id="x", messages=turns)})
    assert (
        tokenizer.decode(prompts_under(tokenizer, [(one, "Bad.\n")])[0]) == "Bad.\nBe brief.<|user|>Why?<|assistant|>"
    )


def test_a_template_without_system_messages_is_refused(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
    )
    start = saved(tiny_model("llama", scale=1.0), tokenizer, tmp_path / "start")
    with pytest.raises(ModelError, match="refuses a conversation of roles system, user"):
        trained("hindsight", start, tmp_path / "run", max_length=60)


def test_settings_without_effect_are_refused(start, tmp_path):
    for config, changes, message in [
        (HindsightConfig, {"merge": {"rule": "weighted_sum"}}, "merge has no effect"),
        (
            HindsightConfig,
            {"rewards": [dict(kind="callable", function="math:sqrt", weight=2.0)]},
            "a weight has no effect",
        ),
        (HindsightConfig, {"poor_by": "bad"}, "does not say by which reward"),
        (HindsightConfig, {"samples_per_prompt": 1, "against": "prompt"}, "against = prompt has no effect"),
        (ConditionedConfig, {"condition": "bad"}, "is the same for every bin"),
        (ConditionedConfig, {"merge": {"rule": "constraint", "helpful": "a", "safe": "b"}}, "with every update of ppo"),
    ]:
        with pytest.raises(ValidationError, match=message):
            config(**changes)
    with pytest.raises(ConfigError, match="hindsight.poor has no effect with 2 rewards"):
        trained("hindsight", start, tmp_path / "two", TWO)
    with pytest.raises(ConfigError, match="hindsight.poor_by has no effect with one reward"):
        trained("hindsight", start, tmp_path / "one", poor_by="{criterion}")
    with pytest.raises(ConfigError, match=r"a prompt under 'dddddddddd.*' with max_new_tokens = 3 may take 27 tokens"):
        trained("hindsight", start, tmp_path / "long", poor="d" * 20)
