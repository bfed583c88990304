import gzip
import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from loopwright.config import build
from loopwright.data.tokenizer import encode_documents
from loopwright.errors import ConfigError, DataError
from loopwright.runtime.runtime import Runtime
from loopwright.stages import pretrain
from loopwright.stages.pretrain import PretrainConfig, PretrainInputs
from loopwright.training.next_tokens import predict
from tests.tiny import CHANGED_LOGITS, FAMILIES, saved, tiny_model, tiny_tokenizer

SHAPE = dict(hidden_size=16, layers=2, heads=2, intermediate_size=32, max_positions=64)
SMALL = dict(
    shape=SHAPE, vocab_size=300, max_length=32, batch_size_per_device=4, max_steps=6, save_steps=2, copy_samples=4,
    copy_words=3, assess_documents=8,
)  # fmt: skip
PLACES, HOURS = ("pool", "gym", "bar", "library", "museum"), ("six", "seven", "eight", "noon")


def write_corpus(folder: Path, documents: int = 60) -> Path:
    """Clean text, dirt, and a broken line."""
    rng = random.Random(0)
    folder.mkdir()
    lines = []
    for i in range(documents):
        facts = [f"The {rng.choice(PLACES)} number {i} closes at {rng.choice(HOURS)}." for _ in range(4)]
        lines.append(json.dumps({"text": " ".join(facts)}))
    lines += [lines[0], '{"text": "cut', json.dumps({"text": "$$$ ### " * 20})]
    (folder / "crawl.jsonl").write_text("\n".join(lines))
    (folder / "page.html").write_text(
        "<html><body><p>The <b>bakery</b> opens at nine, cafÃ© included.</p></body></html>"
    )
    return folder


def settings(**changes) -> PretrainConfig:
    return build(PretrainConfig, SMALL | changes, "test")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()


def figures(runtime_folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (runtime_folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "tokens_per_second")} for line in lines]


class Killed(Exception):
    pass


def killed_after(runtime: Runtime, checkpoints: int) -> Runtime:
    """The process dies right after so many checkpoints."""
    save, done = runtime.checkpoint, []

    def checkpoint(step, state):
        save(step, state)
        done.append(step)
        if len(done) == checkpoints:
            raise Killed

    runtime.checkpoint = checkpoint
    return runtime


def test_from_dirty_text_to_a_model_that_transformers_loads(tmp_path):
    inputs = PretrainInputs((write_corpus(tmp_path / "corpus"),))
    runtime = Runtime.temporary(tmp_path / "run")
    metrics = pretrain.run(settings(), inputs, runtime).metrics
    tokenizer = AutoTokenizer.from_pretrained(runtime.output / "model")
    assert tokenizer.decode(tokenizer("The pool closes.")["input_ids"]) == "The pool closes."
    assert weights(runtime.output)["model.embed_tokens.weight"].shape == (metrics["vocabulary"], 16)

    report = json.loads((runtime.output / "cleaning.json").read_text())
    reasons = {row["reason"]: row["documents"] for row in report["rows"]}
    assert reasons["unreadable row"] == reasons["exact duplicate"] == reasons["mostly symbols"] == 1
    assert reasons["broken encoding, entities or compatibility characters"] == 1
    assert json.loads((runtime.output / "bad_rows.jsonl").read_text())["line"] == 62
    assert metrics["documents"] + metrics["held_out_documents"] == report["documents_out"] == 61
    held_out = (runtime.output / "held_out.jsonl").read_text().splitlines()
    assert len(held_out) == metrics["held_out_documents"] >= 1
    assert metrics["steps"] == 6
    assert metrics["tokens_an_epoch"] == sum(
        len(tokenizer(json.loads(line)["text"])["input_ids"]) + 1
        for line in gzip.decompress((runtime.output / "text.jsonl.gz").read_bytes()).splitlines()
    )
    assert_close(metrics["gap"], metrics["held_out_loss"] - metrics["train_loss"])
    assert metrics["perplexity"] > 1
    assert 0 <= metrics["copied_share"] <= 1


def test_given_held_out_text_is_never_trained_on(tmp_path):
    corpus = write_corpus(tmp_path / "corpus")
    first = json.loads((corpus / "crawl.jsonl").read_text().splitlines()[3])
    (tmp_path / "held_out.jsonl").write_text(json.dumps(first))
    runtime = Runtime.temporary(tmp_path / "run")
    texts = pretrain.prepare(settings(), PretrainInputs((corpus,), held_out=tmp_path / "held_out.jsonl"), runtime)
    assert texts.held_out == [first["text"]]
    assert first["text"] not in texts.train
    assert len(texts.train) == 60


def test_a_killed_run_ends_as_an_undisturbed_one_and_cleans_once(tmp_path, monkeypatch):
    inputs = PretrainInputs((write_corpus(tmp_path / "corpus"),))
    config = settings(log_steps=3, eval_steps=3)
    whole = Runtime.temporary(tmp_path / "whole")
    expected = pretrain.run(config, inputs, whole).metrics
    with pytest.raises(Killed):
        pretrain.run(config, inputs, killed_after(Runtime.temporary(tmp_path / "cut"), 2))
    monkeypatch.setattr(pretrain, "clean_and_split", None)  # what a checkpoint holds is not done again
    resumed = Runtime.temporary(tmp_path / "cut")
    assert pretrain.run(config, inputs, resumed).metrics == expected
    assert_close(weights(resumed.output), weights(whole.output), rtol=0, atol=0)
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")
    for name in ("text.jsonl.gz", "held_out.jsonl", "cleaning.json", "model/tokenizer.json"):
        assert (resumed.output / name).read_bytes() == (whole.output / name).read_bytes()


def test_eight_microbatches_of_one_row_are_one_of_eight(tmp_path):
    inputs = PretrainInputs((write_corpus(tmp_path / "corpus"),))
    found = []
    for rows, accumulation in ((8, 1), (1, 8)):
        runtime = Runtime.temporary(tmp_path / str(rows))
        pretrain.run(settings(batch_size_per_device=rows, accumulation=accumulation), inputs, runtime)
        found.append(weights(runtime.output))
    assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.parametrize("accumulation", [1, 3])
def test_packing_changes_the_speed_and_nothing_else(tmp_path, accumulation, threads):
    inputs, found = PretrainInputs((write_corpus(tmp_path / "corpus"),)), []
    for packing in (True, False):
        runtime = Runtime.temporary(tmp_path / str(packing))
        config = settings(packing=packing, batch_size_per_device=4, accumulation=accumulation)
        metrics = pretrain.run(config, inputs, runtime).metrics
        found.append((weights(runtime.output), metrics["held_out_loss"]))
    assert_close(*found, rtol=1e-4, atol=1e-5)


def test_it_learns_more_than_how_often_tokens_occur(tmp_path):
    inputs = PretrainInputs((write_corpus(tmp_path / "corpus"),))
    config = settings(max_steps=None, epochs=30, batch_size_per_device=8, learning_rate=1e-2, save_steps=1000)
    runtime = Runtime.temporary(tmp_path / "run")
    metrics = pretrain.run(config, inputs, runtime).metrics
    tokenizer = AutoTokenizer.from_pretrained(runtime.output / "model")
    texts = pretrain.prepare(config, inputs, runtime).train
    counts = Counter(token for ids in encode_documents(tokenizer, texts) for token in ids)
    total = sum(counts.values())
    unigram_entropy = -sum(count / total * math.log(count / total) for count in counts.values())
    assert metrics["held_out_loss"] < 0.6 * unigram_entropy


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_any_family_goes_on_with_its_own_tokenizer(tmp_path, family):
    model = saved(tiny_model(family), tiny_tokenizer(), tmp_path / "model")
    config = build(PretrainConfig, {k: v for k, v in SMALL.items() if k not in ("shape", "vocab_size")}, "test")
    inputs = PretrainInputs((write_corpus(tmp_path / "corpus"),), model=model)
    runtime = Runtime.temporary(tmp_path / "run")
    metrics = pretrain.run(config, inputs, runtime).metrics
    assert metrics["vocabulary"] == 260
    before, after = (
        AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (model, runtime.output / "model")
    )
    assert all(before[name].shape == after[name].shape for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("family", [*FAMILIES, *CHANGED_LOGITS])
def test_loss_is_that_of_transformers(family):
    model = tiny_model(family)
    ids = torch.randint(0, 250, (3, 12), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(12).expand_as(ids)
    found = predict(model, pretrain.PackedBatch(ids, ids, positions, torch.ones_like(ids)), count_right=True)
    reference = model(input_ids=ids, labels=ids)
    assert_close(found.total / found.tokens, reference.loss, rtol=1e-5, atol=1e-5)
    assert found.right == int((reference.logits[:, :-1].argmax(-1) == ids[:, 1:]).sum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "folder"}, "shape has no effect beside model"),
        ({"held_out": "a.txt", "held_out_share": 0.1}, "held_out_share has no effect beside held_out"),
        ({"copy_samples": 0}, "copy_words has no effect with copy_samples = 0"),
        ({"max_length": 1}, "max_length"),
        ({"dedup": True}, "unknown key"),
    ],
)
def test_settings_that_contradict_or_have_no_effect(changes, message):
    with pytest.raises(ConfigError, match=message):
        settings(**changes)


def test_nothing_to_read_nothing_left_and_too_long_rows(tmp_path):
    with pytest.raises(ConfigError, match="pretrain has no text; name files"):
        pretrain.bind(settings(), {})
    (tmp_path / "symbols.txt").write_text("$$$ ### " * 40)
    with pytest.raises(DataError, match=r"cleaning left 0 of 1 documents .dropped: 1 mostly symbols., too few"):
        pretrain.run(settings(), PretrainInputs((tmp_path / "symbols.txt",)), Runtime.temporary(tmp_path / "a"))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="no documents"):
        pretrain.run(settings(), PretrainInputs((tmp_path / "empty.jsonl",)), Runtime.temporary(tmp_path / "b"))
    corpus = write_corpus(tmp_path / "corpus")
    with pytest.raises(ConfigError, match="max_length = 65 is longer than the model's context of 64"):
        pretrain.run(settings(max_length=65), PretrainInputs((corpus,)), Runtime.temporary(tmp_path / "c"))
