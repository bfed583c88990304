"""A reward model learns a rule that people follow, and what is saved is the normalised model."""

import json
import random

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from loopwright.data.readers import write_records
from loopwright.errors import CheckError, ConfigError, DataError
from loopwright.models.adapters import over_base
from loopwright.models.heads import last_token_features, scores_at_last_token
from loopwright.models.loading import LlamaShape, load_causal_lm, load_reward_model, new_llama
from loopwright.rewards.reward_model import score_rows
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Message, Prompt, Ranking
from loopwright.stages import reward
from loopwright.stages.reward import RewardConfig, RewardInputs
from tests.tiny import saved, tiny_tokenizer

SHAPE = LlamaShape(hidden_size=32, layers=2, heads=2, intermediate_size=48, max_positions=64, initializer_range=0.1)
SETTINGS = dict(
    learning_rate=3e-3, batch_size_per_device=16, max_length=40, save_steps=5, log_steps=5, reference_samples=32
)


def worth(prompt, response):
    return response.count("y") / 6


def comparisons(count, *, prompts=True, seed=0):
    """People prefer the answer with more letters y."""
    rng = random.Random(seed)
    records = []
    while len(records) < count:
        pair = tuple("".join(rng.choice("nyo ") for _ in range(6)) for _ in range(2))
        scores = [worth(None, text) for text in pair]
        prompt = (Message(role="user", content=f"Q{len(records)}"),) if prompts else ()
        choice = None if scores[0] == scores[1] else int(scores[1] > scores[0])
        records.append(Comparison(id=str(len(records)), prompt=prompt, responses=pair, choice=choice))
    return records


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    return saved(new_llama(SHAPE, tiny_tokenizer(), seed=0), tiny_tokenizer(), folder)


def train(folder, inputs, **settings):
    runtime = Runtime.temporary(folder, stage="reward", seed=1)
    output = reward.run(RewardConfig(**(SETTINGS | settings)), inputs, runtime)
    return output.metrics, runtime.output


def test_it_learns_what_people_prefer(policy, tmp_path):
    records = comparisons(900)
    prompts = [
        Prompt(id=c.id, messages=c.prompt, tags={"task": "even" if int(c.id) % 2 == 0 else "odd"}) for c in records
    ]
    judges = {"helpful": worth}
    metrics, output = train(tmp_path, RewardInputs(policy, records, prompts=prompts, judges=judges))
    ties = sum(c.choice is None for c in records)
    assert metrics["accuracy"] > 0.9 and metrics["accuracy_gold"] == metrics["accuracy"]
    assert metrics["ties"] == ties and metrics["pairs"] + metrics["pairs_held_out"] + ties == 900
    by_task = metrics["accuracy_by_task"]
    assert set(by_task) == {"even", "odd"}
    assert sum(task["pairs"] for task in by_task.values()) == metrics["pairs_held_out"]
    assert metrics["normalisation"]["reference_samples"] == 32 and metrics["normalisation"]["correlation"] > 0.95
    table = json.loads((output / "calibration.json").read_text())
    assert sum(row["count"] for row in table["bins"]) == metrics["pairs_held_out"] and table["ece"] == metrics["ece"]
    assert table["scale"] == metrics["normalisation"]["scale"]
    tokenizer = AutoTokenizer.from_pretrained(output / "model")
    theirs = AutoModelForSequenceClassification.from_pretrained(output / "model")
    texts = ["Q1" + "y" * 6 + "<|end|>", "Q1" + "n" * 6 + "<|end|>", "Q2yy<|end|>"]
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        scores = theirs(encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits[:, 0]
        ours = scores_at_last_token(
            load_reward_model(output / "model"), encoded["input_ids"], encoded["attention_mask"].bool()
        )
    assert scores[0] > scores[1] + 1
    assert_close(ours, scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompts", [True, False], ids=["policy", "responses"])
def test_reference_samples_score_0_and_1(policy, tmp_path, monkeypatch, prompts):
    rows = []
    original = reward.reference_rows
    monkeypatch.setattr(reward, "reference_rows", lambda *args: rows.extend(original(*args)) or rows)
    _, output = train(tmp_path, RewardInputs(policy, comparisons(60, prompts=prompts)))
    scores = score_rows(load_reward_model(output / "model"), rows, pad_id=257)
    assert len(rows) == 32
    assert abs(float(scores.mean())) < 1e-5 and abs(float(scores.std(correction=0)) - 1) < 1e-5


def test_reading_each_prompt_once_trains_the_same_model(policy, tmp_path, monkeypatch):
    inputs = RewardInputs(policy, comparisons(160))
    once, _ = train(tmp_path / "once", inputs)
    monkeypatch.setattr(reward, "may_branch", lambda *args: False)
    again, _ = train(tmp_path / "again", inputs)
    assert once["steps"] > 5
    for name in ("accuracy", "loss", "margin"):
        assert_close(once[name], again[name], atol=1e-3, rtol=0)


def test_trainings_that_are_averaged_have_orders_of_their_own(policy, tmp_path, monkeypatch):
    orders = []
    rows_of = reward.EpochOrder.rows_of
    monkeypatch.setattr(
        reward.EpochOrder, "rows_of", lambda self, step: orders.append(rows_of(self, step)) or orders[-1]
    )
    inputs = RewardInputs(policy, comparisons(160))
    single, _ = train(tmp_path / "single", inputs)
    del orders[:]
    three, _ = train(tmp_path / "three", inputs, average_of=3)
    steps = single["steps"]
    assert three["steps"] == len(orders) == 3 * steps
    passes = [orders[start : start + steps] for start in range(0, 3 * steps, steps)]
    assert all(sorted(sum(one, [])) == sorted(sum(passes[0], [])) for one in passes)
    assert passes[0] != passes[1] != passes[2] != passes[0]
    assert three["loss"] != single["loss"]


def test_plain_texts_without_prompts(policy, tmp_path):
    metrics, output = train(tmp_path, RewardInputs(policy, comparisons(500, prompts=False)), append_eos=False)
    assert metrics["accuracy"] > 0.8
    assert not load_reward_model(output / "model").config.append_eos  # whoever scores text must know
    with pytest.raises(ConfigError, match="normalise_on = policy, but the comparisons have no prompts"):
        train(tmp_path / "b", RewardInputs(policy, comparisons(20, prompts=False)), normalise_on="policy")


def test_no_prompt_is_on_both_sides(policy, tmp_path):
    records = [c.model_copy(update={"prompt": comparisons(50)[i % 50].prompt}) for i, c in enumerate(comparisons(300))]
    config = RewardConfig(**SETTINGS, held_out_share=0.3)
    data = reward.load_pairs(config, RewardInputs(policy, records), tiny_tokenizer(), Runtime.temporary(tmp_path))
    train_prompts, held_out = ({g.messages for g in groups} for groups in (data.train, data.held_out))
    assert not train_prompts & held_out and len(train_prompts) + len(held_out) == 50
    assert 5 <= len(held_out) <= 25


def test_held_out_file(policy, tmp_path):
    write_records(tmp_path / "held.jsonl", comparisons(40, seed=5)[:20])
    metrics, _ = train(tmp_path, RewardInputs(policy, comparisons(60)), held_out=tmp_path / "held.jsonl")
    assert metrics["prompts"] <= 40  # the prompts Q0..Q19 of the file are not trained on
    assert metrics["pairs_held_out"] == sum(c.choice is not None for c in comparisons(40, seed=5)[:20])


def test_files_with_rankings_and_bad_rows(policy, tmp_path):
    path = tmp_path / "comparisons.jsonl"
    write_records(path, comparisons(60))
    with path.open("a") as file:
        file.write('{"id": "x"}\n')
    ranking = Ranking(
        id="r", prompt=(Message(role="user", content="R"),), responses=("yyy", "yn", "n"), ranks=(1, 2, 3)
    )
    metrics, output = train(tmp_path, RewardInputs(policy, path, [ranking]))
    assert metrics["bad_rows"] == 1 and "comparisons.jsonl" in (output / "bad_comparisons.jsonl").read_text()
    decided = sum(c.choice is not None for c in comparisons(60))
    assert metrics["pairs"] + metrics["pairs_held_out"] == decided + 3
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(DataError, match="no pair is left to train on"):
        train(tmp_path / "b", RewardInputs(policy, empty, empty))


def write_labelled(path, count, *, seed):
    """Sentences with label 1 have more letters y than n."""
    rng = random.Random(seed)
    texts = {"".join(rng.choice("nyo ") for _ in range(8)).strip() for _ in range(count)}
    lines = [f"{text}\t{int(text.count('y') > text.count('n'))}\n" for text in sorted(texts)]
    path.write_text("".join(lines))
    return lines


def test_labelled_sentences(policy, tmp_path):
    dev = write_labelled(tmp_path / "dev.tsv", 100, seed=7)
    lines = write_labelled(tmp_path / "train.tsv", 800, seed=8)
    only_train = set(lines) - set(dev)
    with (tmp_path / "train.tsv").open("a") as file:
        file.write(f"no label\n{dev[0]}")  # neither is trained on
    settings = dict(labelled=tmp_path / "train.tsv", held_out_labelled=tmp_path / "dev.tsv", append_eos=False, epochs=3)
    metrics, output = train(tmp_path / "a", RewardInputs(policy), batch_size_per_device=4, **settings)
    assert metrics["label_accuracy"] > 0.85 and metrics["accuracy"] > 0.85 and metrics["tfidf_accuracy"] > 0
    assert metrics["bad_rows"] == 1 and "train.tsv" in (output / "bad_labelled.jsonl").read_text()
    assert metrics["sentences"] == len(only_train) and metrics["sentences_held_out"] == len(dev)
    assert metrics["pairs"] >= metrics["sentences"] and metrics["pairs_held_out"] >= len(dev)
    assert metrics["prompts"] > 50  # sentences are not all connected with each other
    with pytest.raises(ConfigError, match=r"reward.labelled = .*train.tsv contradicts the comparisons given"):
        train(tmp_path / "b", RewardInputs(policy, comparisons(20)), **settings)


def test_labelled_sentences_without_held_out_ones(policy, tmp_path):
    write_labelled(tmp_path / "train.tsv", 100, seed=8)
    metrics, _ = train(tmp_path, RewardInputs(policy), labelled=tmp_path / "train.tsv", pairs_per_sentence=3)
    assert metrics["pairs_held_out"] > 0 and "label_accuracy" not in metrics
    with pytest.raises(ConfigError, match="contradicts the stage feedback"):
        reward.bind(RewardConfig(labelled=tmp_path / "train.tsv"), {"feedback": object()})


class Killed(Exception):
    pass


def test_a_resumed_run_is_the_undisturbed_run_to_the_bit(policy, tmp_path, monkeypatch):
    inputs = RewardInputs(policy, comparisons(200))
    expected, whole = train(tmp_path / "whole", inputs)
    collate, calls = reward.collate, []

    def dies(*args, **kwargs):
        calls.append(0)
        if len(calls) == 8:
            raise Killed
        return collate(*args, **kwargs)

    monkeypatch.setattr(reward, "collate", dies)
    with pytest.raises(Killed):
        train(tmp_path / "killed", inputs)
    got, resumed = train(tmp_path / "killed", inputs)
    assert got == expected and len(calls) < 8 + expected["steps"]
    for name in ("model/model.safetensors", "calibration.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_a_batch_that_breaks_is_written_down_with_its_prompts(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(reward, "bradley_terry_loss", lambda chosen, rejected: chosen - rejected + torch.nan)
    with pytest.raises(CheckError, match="not finite"):
        train(tmp_path, RewardInputs(policy, comparisons(40)))
    (path,) = tmp_path.rglob("offending-batch-step-0.safetensors")
    saved = load_file(path)
    rows = saved["0.inputs.input_ids"][saved["0.inputs.segments"] == 0]
    assert tiny_tokenizer().decode(rows).startswith("Q") and len(saved["0.chosen"]) == len(saved["0.rejected"])


def test_adapters_are_merged(policy, tmp_path):
    trainable = {"mode": "lora", "lora": {"r": 4, "alpha": 8}}
    metrics, output = train(
        tmp_path, RewardInputs(policy, comparisons(600)), trainable=trainable, learning_rate=1e-2, epochs=4
    )
    assert metrics["accuracy"] > 0.75
    assert AutoModelForSequenceClassification.from_pretrained(output / "model").config.num_labels == 1
    found = over_base(load_reward_model(output / "model"), output / "model", load_causal_lm(policy))
    assert isinstance(found, PeftModel)  # and kept, for whoever has the same base


def test_a_model_that_cannot_tell_is_refused(policy, tmp_path, monkeypatch):
    def same(model, rows, pad_id):
        ids = torch.tensor([[1, 2, 3]])
        return last_token_features(model, ids, ids.bool()).detach().expand(len(rows), -1)

    monkeypatch.setattr(reward, "features_of_rows", same)
    with pytest.raises(CheckError, match="the same score to all 32"):
        train(tmp_path, RewardInputs(policy, comparisons(40)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"held_out": "x.jsonl", "held_out_share": 0.2}, "held_out_share has no effect with held_out"),
        ({"normalise_on": "responses", "sampling": {"temperature": 0.5}}, "sampling has no effect"),
        ({"pairs_per_sentence": 3}, "pairs_per_sentence has no effect without labelled"),
        ({"held_out_labelled": "x.tsv"}, "held_out_labelled has no effect without labelled"),
        ({"labelled": "x.tsv", "comparisons": "x.jsonl"}, "comparisons contradicts labelled"),
        ({"labelled": "x.tsv", "held_out": "x.jsonl"}, "held_out contradicts labelled"),
        ({"labelled": "x.tsv", "sampling": {"temperature": 0.5}}, "sampling has no effect with labelled"),
        ({"labelled": "x.tsv", "normalise_on": "policy"}, "normalise_on = policy contradicts labelled"),
        ({"labelled": "x.tsv", "held_out_labelled": "y.tsv", "held_out_share": 0.2}, "held_out_share has no effect"),
        ({"learning_rat": 1.0}, "learning_rat"),
    ],
)
def test_settings_that_do_nothing(settings, message):
    with pytest.raises(ValidationError, match=message):
        RewardConfig(**settings)


def test_inputs_given_neither_way():
    with pytest.raises(ConfigError, match="reward has no model; add an sft or pretrain section"):
        reward.bind(RewardConfig(), {})
