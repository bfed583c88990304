"""DPO and IPO: a tiny policy comes to prefer, and to write, what people chose."""

import json
import math
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from loopwright.data.readers import write_records
from loopwright.errors import CheckError, ConfigError, DataError
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Message, Prompt, Ranking, Rating, Thumb
from loopwright.stages import dpo
from loopwright.stages.dpo import DPOConfig, DPOInputs
from loopwright.training.judged_groups import Group, Pair, as_continuations
from loopwright.training.log_ratios import Answered, AnsweredBatch, LogRatios, Row
from loopwright.training.preference_pairs import labels_of, pairs_of
from tests.letters import LETTERS, distribution, letters_model
from tests.stages.letter_writer import letters_written, writer
from tests.stages.test_pretrain import Killed, killed_after
from tests.stages.test_reward import comparisons

SETTINGS = dict(learning_rate=3e-3, batch_size_per_device=16, max_length=40, save_steps=5, log_steps=5)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return writer(tmp_path_factory.mktemp("policy"))


def train(folder, policy, said, **settings):
    runtime = Runtime.temporary(folder, stage="dpo", seed=1)
    runtime.seed_everything()
    given = said if isinstance(said, dict) else {"comparisons": said}
    metrics = dpo.run(DPOConfig(**(SETTINGS | settings)), DPOInputs(policy, given), runtime).metrics
    return metrics, runtime.output / "model"


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_it_learns_and_writes_what_people_prefer(policy, tmp_path):
    metrics, model = train(tmp_path, policy, comparisons(400))
    assert metrics["held_out_accuracy"] > 0.9 and metrics["held_out_loss"] < 0.6 < metrics["held_out_loss_before"]
    assert metrics["held_out_loss_before"] == pytest.approx(math.log(2))
    margin = metrics["held_out_reward_chosen"] - metrics["held_out_reward_rejected"]
    assert metrics["held_out_margin"] == pytest.approx(margin, abs=1e-5) and margin > 0.2
    assert metrics["held_out_ranking_accuracy"] > 0.8 > 0.6 > metrics["held_out_ranking_accuracy_before"]
    ties = sum(one.choice is None for one in comparisons(400))
    assert metrics["pairs"] + metrics["pairs_held_out"] + ties == 400 and metrics["ties"] == ties
    before, after = letters_written(policy), letters_written(model)
    assert before["y"] < 0.35 and after["y"] > 0.7 and after["finished"] == 1.0
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "accuracy", "margin", "reward_chosen", "reward_rejected"} <= set(lines[0])


def test_adapters_learn_over_a_base_that_stays(policy, tmp_path):
    before = weights(policy)
    metrics, model = train(tmp_path, policy, comparisons(400), trainable={"mode": "lora", "lora": {"r": 4}})
    assert metrics["held_out_accuracy"] > 0.8 and metrics["held_out_loss"] < metrics["held_out_loss_before"]
    assert letters_written(model)["y"] > 0.45
    after = weights(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and not any("embed" in name or "norm" in name for name in changed)
    assert all(torch.equal(before[name], weights(policy)[name]) for name in before)


def test_how_a_step_is_cut_does_not_matter(policy, tmp_path):
    once, whole = train(tmp_path / "whole", policy, comparisons(100), batch_size_per_device=8)
    eight, pieces = train(tmp_path / "pieces", policy, comparisons(100), batch_size_per_device=1, accumulation=8)
    assert once["steps"] == eight["steps"] > 5
    assert_close(weights(whole), weights(pieces), rtol=1e-3, atol=1e-4)
    for name in ("held_out_loss", "held_out_margin"):
        assert once[name] == pytest.approx(eight[name], abs=1e-3)


@pytest.mark.parametrize(
    "settings", [{}, {"trainable": {"mode": "lora", "lora": {"dropout": 0.1}}}], ids=["all", "lora"]
)
def test_a_resumed_run_is_the_undisturbed_run_to_the_bit(policy, tmp_path, settings):
    said, config = comparisons(200), DPOConfig(**(SETTINGS | settings))
    expected, whole = train(tmp_path / "whole", policy, said, **settings)
    with pytest.raises(Killed):
        killed = killed_after(Runtime.temporary(tmp_path / "killed", stage="dpo", seed=1), 1)
        killed.seed_everything()
        dpo.run(config, DPOInputs(policy, {"comparisons": said}), killed)
    got, resumed = train(tmp_path / "killed", policy, said, **settings)
    assert got == expected and expected["steps"] > 5
    assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def said_of(rows, *pairs):
    """A prompt of one token with responses of so many tokens each, and pairs of these."""
    ids = [[1] + [2] * row for row in rows]
    responses = ["x" * row for row in rows]
    return Group("q", (), responses=responses, pairs=list(pairs), prompt_ids=[1], rows=ids)


@pytest.mark.parametrize(
    ("settings", "first", "second"),
    [
        ({}, math.log1p(math.exp(-1)), 0.75 * math.log1p(math.exp(2)) + 0.25 * math.log1p(math.exp(-2))),
        ({"loss": "ipo"}, (2 - 1) ** 2, 0.75 * (-4 - 1) ** 2 + 0.25 * (-4 + 1) ** 2),
    ],
)
def test_a_microbatch_by_hand(settings, first, second):
    """Pairs are summed by their weights, and a soft label is soft in either loss; beta h is 1 and -2."""
    pairs = [Pair(0, 1, 0, weight=0.5), Pair(2, 3, 0, probability=0.75, weight=2.0)]
    groups = [said_of([1, 1, 1, 1], *pairs)]
    micro = AnsweredBatch(None, pairs_of(groups, {}), labels_of(groups))
    ratios = SimpleNamespace(of=lambda _: torch.tensor([3.0, 1.0, 0.0, 4.0]))
    found = dpo.loss(ratios, DPOConfig(beta=0.5, **settings), micro)
    assert float(found.total) == pytest.approx(0.5 * first + 2 * second)
    assert found.count == 2.5
    assert found.stats["accuracy"] == 0.5 and found.stats["margin"] == pytest.approx(0.5 * 1 + 2 * -2)


def test_which_answer_is_likelier_is_asked_of_whole_answers():
    """Means over tokens are log-ratios of rewards, and no probabilities: -5 + 1.5 is less than -4 + 4 * 0.2."""
    group = said_of([1, 4], Pair(0, 1, 0))
    references = (torch.tensor([-5.0]), torch.full((4,), -1.0))
    rows = [Row(ids, 1, known) for ids, known in zip(group.rows, references, strict=True)]
    ratios = SimpleNamespace(of_rows=lambda _: torch.tensor([1.5, 0.2]))
    found = dpo.assess(ratios, [Answered(group, rows, [])], DPOConfig(per_token=True))
    assert found["held_out_ranking_accuracy"] == 0.0 and found["held_out_accuracy"] == 1.0


def test_a_policy_that_reads_otherwise_than_its_reference_is_not_trained(policy, tmp_path, monkeypatch):
    read = LogRatios.of_rows
    monkeypatch.setattr(LogRatios, "of_rows", lambda self, rows: read(self, rows) + 0.5)
    with pytest.raises(CheckError, match="before training, policy and reference differ"):
        train(tmp_path, policy, comparisons(20))


def test_ipo_stops_at_its_margin_where_dpo_goes_on(policy, tmp_path):
    """beta (h) = 1/2 is where eq. 17 has its minimum; the sigmoid has none."""
    said = [one for one in comparisons(120) if one.choice is not None][:40]
    settings = dict(held_out_share=0, epochs=60, schedule="constant", batch_size_per_device=40)
    margins = {}
    for loss in ("ipo", "sigmoid"):
        train(tmp_path / loss, policy, said, loss=loss, **settings)
        lines = (tmp_path / loss / "metrics.jsonl").read_text().splitlines()
        margins[loss] = json.loads(lines[-1])["margin"]
    assert margins["ipo"] == pytest.approx(0.5, abs=0.05) and margins["sigmoid"] > 2


def test_smoothed_labels_hold_the_margin(policy, tmp_path):
    said = [one for one in comparisons(120) if one.choice is not None][:40]
    settings = dict(held_out_share=0, epochs=60, schedule="constant", batch_size_per_device=40)
    train(tmp_path, policy, said, label_smoothing=0.2, **settings)
    margin = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["margin"]
    assert margin == pytest.approx(math.log(0.8 / 0.2), abs=0.3)


def test_rankings_ratings_and_corrections_are_pairs(policy, tmp_path):
    ask = [(Message(role="user", content=f"R{i}"),) for i in range(30)]
    rankings = [Ranking(id=f"r{i}", prompt=ask[i], responses=("yyy", "yn", "n"), ranks=(1, 2, 2)) for i in range(20)]
    ratings = [
        Rating(id=f"s{i}{text}", prompt=ask[i], responses=(text,), scores={"good": score}, higher_is_better=True)
        for i in range(20, 30)
        for text, score in (("yy", 3), ("n", 1))
    ]
    given = {"rankings": rankings, "ratings": ratings}
    for by, steps in (("prompt", 2), ("pair", 2)):
        settings = dict(judgements={"weigh_by": by}, held_out_share=0, kinds=("rankings", "ratings"))
        metrics, _ = train(tmp_path / by, policy, given, **settings)
        assert metrics["pairs"] == 20 * 2 + 10 and metrics["ties"] == 20 and metrics["steps"] == steps
        line = json.loads((tmp_path / by / "metrics.jsonl").read_text().splitlines()[-1])
        assert f"{by}s_per_second" in line


def test_the_best_of_a_ranking_is_reached_whatever_order_rows_come_in(policy, tmp_path):
    said = comparisons(60)
    swapped = [one.swap() if i % 2 else one for i, one in enumerate(said)]
    first, second = (train(tmp_path / str(i), policy, given)[1] for i, given in enumerate((said, swapped)))
    assert_close(weights(first), weights(second), rtol=1e-3, atol=1e-4)  # which of two stands first says nothing


def test_the_best_policy_of_eq_4_is_reached(tmp_path):
    """pi_ref exp(r / beta), from all pairs of short answers, as Bradley and Terry judge their rewards r."""
    start, ask, beta = letters_model(tmp_path / "start"), Prompt.user("p", LETTERS), 0.5
    texts, reference = distribution(start, ask, 3)
    answers = [text for text in texts if 1 <= len(text) <= 2]
    rewards = torch.randn(len(answers), generator=torch.Generator().manual_seed(0)).double()
    said = []
    for a, b in combinations(range(len(answers)), 2):
        chance = float(torch.sigmoid(rewards[a] - rewards[b]))
        pair = dict(responses=(answers[a], answers[b]), choice=int(chance < 0.5), probability=chance)
        said.append(Comparison(id=f"{a}-{b}", prompt=ask.messages, **pair))
    settings = dict(beta=beta, held_out_share=0, max_steps=150, learning_rate=1e-2, schedule="cosine", save_steps=200)
    _, model = train(tmp_path, start, said, **settings)

    places = [texts.index(text) for text in answers]
    before, after = (
        probabilities[places].log().log_softmax(0) for probabilities in (reference, distribution(model, ask, 3)[1])
    )
    best = (before + rewards / beta).log_softmax(0)
    kl = [float((policy.exp() * (policy - best)).sum()) for policy in (before, after)]
    assert kl[0] > 0.5 and kl[1] < 0.01


def test_per_token_rewards_are_means_over_tokens(policy, tmp_path):
    """Of IPO, whose margin says where it stopped: in nats a token, and not in nats."""
    said = [one for one in comparisons(120) if one.choice is not None][:40]
    train(tmp_path, policy, said, loss="ipo", per_token=True, beta=1.0, held_out_share=0, epochs=60,
          schedule="constant", batch_size_per_device=40)  # fmt: skip
    start, end = (load_causal_lm(folder) for folder in (policy, tmp_path / "output" / "model"))
    tokenizer = load_tokenizer(policy)
    data = [Group(one.id, one.prompt, responses=list(one.responses)) for one in said]
    as_continuations(data, tokenizer, append_eos=True)
    known = LogRatios(start, tokenizer).remember(data)
    found = LogRatios(end, tokenizer, per_token=True).of_rows([row for one in known for row in one.rows])
    chosen = torch.tensor([one.choice for one in said])
    first, second = found.view(-1, 2).unbind(1)
    assert float(torch.where(chosen == 0, first - second, second - first).mean()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing has no effect with loss = ipo"),
        ({"label_smoothing": 0.5}, "less than 0.5"),
        ({"kinds": ["thumbs"]}, "Input should be 'comparisons', 'rankings', 'ratings' or 'corrections'"),
        ({"beta": 0}, "greater than 0"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DPOConfig(**settings)


def test_what_finds_nothing_to_act_on_is_refused(policy, tmp_path):
    said = comparisons(40)
    with pytest.raises(ConfigError, match="dpo.judgements.criterion = kind has no effect: nothing was judged by it"):
        train(tmp_path, policy, said, judgements={"criterion": "kind"})
    with pytest.raises(ConfigError, match="dpo.kinds names ratings, but none were given"):
        train(tmp_path, policy, said, kinds=["comparisons", "ratings"])
    thumb = Thumb(id="t", prompt=said[0].prompt, responses=("y",), good=True)
    with pytest.raises(ConfigError, match="dpo learns nothing from thumbs, only from comparisons, rankings"):
        train(tmp_path, policy, {"comparisons": said, "thumbs": [thumb]})
    with pytest.raises(ConfigError, match="dpo.max_length = 400 is longer than the model's context of 64"):
        train(tmp_path, policy, said, max_length=400)
    with pytest.raises(DataError, match="answers no prompt"):
        train(tmp_path, policy, comparisons(10, prompts=False))
    with pytest.raises(ValueError, match="eval_steps has no effect with held_out_share = 0"):
        train(tmp_path, policy, said, eval_steps=2, held_out_share=0)


def test_inputs_come_from_paths_where_no_stage_makes_them(policy, tmp_path):
    write_records(tmp_path / "comparisons.jsonl", comparisons(40))
    with (tmp_path / "comparisons.jsonl").open("a") as file:
        file.write('{"id": "x"}\n')
    config = DPOConfig(policy=policy, feedback=tmp_path, kinds=("comparisons",), **SETTINGS)
    runtime = Runtime.temporary(tmp_path / "run", stage="dpo")
    metrics = dpo.run(config, dpo.bind(config, {}), runtime).metrics
    assert metrics["bad_rows"] == 1 and (runtime.output / "bad_comparisons.jsonl").is_file()
    assert dpo.files(config) == [policy, tmp_path]
    unnamed = DPOConfig(policy=policy, feedback=tmp_path)  # the folder of an import that brought comparisons alone
    assert dpo.bind(unnamed, {}).judgements == {"comparisons": (tmp_path / "comparisons.jsonl",)}
    named = unnamed.model_copy(update={"kinds": ("comparisons", "ratings")})
    with pytest.raises(ConfigError, match=r"has no ratings.jsonl, but comparisons; name what to train on in dpo.kinds"):
        dpo.bind(named, {})
    with pytest.raises(ConfigError, match=r"dpo.feedback = .*comparisons.jsonl is a file and not a folder of"):
        dpo.bind(unnamed.model_copy(update={"feedback": tmp_path / "comparisons.jsonl"}), {})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty has no comparisons.jsonl, nor a file of other judgements; correct"):
        dpo.bind(unnamed.model_copy(update={"feedback": tmp_path / "empty"}), {})
    with pytest.raises(ConfigError, match="dpo has no feedback; add a feedback section, or set dpo.feedback"):
        dpo.bind(DPOConfig(policy=policy), {})
    with pytest.raises(ConfigError, match="dpo has no policy; add an sft section"):
        dpo.bind(DPOConfig(feedback=tmp_path), {})
    with pytest.raises(ConfigError, match="dpo.earlier_rounds_weight has no effect without rounds"):
        dpo.bind(config.model_copy(update={"earlier_rounds_weight": 0.5}), {})
