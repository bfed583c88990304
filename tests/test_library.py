"""The calls on a model in memory: the README's example, on a tiny model."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import loopwright
from loopwright.errors import ConfigError, DataError, RequirementError
from loopwright.rewards import CallableReward, MergeConfig, Merged
from loopwright.schemas import Comparison, Correction, Message, Ranking, Rating, Thumb
from tests.tiny import saved, tiny_model, tiny_tokenizer

QUESTIONS = [f"Is {number} even?" for number in range(24)]
SHORT = {"max_length": 64, "batch_size_per_device": 8, "max_steps": 3}
PPO = {"steps": 2, "rollouts_per_step": 8, "minibatch_size": 4, "max_new_tokens": 6, "learning_rate": 1e-3}


def brief(prompts: list[str], responses: list[str]) -> list[float]:
    return [-float(len(response)) for response in responses]


def test_from_a_model_in_memory_to_an_aligned_one():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    tuned = loopwright.sft(model, tokenizer, [(q, "yes") for q in QUESTIONS], **SHORT)
    pairs = [(q, "yes", "no, sorry") for q in QUESTIONS]
    judge, metrics = loopwright.reward_model(tuned.model, tuned.tokenizer, pairs, **SHORT)
    aligned = loopwright.ppo(tuned.model, tuned.tokenizer, QUESTIONS, [(judge, 1.0), (brief, 0.1)], **PPO)

    assert metrics["pairs"] > 0
    assert aligned.metrics["responses_sampled"] == 16
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for earlier, later in ((model, tuned.model), (tuned.model, aligned.model)):
        old, new = earlier.state_dict(), later.state_dict()
        assert any(not torch.equal(old[n], new[n]) for n in old if old[n].shape == new[n].shape)


def test_from_opinions_to_a_better_model_without_a_reward_model():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pairs = [(q, "yes", "no, sorry") for q in QUESTIONS]
    preferred = loopwright.dpo(model, tokenizer, pairs, **SHORT | {"learning_rate": 1e-3, "max_steps": 10})
    assert preferred.metrics["pairs"] > 0 and preferred.metrics["held_out_accuracy"] == 1.0
    thumbs = [(q, answer, answer == "yes") for q in QUESTIONS for answer in ("yes", "no, sorry")]
    liked = loopwright.kto(model, tokenizer, thumbs, **SHORT | {"learning_rate": 1e-3, "max_steps": 10})
    assert liked.metrics["thumbs"] > 0 and liked.metrics["held_out_auc"] == 1.0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    again = loopwright.kto(model, tokenizer, thumbs, **SHORT | {"learning_rate": 1e-3, "max_steps": 10})
    assert again.metrics == liked.metrics
    for answers, wanted in ((pairs, "thumbs"), (thumbs, "comparisons")):
        call = loopwright.kto if wanted == "thumbs" else loopwright.dpo
        with pytest.raises(DataError, match=rf"{wanted}\[0\] is \('Is 0 even"):
            call(model, tokenizer, answers, **SHORT)


def test_one_function_is_a_reward_and_the_same_call_gives_the_same_model():
    first, second = (loopwright.ppo(tiny_model("gpt2"), tiny_tokenizer(), QUESTIONS, brief, **PPO) for _ in range(2))
    weights, again = first.model.state_dict(), second.model.state_dict()
    assert all(torch.equal(weights[name], again[name]) for name in weights)


OWN = {"samples_per_prompt": 4, "max_new_tokens": 4, "max_length": 32, "held_out_prompts": 6, "learning_rate": 1e-3}


RELABELLED = {"loops": 1, "max_length": 64}


@pytest.mark.parametrize(
    "method,more", [("rejection", {}), ("rest", {}), ("hindsight", RELABELLED), ("conditioned", RELABELLED)]
)
def test_a_model_learns_from_its_own_answers(method, more):
    settings = OWN | more
    learned = getattr(loopwright, method)(tiny_model("llama"), tiny_tokenizer(), QUESTIONS, [(brief, 1.0)], **settings)
    assert learned.metrics["answers"] == 4 * (len(QUESTIONS) - learned.metrics["held_out_prompts"])
    old, new = tiny_model("llama").state_dict(), learned.model.state_dict()
    assert any(not torch.equal(old[name], new[name]) for name in old if name in new)
    with pytest.raises(ConfigError, match="unknown key samples_per_promt; did you mean"):
        getattr(loopwright, method)(tiny_model("llama"), tiny_tokenizer(), QUESTIONS, brief, samples_per_promt=4)


def test_the_best_of_n_answers_is_given():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] *= 3.0
    one, few, many = (
        loopwright.best_of(model, tokenizer, QUESTIONS, brief, n=n, max_new_tokens=12) for n in (1, 4, 16)
    )
    assert all(picked.score == picked.mean_score == -len(picked.response) for picked in one)
    for less, more in ((one, few), (few, many)):  # the more answers, the better the best of them
        for a, b in zip(less, more, strict=True):
            assert (b.finished, b.score) >= (a.finished, a.score)
    assert sum(picked.score for picked in many) > sum(picked.score for picked in one)
    alone = loopwright.best_of(model, tokenizer, QUESTIONS[:1], brief, n=4, max_new_tokens=12)
    assert alone == few[:1]  # whatever else is asked
    other = loopwright.best_of(model, tokenizer, QUESTIONS, brief, n=1, max_new_tokens=12, seed=1)
    assert [picked.response for picked in other] != [picked.response for picked in one]
    with pytest.raises(ConfigError, match="n = 0 leaves no answer"):
        loopwright.best_of(model, tokenizer, QUESTIONS, brief, n=0)
    with pytest.raises(ConfigError, match="did you mean"):
        loopwright.best_of(model, tokenizer, QUESTIONS, brief, temperatur=0.5)
    with pytest.raises(ConfigError, match="n = 4 has no effect with temperature = 0"):
        loopwright.best_of(model, tokenizer, QUESTIONS, brief, n=4, temperature=0)
    assert loopwright.best_of(model, tokenizer, QUESTIONS[:1], brief, n=1, temperature=0, max_new_tokens=2)


def test_an_answer_without_end_is_given_only_where_none_ends():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] *= 3.0

    def finished(reward, n):
        return [one.finished for one in loopwright.best_of(model, tokenizer, QUESTIONS, reward, n=n, max_new_tokens=6)]

    def long(prompts, responses):
        return [float(len(response)) for response in responses]

    assert finished(long, 8) == finished(brief, 8) and sum(finished(long, 8)) > sum(finished(long, 1))


def test_best_of_warns_of_a_model_that_it_samples_from_slowly():
    with pytest.warns(
        UserWarning, match="sampling through transformers, which is slower: granite models are not among"
    ):
        loopwright.best_of(tiny_model("granite"), tiny_tokenizer(), QUESTIONS[:1], brief, n=1, max_new_tokens=2)


def judged(kind, number, responses, **said):
    return kind(id=str(number), prompt=(Message(role="user", content=QUESTIONS[number]),), responses=responses, **said)


def test_what_was_said_in_other_ways_teaches_too():
    """Each record by its kind: a ranking of three is three pairs, of two rated answers one, of a correction one."""
    model, tokenizer, settings = tiny_model("llama"), tiny_tokenizer(), SHORT | {"held_out_share": 0.0}
    scale = {"scale_high": 5, "higher_is_better": True, "annotator": "one"}
    said = [
        judged(Comparison, 0, ("yes", "no"), choice=0),
        judged(Ranking, 1, ("yes", "no", "maybe"), ranks=(1, 2, 3)),
        judged(Rating, 2, ("yes",), scores={"overall": 5}, **scale),
        judged(Rating, 2, ("no",), scores={"overall": 1}, **scale),
        judged(Correction, 3, ("no",), edited="yes"),
    ]
    assert loopwright.dpo(model, tokenizer, said, **settings).metrics["pairs"] == 6
    assert loopwright.reward_model(model, tokenizer, said, **settings)[1]["pairs"] == 6
    liked = [*said, judged(Thumb, 4, ("yes",), good=True)]
    assert loopwright.kto(model, tokenizer, liked, **settings).metrics["thumbs"] == 2 * 5 + 2 + 1
    with pytest.raises(
        DataError, match=r"comparisons\[5\] is Thumb.*; give a Comparison, Ranking, Rating, Correction or"
    ):
        loopwright.dpo(model, tokenizer, liked, **settings)


PAIRS, THUMBS = [(q, "yes", "no") for q in QUESTIONS], [(q, "yes", True) for q in QUESTIONS]


@pytest.mark.parametrize(
    ("method", "given", "setting"),
    [
        ("sft", ([(q, "yes") for q in QUESTIONS],), {"max_bad_share": 0.1}),
        ("reward_model", (PAIRS,), {"kinds": ["rankings"]}),
        ("dpo", (PAIRS,), {"policy": "elsewhere"}),
        ("dpo", (PAIRS,), {"kinds": ["comparisons"]}),
        ("kto", (THUMBS,), {"feedback": "elsewhere"}),
        ("kto", (THUMBS,), {"earlier_rounds_weight": 0.5}),
        ("ppo", (QUESTIONS, brief), {"reward": "elsewhere"}),
        ("grpo", (QUESTIONS, brief), {"policy": "elsewhere"}),
        ("rejection", (QUESTIONS, brief), {"reward": "elsewhere"}),
        ("hindsight", (QUESTIONS, brief), {"policy": "elsewhere"}),
    ],
)
def test_settings_that_only_a_recipe_uses_are_refused(method, given, setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))} has no effect on what is given in memory"):
        getattr(loopwright, method)(tiny_model("llama"), tiny_tokenizer(), *given, **setting)


@pytest.mark.parametrize(
    ("method", "given", "settings", "figure"),
    [
        ("reward_model", (PAIRS,), SHORT, "pairs"),
        ("dpo", (PAIRS,), SHORT, "pairs"),
        ("rloo", (QUESTIONS, brief), PPO | {"samples_per_prompt": 2}, "steps"),
    ],
)
def test_bars_hold_in_memory_as_in_a_recipe(method, given, settings, figure):
    call, settings = getattr(loopwright, method), settings | {"require": {figure: {"max": 1}}}
    with pytest.raises(RequirementError, match=rf"require\.{figure}: got \d+, above the required max 1"):
        call(tiny_model("llama"), tiny_tokenizer(), *given, **settings)


def test_raw_text_is_mixed_into_fine_tuning(tmp_path):
    (tmp_path / "text.txt").write_text("the pool is open\n\nthe gym is not\n" * 20)
    tuned, pairs = {}, [(q, "yes") for q in QUESTIONS]
    for weight in (0.1, 1.0):
        mixed = {"text": tmp_path / "text.txt", "lm_loss_coef": weight}
        tuned[weight] = loopwright.sft(
            tiny_model("llama"), tiny_tokenizer(), pairs, **SHORT, **mixed
        ).model.state_dict()
    assert any(not torch.equal(tuned[0.1][name], tuned[1.0][name]) for name in tuned[0.1])


def test_a_misspelt_setting_is_named():
    with pytest.raises(ConfigError, match="did you mean"):
        loopwright.sft(tiny_model("llama"), tiny_tokenizer(), [], learning_rat=1.0)


def test_a_path_in_the_place_of_a_model_is_named():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    pairs = [("Is it open?", "Yes.", "No idea.")]
    with pytest.raises(ConfigError, match=r"model is 'my-model'; load one with transformers.AutoModelForCausalLM"):
        loopwright.dpo("my-model", tokenizer, pairs)
    with pytest.raises(ConfigError, match=r"tokenizer is None; load one with transformers.AutoTokenizer"):
        loopwright.dpo(model, None, pairs)


def test_two_functions_without_names_are_two_rewards():
    once = loopwright.ppo(tiny_model("llama"), tiny_tokenizer(), QUESTIONS, brief, **PPO)
    halves = [(lambda prompts, responses: brief(prompts, responses), 0.5)] * 2
    twice = loopwright.ppo(tiny_model("llama"), tiny_tokenizer(), QUESTIONS, halves, **PPO)
    assert twice.metrics["score"] == pytest.approx(once.metrics["score"])


def test_the_watch_looks_with_rewards_in_memory():
    seen = []

    def long(prompts, responses):
        seen.append(len(responses))
        return [float(len(response)) for response in responses]

    watch = {"every_steps": 1, "patience": 1}
    model, tokenizer, asked = tiny_model("llama"), tiny_tokenizer(), [f"say {i}" for i in range(16)]
    settings = PPO | {"watch": watch, "held_out_prompts": 6}
    found = loopwright.ppo(model, tokenizer, asked, brief, held_out_rewards=[long], **settings)
    assert len(seen) >= 2 and min(seen) == max(seen) >= 2  # the same held-out prompts, before the first step and after
    assert found.metrics["watch"]["saved"]["watch_held_out_se"] > 0
    with pytest.raises(ConfigError, match="have no effect without ppo.watch"):
        loopwright.ppo(model, tokenizer, asked, brief, held_out_rewards=[long], **PPO)


def test_a_folder_keeps_calls_apart(tmp_path):
    model, tokenizer, pairs = tiny_model("llama"), tiny_tokenizer(), [(q, "yes") for q in QUESTIONS]
    first = loopwright.sft(model, tokenizer, pairs, folder=tmp_path, learning_rate=1e-3, **SHORT).model.state_dict()
    again = loopwright.sft(model, tokenizer, pairs, folder=tmp_path, learning_rate=1e-3, **SHORT).model.state_dict()
    other = loopwright.sft(model, tokenizer, pairs, folder=tmp_path, learning_rate=1e-2, **SHORT).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    loopwright.ppo(model, tokenizer, QUESTIONS, brief, folder=tmp_path, **PPO)


@pytest.mark.parametrize(
    ("demonstrations", "message"),
    [
        ([], r"demonstrations is \[\]; give a list of at least one Demonstration or pair \(prompt, response\)"),
        ("yes", "demonstrations is 'yes'; give a list"),
        ([("q", "a"), ("q", "a", "b")], r"demonstrations\[1\] is \('q', 'a', 'b'\); give a Demonstration or pair"),
        ([("q", 3)], r"demonstrations\[0\] is \('q', 3\)"),
        (["q"], r"demonstrations\[0\] is 'q'"),
    ],
)
def test_demonstrations_that_are_none_are_named(demonstrations, message):
    with pytest.raises(DataError, match=message):
        loopwright.sft(tiny_model("llama"), tiny_tokenizer(), demonstrations, **SHORT)


def test_comparisons_and_prompts_that_are_none_are_named():
    with pytest.raises(DataError, match=r"comparisons\[0\] is \('q', 'a'\); give a Comparison, .*, Attack or triple"):
        loopwright.reward_model(tiny_model("llama"), tiny_tokenizer(), [("q", "a")], **SHORT)
    with pytest.raises(DataError, match="prompts is 'one'; give a list of at least one Prompt or text"):
        loopwright.ppo(tiny_model("llama"), tiny_tokenizer(), "one", brief, **PPO)


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ([], "rewards is empty; give at least one reward"),
        (3, r"rewards\[0\] is \(3, 1\.0\); give \(reward, weight\), the reward a RewardModel or a function"),
        ([brief], r"rewards\[0\] is <function brief"),
        ([(brief, 1.0), (brief, "much")], r"rewards\[1\] is \(<function brief"),
    ],
)
def test_rewards_that_are_none_are_named(rewards, message):
    with pytest.raises(ConfigError, match=message):
        loopwright.ppo(tiny_model("llama"), tiny_tokenizer(), QUESTIONS, rewards, **PPO)


def test_the_example_of_the_readme_runs_and_is_short(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    assert sum(1 for line in example.splitlines() if line.strip()) < 15
    for written, small in (
        ("steps=200", "steps=2, kl_horizon=20, rollouts_per_step=8, minibatch_size=4, max_new_tokens=6"),
        ('("When do you open?", "At nine."), ...]', "(q, 'yes') for q in QUESTIONS]"),
        ('("When do you open?", "At nine.", "No idea."), ...]', "(q, 'yes', 'no, sorry') for q in QUESTIONS]"),
        ('"Where is the pool?", ...]', "*QUESTIONS]"),
    ):
        assert written in example
        example = example.replace(written, small)
    model = tiny_model("llama")
    model.config.max_position_embeddings = 512
    saved(model, tiny_tokenizer(), tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    exec(example, {"QUESTIONS": QUESTIONS})
    assert AutoModelForCausalLM.from_pretrained("aligned").config.model_type == "llama"


def test_rewards_are_merged_as_they_say_or_as_the_settings_say():
    def long(prompts, responses):
        return [0.1 * len(response) for response in responses]

    def scores(rewards, **settings):
        found = loopwright.ppo(tiny_model("llama"), tiny_tokenizer(), QUESTIONS, rewards, **PPO, **settings).metrics
        return {name: value for name, value in found.items() if name.startswith("score")}

    rewards = [CallableReward(brief, "brief"), CallableReward(long, "long")]
    merged = scores(Merged([(reward, 1.0) for reward in rewards], MergeConfig(rule="worst")))
    assert merged == scores([(brief, 1.0), (long, 1.0)], merge={"rule": "worst"})
    assert merged["score"] <= min(merged["score_brief"], merged["score_long"]) + 1e-6


def test_the_reference_is_the_model_as_given_or_the_one_in_a_folder(tmp_path):
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    other = saved(tiny_model("llama", seed=7), tokenizer, tmp_path / "other")
    near = loopwright.ppo(model, tokenizer, QUESTIONS, brief, **PPO | {"steps": 1})
    far = loopwright.ppo(model, tokenizer, QUESTIONS, brief, reference=other, **PPO | {"steps": 1})
    assert abs(near.metrics["kl"]) < 1e-4 and abs(far.metrics["kl"]) > 1e-3
    with pytest.raises(ConfigError, match="name a folder"):
        loopwright.ppo(model, tokenizer, QUESTIONS, brief, reference="start", **PPO)
