"""KTO: a tiny policy comes to write what people like, from thumbs alone, and from pairs taken apart."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from loopwright.data.readers import write_records
from loopwright.errors import CheckError, ConfigError, DataError
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Correction, Message, Rating, Thumb
from loopwright.stages import kto
from loopwright.stages.kto import KTOConfig, KTOInputs
from loopwright.training.judged_groups import Group, Labelled
from loopwright.training.log_ratios import AnsweredBatch, LogRatios
from loopwright.training.preference_pairs import labels_of, pairs_of
from tests.stages.letter_writer import letters_written, writer
from tests.stages.test_pretrain import Killed, killed_after
from tests.stages.test_reward import comparisons

SETTINGS = dict(learning_rate=3e-3, batch_size_per_device=16, max_length=40, save_steps=5, log_steps=5)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return writer(tmp_path_factory.mktemp("policy"))


def thumbs(count, *, least=2, seed=0):
    """Answers with so many letters y are liked."""
    rng = random.Random(seed)
    texts = ["".join(rng.choice("nyo ") for _ in range(6)) for _ in range(count)]
    asked = [(Message(role="user", content=f"Q{i}"),) for i in range(count)]
    return [
        Thumb(id=str(i), prompt=prompt, responses=(text,), good=text.count("y") >= least)
        for i, (prompt, text) in enumerate(zip(asked, texts, strict=True))
    ]


def train(folder, policy, given, **settings):
    runtime = Runtime.temporary(folder, stage="kto", seed=1)
    runtime.seed_everything()
    given = given if isinstance(given, dict) else {"thumbs": given}
    metrics = kto.run(KTOConfig(**(SETTINGS | settings)), KTOInputs(policy, given), runtime).metrics
    return metrics, runtime.output / "model"


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_it_learns_and_writes_what_people_like(policy, tmp_path):
    metrics, model = train(tmp_path, policy, thumbs(500), epochs=2)
    assert metrics["thumbs"] + metrics["thumbs_held_out"] == 500 and metrics["held_out_loss"] < 0.45
    assert metrics["held_out_auc"] > 0.75 and 0 <= metrics["held_out_thumb_accuracy"] <= 1
    assert metrics["held_out_reward_desirable"] > metrics["held_out_reward_undesirable"] + 0.2
    before, after = letters_written(policy), letters_written(model)
    assert before["y"] < 0.35 and after["y"] > 0.6 and after["finished"] > 0.95
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "accuracy", "kl", "log_ratio"} <= set(lines[0])
    liked = sum(one.good for one in thumbs(500))
    assert metrics["balance"] == pytest.approx(liked / (500 - liked), rel=0.1)


def test_pairs_taken_apart_teach_the_same(policy, tmp_path):
    metrics, model = train(tmp_path, policy, {"comparisons": comparisons(400)}, kinds=("comparisons",))
    ties = sum(one.choice is None for one in comparisons(400))
    assert metrics["thumbs"] + metrics["thumbs_held_out"] == 2 * (400 - ties) and metrics["balance"] == 1.0
    assert metrics["held_out_accuracy"] > 0.9 and metrics["held_out_margin"] > 0.2
    assert letters_written(model)["y"] > 0.6


def test_adapters_learn_over_a_base_that_stays(policy, tmp_path):
    lora = {"mode": "lora", "lora": {"r": 4}}
    metrics, model = train(tmp_path, policy, {"comparisons": comparisons(400)}, trainable=lora)
    assert metrics["held_out_accuracy"] > 0.8 and letters_written(model)["y"] > 0.45


def test_how_a_step_is_cut_does_not_matter(policy, tmp_path):
    """The baseline is of the whole step, and not of a microbatch: one row alone would have none."""
    whole, first = train(tmp_path / "whole", policy, thumbs(100), batch_size_per_device=8)
    pieces, second = train(tmp_path / "pieces", policy, thumbs(100), batch_size_per_device=1, accumulation=8)
    assert whole["steps"] == pieces["steps"] > 5
    assert_close(weights(first), weights(second), rtol=1e-3, atol=1e-4)
    lines = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[0]) for name in ("whole", "pieces")
    ]
    assert lines[0]["kl"] == pytest.approx(lines[1]["kl"], abs=1e-4)
    assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], abs=1e-4)


def test_the_baseline_is_the_mean_log_ratio_of_mismatched_answers(policy, tmp_path, monkeypatch):
    seen = []
    original = kto.mismatched_kl
    monkeypatch.setattr(kto, "mismatched_kl", lambda found: seen.append(found.clone()) or original(found))
    train(tmp_path, policy, thumbs(60), held_out_share=0, batch_size_per_device=20, log_steps=1)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [len(one) for one in seen] == [20, 20, 20] and abs(float(seen[0].mean())) < 1e-5
    for one, line in zip(seen, lines, strict=True):
        assert line["kl"] == pytest.approx(max(0.0, float(one.mean())), abs=1e-6)


@pytest.mark.parametrize(
    "settings", [{}, {"trainable": {"mode": "lora", "lora": {"dropout": 0.1}}}], ids=["all", "lora"]
)
def test_a_resumed_run_is_the_undisturbed_run_to_the_bit(policy, tmp_path, settings):
    said = thumbs(160)
    expected, whole = train(tmp_path / "whole", policy, said, **settings)
    with pytest.raises(Killed):
        killed = killed_after(Runtime.temporary(tmp_path / "killed", stage="kto", seed=1), 1)
        killed.seed_everything()
        kto.run(KTOConfig(**(SETTINGS | settings)), KTOInputs(policy, {"thumbs": said}), killed)
    got, resumed = train(tmp_path / "killed", policy, said, **settings)
    assert got == expected and expected["steps"] > 5
    assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def liked(*labels):
    """A prompt with a response for each (target, weight)."""
    said = [Labelled(place, "thumb", target, weight) for place, (target, weight) in enumerate(labels)]
    return Group("q", (), responses=[str(i) for i, _ in enumerate(said)], labels=said, rows=[[1, 2] for _ in said])


def test_a_microbatch_by_hand():
    """Labels are summed by their weights; beta (r - z_0) is 1 and -2 from the baseline 1."""
    groups = [liked((1.0, 0.5), (0.0, 2.0))]
    micro = AnsweredBatch(None, pairs_of(groups, {}), labels_of(groups), torch.tensor(1.0))
    ratios = SimpleNamespace(of=lambda _: torch.tensor([3.0, -3.0]))
    found = kto.loss(ratios, KTOConfig(beta=0.5, desirable_weight=3.0), micro)
    expected = 0.5 * 3 * torch.tensor(-1.0).sigmoid() + 2 * torch.tensor(-2.0).sigmoid()
    assert float(found.total) == pytest.approx(float(expected)) and found.count == 2.5
    assert found.stats == pytest.approx({"accuracy": 2.5, "kl": 2.5, "log_ratio": 0.5 * 3 + 2 * -3})


@pytest.mark.parametrize(("weight", "expected", "said"), [(1.0, 2.0, True), (0.6, 1.2, False), (0.4, 0.8, True)])
def test_a_balance_that_is_not_advised_is_told(weight, expected, said):
    lines = []
    groups = [liked((1.0, 1.0), (0.0, 1.0)), liked((1.0, 1.0))]
    found = kto.balance_of(groups, KTOConfig(desirable_weight=weight), SimpleNamespace(log=lines.append))
    assert found == pytest.approx(expected)
    assert [f"weigh {expected:.2f} times as much" in line for line in lines] == [True] * said


def test_a_policy_that_reads_otherwise_than_its_reference_is_not_trained(policy, tmp_path, monkeypatch):
    read = LogRatios.of_rows
    monkeypatch.setattr(LogRatios, "of_rows", lambda self, rows: read(self, rows) + 0.5)
    with pytest.raises(CheckError, match="before training, policy and reference differ"):
        train(tmp_path, policy, thumbs(20))


def test_weights_say_which_mistakes_cost_more(policy, tmp_path):
    rewards = {}
    for name, weight in (("desirable", 8.0), ("undesirable", 8.0)):
        metrics, _ = train(tmp_path / name, policy, thumbs(200), **{f"{name}_weight": weight})
        rewards[name] = metrics
        counted = 8.0 if name == "desirable" else 1 / 8
        liked = sum(one.good for one in thumbs(200))
        assert metrics["balance"] == pytest.approx(counted * liked / (200 - liked), rel=0.2)
    for kind in ("held_out_reward_desirable", "held_out_reward_undesirable"):
        assert rewards["desirable"][kind] > rewards["undesirable"][kind]


def test_ratings_are_thumbs_by_the_middle_of_the_scale_or_pairs(policy, tmp_path):
    asked = [(Message(role="user", content=f"R{i}"),) for i in range(20)]
    ratings = [
        Rating(id=f"{i}{text}", prompt=asked[i], responses=(text,), scores={"good": score}, higher_is_better=True)
        for i in range(20)
        for text, score in (("yy", 3), ("yn", 2), ("n", 1))
    ]
    settings = dict(kinds=("ratings",), held_out_share=0)
    alone, _ = train(tmp_path / "thumbs", policy, {"ratings": ratings}, **settings)
    assert alone["thumbs"] == 40  # the middle says neither
    pairs, _ = train(tmp_path / "pairs", policy, {"ratings": ratings}, judgements={"ratings_as": "pairs"}, **settings)
    assert pairs["thumbs"] == 20 * 3 * 2


def test_what_finds_nothing_to_act_on_is_refused(policy, tmp_path):
    liked = [one.model_copy(update={"good": True}) for one in thumbs(40)]
    with pytest.raises(DataError, match="thumbs are up: nothing tells good from bad"):
        train(tmp_path, policy, liked)
    with pytest.raises(DataError, match="kto has answers to one prompt alone"):
        train(tmp_path, policy, [one.model_copy(update={"prompt": liked[0].prompt}) for one in thumbs(40)])
    with pytest.raises(ConfigError, match="kto.judgements.ratings_as = pairs has no effect: there is no rating"):
        train(tmp_path, policy, thumbs(40), judgements={"ratings_as": "pairs"})
    with pytest.raises(ConfigError, match="kto.kinds names comparisons, but none were given"):
        train(tmp_path, policy, thumbs(40), kinds=["comparisons"])
    metrics, _ = train(tmp_path, policy, {"thumbs": liked, "comparisons": comparisons(20)}, max_steps=1)
    assert metrics["balance"] > 1  # pairs bring what is not desirable
    disliked = [one.model_copy(update={"good": False}) for one in liked]
    with pytest.raises(DataError, match=r"thumbs are down.*\(corrections, by kto.kinds in a recipe\)"):
        train(tmp_path, policy, disliked)
    corrected = [Correction(id=one.id, prompt=one.prompt, responses=one.responses, edited="yyyyyy") for one in liked]
    given = {"thumbs": disliked, "corrections": corrected}
    metrics, _ = train(tmp_path, policy, given, kinds=["thumbs", "corrections"], max_steps=1)
    assert 0 < metrics["balance"] < 1  # so do corrections what is


def test_inputs_come_from_paths_where_no_stage_makes_them(policy, tmp_path):
    write_records(tmp_path / "thumbs.jsonl", thumbs(40))
    config = KTOConfig(policy=policy, feedback=tmp_path, **SETTINGS)
    inputs = kto.bind(config, {})
    assert inputs == KTOInputs(policy, {"thumbs": (tmp_path / "thumbs.jsonl",)})
    assert kto.run(config, inputs, Runtime.temporary(tmp_path / "run", stage="kto")).metrics["steps"] == 3
    (tmp_path / "thumbs.jsonl").rename(tmp_path / "comparisons.jsonl")
    with pytest.raises(ConfigError, match=r"has no thumbs.jsonl, but comparisons; name what to train on in kto.kinds"):
        kto.bind(config, {})
