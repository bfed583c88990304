"""A reward model learns a rule that people follow, and what is saved is the normalised model."""

import json
import random
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from loopwright.data.readers import write_records
from loopwright.errors import CheckError, ConfigError, DataError
from loopwright.evaluation.sensitivity import rewordings_of
from loopwright.models.adapters import over_base
from loopwright.models.heads import head_of, last_token_features, scores_at_last_token
from loopwright.models.loading import LlamaShape, load_causal_lm, load_reward_model, new_llama
from loopwright.rewards import RewardModel, Sample
from loopwright.rewards.reward_model import score_rows, scores_by_head
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Correction, Message, Prompt, Ranking, Rating, SpanFeedback, Thumb
from loopwright.stages import reward
from loopwright.stages.reward import RewardConfig, RewardInputs
from loopwright.tracking.artifacts import Artifact, Manifest
from loopwright.training.judged_groups import keys_of
from loopwright.training.preference_pairs import collate, scores_of
from loopwright.worlds import WORLDS
from tests.tiny import saved, saved_encoder, tiny_tokenizer

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
    assessment = json.loads((output / "assessment.json").read_text())
    assert assessment["accuracy"]["mean"] == pytest.approx(metrics["accuracy"])
    assert assessment["accuracy"]["pairs"] == metrics["pairs_held_out"]
    assert {row["group"] for row in assessment["by"]["task"]} == {"even", "odd"}
    assert assessment["sensitivity"] and assessment["worthless"] and assessment["data"]["consistency"]
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


def test_labels_of_earlier_rounds_weigh_as_stated(policy, tmp_path):
    said = comparisons(12)
    files = [tmp_path / f"{name}.jsonl" for name in ("first", "second", "third")]
    for path, part in zip(files, (said[:6], said[5:8], said[8:]), strict=True):  # the sixth prompt is asked about twice
        write_records(path, part)
    inputs = RewardInputs(policy, files, ages=(2, 1, 0))
    config = RewardConfig(earlier_rounds_weight=0.5, held_out_share=0, judgements={"weigh_by": "pair"})
    runtime = Runtime.temporary(tmp_path)
    data = reward.load_data(config, inputs, load_causal_lm(policy), tiny_tokenizer(), runtime)
    weights = {one.messages: one.pairs[0].weight for one in data.train}
    expected = {one.prompt: weight for one, weight in zip(said, [0.25] * 5 + [0.5] * 3 + [1.0] * 4, strict=True)}
    assert weights == {one.prompt: expected[one.prompt] for one in said if one.choice is not None}
    inputs = RewardInputs(policy, files[::-1], ages=(0, 1, 2))
    again = reward.load_data(config, inputs, load_causal_lm(policy), tiny_tokenizer(), runtime)
    assert {one.messages: one.pairs[0].weight for one in again.train} == weights


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
    with pytest.raises(ConfigError, match="normalise_on = policy, but the judgements have no prompts"):
        train(tmp_path / "b", RewardInputs(policy, comparisons(20, prompts=False)), normalise_on="policy")


def test_no_prompt_is_on_both_sides(policy, tmp_path):
    records = [c.model_copy(update={"prompt": comparisons(50)[i % 50].prompt}) for i, c in enumerate(comparisons(300))]
    config = RewardConfig(**SETTINGS, held_out_share=0.3)
    inputs, tokenizer = RewardInputs(policy, records), tiny_tokenizer()
    data = reward.load_data(config, inputs, load_causal_lm(policy), tokenizer, Runtime.temporary(tmp_path))
    train_prompts, held_out = ({g.messages for g in groups} for groups in (data.train, data.held_out))
    assert not train_prompts & held_out and len(train_prompts) + len(held_out) == 50
    assert 5 <= len(held_out) <= 25


def test_held_out_file(policy, tmp_path):
    write_records(tmp_path / "held.jsonl", comparisons(40, seed=5)[:20])
    metrics, _ = train(tmp_path, RewardInputs(policy, comparisons(60)), held_out=tmp_path / "held.jsonl")
    assert metrics["prompts"] <= 40  # the prompts Q0..Q19 of the file are not trained on
    assert metrics["pairs_held_out"] == sum(c.choice is not None for c in comparisons(40, seed=5)[:20])


def test_a_pair_on_both_sides_is_refused(policy, tmp_path):
    said = comparisons(40)
    (ask,) = said[3].prompt
    again = (
        said[3].swap().model_copy(update={"prompt": (ask.model_copy(update={"content": f" {ask.content.lower()}"}),)})
    )
    with pytest.raises(DataError, match="3 is 3 of the training part"):
        train(tmp_path, RewardInputs(policy, said, held_out=[again]))


def test_wordings_that_differ_in_case_stay_on_one_side():
    asked = ["What is it?", "what is it? ", "What is she?"]
    keys = keys_of(
        [Thumb(id=text, prompt=(Message(role="user", content=text),), responses=("a",), good=True) for text in asked]
    )
    assert keys[0] == keys[1] != keys[2]


def test_a_learning_curve_is_of_nested_halves(policy, tmp_path):
    metrics, output = train(tmp_path, RewardInputs(policy, comparisons(500)), learning_curve=3)
    points = json.loads((output / "assessment.json").read_text())["learning_curve"]["points"]
    sizes = [point["labels"] for point in points]
    assert len(sizes) == 3 and sizes[2] == metrics["pairs"] and sizes == sorted(sizes)
    assert abs(sizes[1] - sizes[2] / 2) < 2 and points[2]["accuracy"] == metrics["accuracy"]
    assert points[0]["accuracy"] < points[2]["accuracy"] + 0.05
    alone, _ = train(tmp_path / "alone", RewardInputs(policy, comparisons(500)))
    assert alone["accuracy"] == metrics["accuracy"]  # the other trainings leave no trace in the model


def test_what_is_not_there_is_refused_before_training(policy, tmp_path):
    with pytest.raises(ConfigError, match="learning_curve = 3 needs pairs"):
        train(tmp_path / "a", RewardInputs(policy, thumbs=thumbs(40)), learning_curve=3)
    with pytest.raises(ConfigError, match="centering = 0.1 has no effect without pairs"):
        train(tmp_path / "b", RewardInputs(policy, thumbs=thumbs(40)), centering=0.1)
    down = Thumb(id="d", prompt=(Message(role="user", content="Q"),), responses=("n" * 80,), good=False)
    up = [one.model_copy(update={"good": True}) for one in thumbs(40)]
    with pytest.raises(DataError, match="thumbs are up"):  # the only other one is too long
        train(tmp_path / "c", RewardInputs(policy, thumbs=[*up, down]), held_out_share=0)
    with pytest.raises(ConfigError, match="train them in two stages"):
        spans = [SpanFeedback(id="s", responses=("a",))]
        train(tmp_path / "d", RewardInputs(policy, comparisons(40), spans=spans))


def test_only_ties_teach_nothing(policy, tmp_path):
    tied = [one.model_copy(update={"choice": None}) for one in comparisons(40)]
    with pytest.raises(DataError, match="no judgement is left to train on .* ties"):
        train(tmp_path, RewardInputs(policy, tied))


def test_contradictions_and_cycles_are_named(policy, tmp_path):
    said = comparisons(60)
    first = said[0]
    told = [first, first.model_copy(update={"id": "x", "choice": 1 - first.choice})]
    ask = (Message(role="user", content="R"),)
    circle = [
        Comparison(id=f"{a}{b}", prompt=ask, responses=(a, b), choice=0)
        for a, b in (("x", "y"), ("y", "z"), ("z", "x"))
    ]
    _, output = train(tmp_path, RewardInputs(policy, [*said, *told, *circle]))
    sentences = " ".join(json.loads((output / "assessment.json").read_text())["data"]["consistency"]["sentences"])
    assert "both ways" in sentences and "circle" in sentences


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
    with pytest.raises(DataError, match="no judgement is left to train on"):
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
    with pytest.raises(ConfigError, match=r"reward.labelled = .*train.tsv contradicts the judgements given"):
        train(tmp_path / "b", RewardInputs(policy, comparisons(20)), **settings)


def test_labelled_sentences_without_held_out_ones(policy, tmp_path):
    write_labelled(tmp_path / "train.tsv", 100, seed=8)
    metrics, _ = train(tmp_path, RewardInputs(policy), labelled=tmp_path / "train.tsv", pairs_per_sentence=3)
    assert metrics["pairs_held_out"] > 0 and "label_accuracy" not in metrics
    with pytest.raises(ConfigError, match="contradicts the stage feedback"):
        reward.bind(
            RewardConfig(labelled=tmp_path / "train.tsv"),
            {"feedback": SimpleNamespace(manifest=SimpleNamespace(kind="feedback"))},
        )


def thumbs(count, *, seed=0):
    """Answers with three letters y or more are liked."""
    rng = random.Random(seed)
    texts = ["".join(rng.choice("nyo ") for _ in range(6)) for _ in range(count)]
    asked = [(Message(role="user", content=f"Q{i}"),) for i in range(count)]
    return [
        Thumb(id=str(i), prompt=prompt, responses=(text,), good=text.count("y") > 2)
        for i, (prompt, text) in enumerate(zip(asked, texts, strict=True))
    ]


def test_it_learns_from_thumbs(policy, tmp_path):
    metrics, _ = train(tmp_path, RewardInputs(policy, thumbs=thumbs(800)))
    liked = sum(one.good for one in thumbs(800)) / 800
    assert metrics["thumb_accuracy"] > max(liked, 1 - liked) + 0.05 and metrics["thumbs_held_out"] > 40
    assert metrics["judgements"] == {"thumbs": 800} and "accuracy" not in metrics


def test_thumbs_that_are_mostly_up_are_judged_at_their_own_threshold(policy, tmp_path):
    """Normalising moves the scores, and with them the score at which up and down are as likely."""
    said = thumbs(900)
    liked = [one.model_copy(update={"good": sum(map(one.responses[0].count, "no")) < 5}) for one in said]
    share = sum(one.good for one in liked) / 900
    assert share > 0.85
    metrics, _ = train(tmp_path, RewardInputs(policy, thumbs=liked), epochs=3)
    assert metrics["thumb_accuracy"] > share + 0.5 * (1 - share)


def asked_twice():
    """Four questions in three wordings each, with what answers them."""
    tags = [{"question_id": f"q{i}", "reference": "yyn" if i % 2 else "nny"} for i in range(4)]
    return [Prompt.user(f"p{i}{way}", f"{way}{i}?", **tags[i]) for i in range(4) for way in ("Q", "Say ", "Tell ")]


def test_questions_in_other_words_are_scored_and_never_learned(policy, tmp_path):
    records = comparisons(60)
    metrics, output = train(tmp_path / "asked", RewardInputs(policy, records, paraphrased=asked_twice()))
    without, plain = train(tmp_path / "plain", RewardInputs(policy, records))
    ours, theirs = (
        {row["change"]: row for row in json.loads((one / "assessment.json").read_text())["sensitivity"]["changes"]}
        for one in (output, plain)
    )
    row = ours.pop("question in other words")
    assert row["pairs"] == 8 and row["size"] > 0  # neighbouring wordings, two of each question
    assert ours == theirs and metrics == without
    weights = [load_file(one / "model" / "model.safetensors") for one in (output, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_a_world_gives_questions_in_other_words_for_the_assessment_alone(policy, tmp_path):
    names = {"prompts_train.jsonl": "", "prompts_paraphrased.jsonl": ""}
    manifest = Manifest.model_construct(name="world", files=names, config={"name": "front_desk"})
    bound = reward.bind(RewardConfig(model=policy, comparisons=tmp_path), {"world": Artifact(tmp_path, manifest)})
    found = {name for name, value in vars(bound).items() if value == tmp_path / "prompts_paraphrased.jsonl"}
    assert found == {"paraphrased"} and bound.prompts == tmp_path / "prompts_train.jsonl"
    wordings = list(WORLDS["front_desk"].prompts("paraphrased", seed=0, count=8))
    assert rewordings_of(wordings) and not rewordings_of(WORLDS["front_desk"].prompts("train", seed=0, count=40))


def test_a_model_of_a_criterion_is_assessed_by_it(policy, tmp_path):
    said = [
        one.model_copy(update={"choice": 1 - one.choice, "criteria": {"kind": one.choice}})
        for one in comparisons(500)
        if one.choice is not None
    ]
    metrics, output = train(tmp_path, RewardInputs(policy, said), judgements={"criterion": "kind"})
    found = json.loads((output / "assessment.json").read_text())["accuracy"]
    assert metrics["accuracy"] > 0.8 and found["mean"] == pytest.approx(metrics["accuracy"])


def test_the_order_in_which_pairs_are_stored_changes_no_figure(policy, tmp_path):
    said = [one for one in comparisons(300) if one.choice is not None]
    better_first = [one if one.choice == 0 else one.swap() for one in said]
    figures = []
    for name, held_out in (("a", said[:80]), ("b", better_first[:80])):
        metrics, output = train(tmp_path / name, RewardInputs(policy, said[80:], held_out=held_out))
        figures.append((metrics["accuracy"], metrics["ece"], (output / "calibration.json").read_text()))
    assert figures[0] == figures[1] and figures[0][1] < 0.3


def test_a_response_that_is_too_long_is_never_read(policy, tmp_path):
    said = [
        Ranking(
            id=one.id,
            prompt=one.prompt,
            responses=(*one.responses, "y" * 80),
            ranks=(2 - one.choice, 1 + one.choice, 3),
        )
        for one in comparisons(200)
        if one.choice is not None
    ]
    metrics, _ = train(tmp_path, RewardInputs(policy, rankings=said))
    assert metrics["too_long"] == 2 * len(said) and metrics["pairs"] + metrics["pairs_held_out"] == len(said)


def test_reliabilities_are_learned_in_each_of_several_trainings(policy, tmp_path):
    said = [one.model_copy(update={"annotator": "ann"}) for one in comparisons(200)]
    once, _ = train(tmp_path / "once", RewardInputs(policy, said), annotators={})
    thrice, _ = train(tmp_path / "thrice", RewardInputs(policy, said), annotators={}, average_of=3)
    assert once["annotators"]["ann"] == thrice["annotators"]["ann"]  # a label is a witness once


def test_it_learns_from_ratings(policy, tmp_path):
    ratings = [
        Rating(
            id=one.id,
            prompt=one.prompt,
            responses=one.responses,
            scores={"y": 1 + min(one.responses[0].count("y"), 3)},
            scale_high=4,
            higher_is_better=True,
        )
        for one in thumbs(600)
    ]
    metrics, _ = train(tmp_path, RewardInputs(policy, ratings=ratings), judgements={"ratings_as": "regression"})
    assert metrics["rating_correlation"] > 0.8


def test_it_learns_from_corrections_and_whole_lists(policy, tmp_path):
    rng = random.Random(4)
    said = []
    for i in range(250):
        texts = tuple("".join(rng.choice("nyo ") for _ in range(6)) for _ in range(4))
        ranks = tuple(1 + sum(worth(None, other) > worth(None, text) for other in texts) for text in texts)
        said.append(Ranking(id=str(i), prompt=(Message(role="user", content=f"Q{i}"),), responses=texts, ranks=ranks))
    corrections = [
        Correction(id=one.id, prompt=one.prompt, responses=("nnnnnn",), edited=one.responses[0] + "y") for one in said
    ]
    inputs = RewardInputs(policy, rankings=said, corrections=corrections)
    metrics, _ = train(tmp_path, inputs, judgements={"rankings_as": "plackett_luce"})
    assert metrics["accuracy"] > 0.8 and metrics["pairs"] > 0


def test_careless_annotators_are_found_out(policy, tmp_path):
    """Of six annotators four are right in 95 % and two in half of the cases."""
    rng = random.Random(3)
    said = []
    for one in comparisons(1500):
        who = rng.randrange(6)
        if one.choice is not None:
            choice = one.choice if rng.random() < (0.95 if who < 4 else 0.5) else 1 - one.choice
            said.append(one.model_copy(update={"choice": choice, "annotator": f"ann{who}"}))
    metrics, _ = train(tmp_path, RewardInputs(policy, said), annotators={})
    found = metrics["annotators"]
    assert all(found[f"ann{i}"]["accuracy"] > 0.85 for i in range(4))
    assert all(found[f"ann{i}"]["accuracy"] < 0.7 for i in (4, 5))
    assert all(person["low"] <= person["accuracy"] <= person["high"] for person in found.values())


def test_what_was_shown_first_does_not_end_up_in_the_scores(policy, tmp_path):
    rng = random.Random(3)
    said = []
    for one in comparisons(1200):
        first = rng.randrange(2)
        gap = worth(None, one.responses[0]) - worth(None, one.responses[1]) + (0.25 if first == 0 else -0.25)
        order = (0, 1) if first == 0 else (1, 0)
        said.append(one.model_copy(update={"choice": int(gap < 0), "order_shown": order}))
    metrics, _ = train(tmp_path, RewardInputs(policy, said), covariates=["position"])
    assert metrics["position_nats"] > 0.5
    with pytest.raises(ConfigError, match="no comparison says which response was shown first"):
        train(tmp_path / "b", RewardInputs(policy, comparisons(40)), covariates=["position"])


def test_ties_have_a_probability_of_their_own(policy, tmp_path):
    metrics, _ = train(tmp_path, RewardInputs(policy, comparisons(600)), judgements={"ties": "davidson"})
    assert metrics["tie_nu"] > 0 and metrics["accuracy"] > 0.85 and metrics["pairs"] > 500


def test_an_encoder_becomes_a_reward_model(tmp_path):
    encoder = saved_encoder("bert", tmp_path / "encoder")
    metrics, output = train(tmp_path / "a", RewardInputs(encoder, comparisons(900)), learning_rate=1e-2, epochs=3)
    assert metrics["accuracy"] > 0.75
    scorer = RewardModel(output / "model")
    samples = [
        Sample(Prompt.user("p", "Q1"), text, [], [], finished=True, tokenizer=tiny_tokenizer())
        for text in ("yyyyyy", "nnnnnn")
    ]
    scores = scorer.score(samples).total
    assert scores[0] > scores[1] + 0.5 and not scorer.reads(tiny_tokenizer())
    with pytest.raises(ConfigError, match="reward.append_eos has no effect on an encoder"):
        train(tmp_path / "c", RewardInputs(encoder, comparisons(40)), append_eos=False)
    with pytest.raises(ConfigError, match="an encoder writes no samples"):
        train(tmp_path / "b", RewardInputs(encoder, comparisons(40)), normalise_on="policy")


def test_the_gradient_of_a_batch_is_that_of_trls_reward_trainer(tmp_path):
    """Read once, in any order of length, pairs give what TRL 1.16 computes from both rows of each."""
    ask, other = ((Message(role="user", content=text),) for text in ("Q", "Q2"))
    said = [("yyy", "n", ask, 0), ("nn", "yyy", ask, 1), ("y", "nnnnnn", other, 0)]
    records = [Comparison(id=a + b, prompt=prompt, responses=(a, b), choice=choice) for a, b, prompt, choice in said]
    config = RewardConfig(**SETTINGS, centering=0.01, judgements={"weigh_by": "pair"}, held_out_share=0.0)
    runtime = Runtime.temporary(tmp_path, stage="reward", seed=0)
    inputs = RewardInputs(saved_encoder("roberta", tmp_path / "encoder"), records)
    model, tokenizer = reward.load_start(inputs.model, runtime)
    data = reward.load_data(config, inputs, model, tokenizer, runtime)
    batch = collate(data.train, tokenizer.pad_token_id, runtime.device)
    assert len(batch.inputs.input_ids) == 5  # responses, of three pairs

    def gradient(loss):
        model.zero_grad()
        loss.backward()
        return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])

    scores = scores_of(model, batch)[:, 0]
    label_model = reward.make_label_model(config, data)
    ours = gradient(reward.loss_of_head(scores, None, batch, label_model, config, data) / batch.weight())
    texts = [("Q", "yyy"), ("Q", "yyy"), ("Q2", "y"), ("Q", "n"), ("Q", "nn"), ("Q2", "nnnnnn")]
    rows = tokenizer([prompt for prompt, _ in texts], [text for _, text in texts], padding=True, return_tensors="pt")
    chosen, rejected = model(rows.input_ids, attention_mask=rows.attention_mask).logits.squeeze(-1).chunk(2)
    theirs = gradient(-logsigmoid(chosen - rejected).mean() + 0.01 * torch.mean((chosen + rejected) ** 2))
    assert theirs.norm() > 1e-3
    assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


def test_long_rows_of_an_encoder_are_cut_where_that_is_asked_for(tmp_path):
    encoder = saved_encoder("bert", tmp_path / "encoder")
    said = [
        one.model_copy(update={"prompt": (Message(role="user", content="n" * 60 + one.prompt[0].content),)})
        for one in comparisons(600)
    ]
    settings = dict(learning_rate=1e-2, epochs=3)
    with pytest.raises(DataError, match="no judgement is left"):
        train(tmp_path / "a", RewardInputs(encoder, said), **settings)
    with pytest.raises(DataError, match="no judgement is left"):  # no response would be left either
        train(tmp_path / "b", RewardInputs(encoder, said), cut="response", **settings)
    metrics, output = train(tmp_path / "c", RewardInputs(encoder, said), cut="prompt", **settings)
    untied = sum(one.choice is not None for one in said)
    assert metrics["cut"] == 2 * untied and metrics["too_long"] == 0 and metrics["accuracy"] > 0.75
    scorer, whole, short = (
        RewardModel(output / "model"),
        Sample(Prompt.user("p", "x" * 200 + "n" * 40), "yyyyyy", [], [], finished=True, tokenizer=None),
        Sample(Prompt.user("p", "n" * 31), "yyyyyy", [], [], finished=True, tokenizer=None),  # 40 - 6 - 3 special ones
    )
    with pytest.warns(UserWarning, match="reads at most 40 tokens: 1 of 2 rows are cut, the prompt first"):
        scores = scorer.score([whole, short]).total
    assert scores[0] == pytest.approx(float(scores[1]), abs=1e-5) and scorer.cut == 1


def test_heads_that_see_the_same_are_the_plain_model(policy, tmp_path, monkeypatch):
    plain, output = train(tmp_path / "plain", RewardInputs(policy, comparisons(200)), max_grad_norm=None)
    drawn = reward.reward_model_from

    def alike(lm, seed, *, heads):
        model, one = drawn(lm, seed, heads=heads), drawn(lm, seed)
        head_of(model).weight.data.copy_(head_of(one).weight.expand(heads, -1))
        return model

    monkeypatch.setattr(reward, "reward_model_from", alike)
    monkeypatch.setattr(reward, "bootstrap", lambda groups, heads, seed: torch.ones(groups, heads))
    several, of_heads = train(tmp_path / "b", RewardInputs(policy, comparisons(200)), heads=3, max_grad_norm=None)
    assert several["loss"] == pytest.approx(plain["loss"], rel=1e-3)
    rows = [[70, 1, 2], [9, 8, 7, 6]]
    one, other = (load_reward_model(folder / "model") for folder in (output, of_heads))
    assert_close(score_rows(other, rows, 257), score_rows(one, rows, 257), atol=1e-3, rtol=0)
    assert float(scores_by_head(other, rows, 257).std(1).max()) < 1e-3


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_heads_differ_most_where_nobody_said_anything(policy, tmp_path, kind):
    settings = dict(learning_rate=1e-2, epochs=3) if kind == "encoder" else {}
    start = saved_encoder("bert", tmp_path / "encoder") if kind == "encoder" else policy
    metrics, output = train(tmp_path / "a", RewardInputs(start, comparisons(900)), heads=5, **settings)
    assert metrics["accuracy"] > 0.75
    scorer = RewardModel(output / "model")
    known = [text for one in comparisons(100, seed=5) for text in one.responses]
    strange = ["".join(random.Random(i).choice("ABCDEFXYZ0123456789!?") for _ in range(6)) for i in range(200)]

    def spread(texts):
        samples = [Sample(Prompt.user("p", "Q1"), text, [], [], finished=True, tokenizer=None) for text in texts]
        return float(scorer.score(samples).std.mean())

    assert spread(strange) > 1.2 * spread(known) > 0


def test_heads_do_not_mark_passages():
    with pytest.raises(ValidationError, match="heads has no effect on marked passages"):
        RewardConfig(kinds=("spans",), heads=2)


def test_parts_of_the_prompts_never_meet(policy, tmp_path):
    said = comparisons(200)
    sides = []
    for seed, part in ((1, (0, 0.7)), (2, (0.7, 1))):
        runtime = Runtime.temporary(tmp_path / str(seed), stage=f"reward_{seed}", seed=seed)
        start, tokenizer = reward.load_start(policy, runtime)
        config = RewardConfig(**SETTINGS, part_of_prompts=part)
        data = reward.load_data(config, RewardInputs(policy, said), start, tokenizer, runtime)
        assert data.held_out  # of its own part
        sides.append({one.key for one in data.train + data.held_out})
    untied = sum(one.choice is not None for one in said)
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == untied
    assert 0.6 < len(sides[0]) / untied < 0.8


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"part_of_prompts": (0.5, 0.5)}, "holds nothing"),
        ({"part_of_prompts": (0, 0.5), "labelled": "a"}, "part_of_prompts contradicts labelled"),
        ({"part_of_prompts": (0, 0.5), "kinds": ("spans",)}, "part_of_prompts has no effect on marked passages"),
    ],
)
def test_parts_that_are_none(settings, message):
    with pytest.raises(ValidationError, match=message):
        RewardConfig(**settings)


def test_what_is_of_encoders_alone(policy, tmp_path):
    for settings in ({"cut": "prompt"}, {"dropout": 0.1}):
        with pytest.raises(ConfigError, match=rf"reward.{next(iter(settings))} has an effect on encoders alone"):
            train(tmp_path, RewardInputs(policy, comparisons(40)), **settings)


def test_dropout_is_of_training_alone_and_from_the_seed(tmp_path):
    encoder = saved_encoder("bert", tmp_path / "encoder")
    said, weights = comparisons(100), []
    for name, share in (("a", 0.2), ("b", 0.2), ("c", 0.0)):
        torch.manual_seed(len(weights))  # what ran before does not matter
        _, output = train(tmp_path / name, RewardInputs(encoder, said), dropout=share)
        weights.append(load_file(output / "model" / "model.safetensors"))
    same, other = ([torch.equal(weights[0][name], one[name]) for name in one] for one in weights[1:])
    assert all(same) and not all(other)
    scorer = RewardModel(tmp_path / "a" / "output" / "model")
    sample = Sample(Prompt.user("p", "Q1"), "yyn", [], [], finished=True, tokenizer=None)
    assert torch.equal(*(scorer.score([sample]).total for _ in range(2)))
    assert AutoConfig.from_pretrained(tmp_path / "a" / "output" / "model").hidden_dropout_prob == 0.1  # as it was


def test_labelled_sentences_one_by_one(tmp_path):
    encoder = saved_encoder("roberta", tmp_path / "encoder")
    write_labelled(tmp_path / "train.tsv", 800, seed=8)
    write_labelled(tmp_path / "dev.tsv", 100, seed=7)
    settings = dict(labelled=tmp_path / "train.tsv", held_out_labelled=tmp_path / "dev.tsv", labelled_as="thumbs")
    metrics, _ = train(tmp_path, RewardInputs(encoder), learning_rate=1e-2, epochs=3, **settings)
    assert metrics["label_accuracy"] > 0.75 and metrics["thumb_accuracy"] > 0.75


def test_a_small_model_learns_from_a_large_one(policy, tmp_path):
    shape = SHAPE.model_copy(update={"hidden_size": 48, "layers": 3})
    large = saved(new_llama(shape, tiny_tokenizer(), seed=3), tiny_tokenizer(), tmp_path / "large")
    metrics, output = train(tmp_path / "teacher", RewardInputs(large, comparisons(900)))
    kept, normalised = AutoConfig.from_pretrained(output / "model"), metrics["normalisation"]
    assert (kept.preference_scale, kept.preference_mean) == (normalised["scale"], normalised["mean_before"])
    wrong = [one.model_copy(update={"choice": 0}) for one in comparisons(600, seed=9)]  # nobody reads what people said
    learned, _ = train(tmp_path / "pupil", RewardInputs(policy, wrong), teacher=output / "model")
    assert learned["teacher_agreement"] > 0.9
    alone, _ = train(tmp_path / "c", RewardInputs(policy, wrong[:40]), teacher=output / "model", held_out_share=0)
    assert "teacher_agreement" not in alone
    with pytest.raises(DataError, match="no judgement is left"):  # one response to a prompt compares to nothing
        train(tmp_path / "d", RewardInputs(policy, thumbs=thumbs(40)), teacher=output / "model")
    with pytest.raises(DataError, match="answers no prompt, which a teacher needs"):
        train(tmp_path / "b", RewardInputs(policy, comparisons(40, prompts=False)), teacher=output / "model")


def test_a_folder_of_several_kinds(policy, tmp_path):
    write_records(tmp_path / "thumbs.jsonl", thumbs(100))
    config = RewardConfig(feedback=tmp_path, kinds=("thumbs",), model=policy)
    assert reward.bind(config, {}).thumbs == (tmp_path / "thumbs.jsonl",)
    with pytest.raises(
        ConfigError, match=r"has no comparisons.jsonl, but thumbs; name what to train on in reward.kinds"
    ):
        reward.bind(RewardConfig(feedback=tmp_path, model=policy), {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_learning_rate": 0.1}, "label_learning_rate has no effect"),
        ({"teacher": "t", "annotators": {}}, "annotators has no effect with teacher"),
        ({"comparisons": "a", "feedback": "b"}, "comparisons and feedback both say"),
        ({"comparisons": "a", "kinds": ["thumbs"]}, "kinds has no effect"),
        ({"labelled": "a", "labelled_as": "thumbs", "pairs_per_sentence": 3}, "pairs_per_sentence has no effect"),
        ({"labelled_as": "thumbs"}, "labelled_as has no effect without labelled"),
        ({"judgements": {"criterion": "kind", "safety_weight": 0.1}}, "safety_weight belongs"),
    ],
)
def test_settings_that_contradict(settings, message):
    with pytest.raises(ValidationError, match=message):
        RewardConfig(**settings)


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    "settings",
    [{}, {"annotators": {}, "judgements": {"ties": "davidson"}, "heads": 2}, {"dropout": 0.2}],
    ids=["plain", "all", "dropout"],
)
def test_a_resumed_run_is_the_undisturbed_run_to_the_bit(policy, tmp_path, monkeypatch, settings):
    said = [one.model_copy(update={"annotator": f"ann{i % 3}"}) for i, one in enumerate(comparisons(200))]
    inputs = RewardInputs(saved_encoder("bert", tmp_path / "encoder") if "dropout" in settings else policy, said)
    expected, whole = train(tmp_path / "whole", inputs, **settings)
    collate, calls = reward.collate, []

    def dies(*args, **kwargs):
        calls.append(0)
        if len(calls) == 8:
            raise Killed
        return collate(*args, **kwargs)

    monkeypatch.setattr(reward, "collate", dies)
    with pytest.raises(Killed):
        train(tmp_path / "killed", inputs, **settings)
    got, resumed = train(tmp_path / "killed", inputs, **settings)
    assert got == expected and len(calls) < 8 + expected["steps"]
    for name in ("model/model.safetensors", "calibration.json"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()


def test_a_batch_that_breaks_is_written_down_with_its_prompts(policy, tmp_path, monkeypatch):
    monkeypatch.setattr(reward, "centering_penalty", lambda chosen, rejected: chosen - rejected + torch.nan)
    with pytest.raises(CheckError, match="not finite"):
        train(tmp_path, RewardInputs(policy, comparisons(40)))
    (path,) = tmp_path.rglob("offending-batch-step-0.safetensors")
    saved = load_file(path)
    rows = saved["0.inputs.input_ids"][saved["0.inputs.segments"] == 0]
    assert tiny_tokenizer().decode(rows).startswith("Q") and len(saved["0.pairs.chosen"]) == len(
        saved["0.pairs.rejected"]
    )


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
