"""What the reward stage makes of judgements, and what it refuses."""

import json
import random

import pytest
import torch
from pydantic import ValidationError
from torch.nn.functional import logsigmoid
from torch.testing import assert_close

from loopwright.data.readers import write_records
from loopwright.errors import ConfigError, DataError
from loopwright.feedback.pairs import Label
from loopwright.models.heads import reward_model_from
from loopwright.models.loading import LlamaShape, load_causal_lm, load_reward_model, new_llama
from loopwright.rewards import RewardModel, Sample
from loopwright.rewards.reward_model import score_rows
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Correction, Message, Prompt, Ranking, Rating, Thumb
from loopwright.stages import reward
from loopwright.stages.reward import RewardConfig, RewardInputs, load_start
from loopwright.stages.reward_data import sampler, teach
from loopwright.training.preference_pairs import collate
from tests.stages.letter_writer import writer
from tests.stages.test_reward import SETTINGS, comparisons, policy, thumbs, train  # noqa: F401 (a fixture)
from tests.tiny import saved, saved_encoder, tiny_tokenizer


def loaded(folder, inputs, **settings):
    config = RewardConfig(**(SETTINGS | {"held_out_share": 0.0} | settings))
    return config, reward.load_data(
        config, inputs, load_causal_lm(inputs.model), tiny_tokenizer(), Runtime.temporary(folder)
    )


def scored(output, *texts):
    samples = [Sample(Prompt.user("p", "Q1"), text, [], [], finished=True, tokenizer=None) for text in texts]
    return RewardModel(output / "model").score(samples).total


def bad_answers(count, letters="no "):
    rng = random.Random(5)
    return [
        Thumb(
            id=str(i),
            prompt=(Message(role="user", content=f"Q{i}"),),
            responses=("".join(rng.choice(letters) for _ in range(6)),),
            good=False,
        )
        for i in range(count)
    ]


def test_bad_answers_and_their_corrections_train_a_model(policy, tmp_path):  # noqa: F811
    down = bad_answers(40)
    corrected = [
        Correction(id=f"c{one.id}", prompt=one.prompt, responses=one.responses, edited=one.responses[0] + "y")
        for one in down
    ]
    metrics, _ = train(tmp_path / "a", RewardInputs(policy, thumbs=down, corrections=corrected))
    assert metrics["pairs"] + metrics["pairs_held_out"] == 40 and "thumb_accuracy" not in metrics
    assert metrics["judgements"] == {"bad_answers_below_corrections": 40, "corrections": 40, "thumbs": 40}
    metrics, _ = train(tmp_path / "b", RewardInputs(policy, thumbs=down, corrections=corrected[:30]))
    assert metrics["judgements"]["left_out_bad_answers_alone"] == 10 and "thumb_accuracy" not in metrics
    with pytest.raises(DataError, match="all 40 thumbs are down"):
        train(tmp_path / "c", RewardInputs(policy, thumbs=down), held_out_share=0)


def test_bad_answers_are_compared_with_samples_of_the_policy(tmp_path):
    """The policy writes "y" as often as any letter; no answer with one was called bad."""
    start = writer(tmp_path / "writer")
    inputs = RewardInputs(start, thumbs=bad_answers(300))
    metrics, output = train(tmp_path / "a", inputs, fresh_samples=True, sampling={"max_new_tokens": 12})
    counts = metrics["judgements"]
    compared, identical = counts["bad_answers_below_samples"], counts.get("left_out_identical_responses", 0)
    assert compared + counts.get("left_out_bad_answers_alone", 0) == 300 and compared > 200
    assert metrics["pairs"] + metrics["pairs_held_out"] == compared - identical and metrics["accuracy"] > 0.6
    high, low = scored(output, "yyyyyy", "nonono")
    assert high > low + 1
    again, _ = train(tmp_path / "b", inputs, fresh_samples=True, sampling={"max_new_tokens": 12})
    assert again == metrics


def test_bad_answers_are_compared_whatever_was_held_out(tmp_path, policy):  # noqa: F811
    """What was called good there is asked about; samples that do not end there are no reason to stop."""
    start = writer(tmp_path / "writer")
    up = Thumb(id="up", prompt=(Message(role="user", content="Q"),), responses=("yes",), good=True)
    inputs = RewardInputs(start, thumbs=bad_answers(40), held_out=[up])
    metrics, _ = train(tmp_path / "a", inputs, fresh_samples=True, sampling={"max_new_tokens": 12})
    assert metrics["judgements"]["bad_answers_below_samples"] > 20 and "thumb_accuracy" in metrics
    config = RewardConfig(fresh_samples=True, sampling={"max_new_tokens": 1})
    runtime = Runtime.temporary(tmp_path / "b", stage="reward", seed=0)
    sample = sampler(config, *load_start(policy, runtime), runtime, required=False)
    assert sample([Label(up.prompt, "no", "thumb", 0.0)]) == [None]


def test_samples_that_nothing_is_compared_with_are_refused(policy, tmp_path):  # noqa: F811
    for name, thumbs_given in (("a", thumbs(40)), ("b", ())):
        with pytest.raises(ConfigError, match="reward.fresh_samples has no effect"):
            train(tmp_path / name, RewardInputs(policy, comparisons(40), thumbs=thumbs_given), fresh_samples=True)
    with pytest.raises(ConfigError, match=r"none of 5 samples ended within reward.sampling.max_new_tokens = 1"):
        inputs = RewardInputs(policy, thumbs=bad_answers(5))
        train(tmp_path / "c", inputs, fresh_samples=True, sampling={"max_new_tokens": 1}, held_out_share=0)
    with pytest.raises(ConfigError, match="an encoder writes no samples"):
        encoder = saved_encoder("bert", tmp_path / "encoder")
        train(tmp_path / "d", RewardInputs(encoder, thumbs=bad_answers(5)), fresh_samples=True)
    for settings in ({"teacher": "t"}, {"labelled": "l"}, {"kinds": ("spans",)}):
        with pytest.raises(ValidationError, match="fresh_samples has no effect"):
            RewardConfig(fresh_samples=True, **settings)
    sampling = {"max_new_tokens": 5}
    assert RewardConfig(fresh_samples=True, normalise_on="responses", sampling=sampling).sampling.max_new_tokens == 5


def test_what_is_left_must_tell_two_things_apart(policy, tmp_path):  # noqa: F811
    """A decided pair, or an unsafe answer, that is too long is none."""
    tied = [one.model_copy(update={"choice": None}) for one in comparisons(60)]
    with pytest.raises(DataError, match="all 60 pairs are ties"):
        train(tmp_path / "a", RewardInputs(policy, tied), judgements={"ties": "davidson"}, held_out_share=0)
    ask = (Message(role="user", content="R"),)
    long = Comparison(id="long", prompt=ask, responses=("y", "n" * 80), choice=0, safe=(True, False))
    with pytest.raises(DataError, match="all 60 pairs are ties"):
        train(tmp_path / "b", RewardInputs(policy, [*tied, long]), judgements={"ties": "davidson"}, held_out_share=0)
    safe = [one.model_copy(update={"safe": (True, True)}) for one in comparisons(60)]
    with pytest.raises(DataError, match="safety labels say safe"):
        train(tmp_path / "c", RewardInputs(policy, [*safe, long]), judgements={"safety_weight": 0.1}, held_out_share=0)


def test_comparisons_count_by_their_weights(policy, tmp_path):  # noqa: F811
    """Each prompt has one pair. Half of them say that y is good, half that it is bad."""
    said = [one for one in comparisons(700) if one.choice is not None]
    weighted = [
        one.model_copy(update={"weight": 10.0} if i % 2 else {"weight": 0.1, "choice": 1 - one.choice})
        for i, one in enumerate(said)
    ]
    _, data = loaded(tmp_path, RewardInputs(policy, weighted[:2]))
    assert sorted(one.weight() for one in data.train) == pytest.approx([0.1 / 5.05, 10 / 5.05])
    metrics, _ = train(tmp_path / "a", RewardInputs(policy, weighted, held_out=comparisons(100, seed=5)))
    assert metrics["accuracy"] > 0.85
    alike = [one.model_copy(update={"weight": 1.0}) for one in weighted]
    metrics, _ = train(tmp_path / "b", RewardInputs(policy, alike, held_out=comparisons(100, seed=5)))
    assert metrics["accuracy"] < 0.75


def test_losses_with_margins_and_safety_by_hand(policy, tmp_path):  # noqa: F811
    ask = (Message(role="user", content="Q"),)
    said = [Comparison(id="1", prompt=ask, responses=("n", "y"), choice=1, strength="better", safe=(False, True))]
    settings = {"margins": "large", "safety_weight": 0.5}
    config, data = loaded(tmp_path, RewardInputs(policy, said), judgements=settings, centering=0.0)
    batch = collate(data.train, 257, torch.device("cpu"))
    bad, good = scores = torch.tensor([0.3, 1.1])
    loss = reward.loss_of_head(scores, None, batch, reward.make_label_model(config, data), config, data)
    by_hand = -logsigmoid(good - bad - 2.0) + 0.5 * (-logsigmoid(good) - logsigmoid(-bad)) / 2
    assert_close(loss, by_hand)


def test_answers_to_gold_items_show_who_is_reliable(policy, tmp_path):  # noqa: F811
    said = [one for one in comparisons(120) if one.choice is not None]
    named = [one.model_copy(update={"annotator": "ann" if i % 2 else "bob"}) for i, one in enumerate(said)]
    gold = [
        one.model_copy(update={"choice": 1 - one.choice if one.annotator == "bob" and i % 3 else one.choice})
        for i, one in enumerate(named)
    ]
    write_records(tmp_path / "gold.jsonl", gold)
    settings = dict(annotators={"gold": tmp_path / "gold.jsonl"})
    config, data = loaded(tmp_path, RewardInputs(policy, named), **settings)
    wrong = sum(a.choice != b.choice for a, b in zip(named, gold, strict=True))
    bobs = sum(one.annotator == "bob" for one in named)
    assert data.gold == {"ann": (len(named) - bobs, 0), "bob": (bobs - wrong, wrong)} and wrong > bobs / 2
    prior = reward.make_label_model(config, data)
    assert_close(prior.right, torch.tensor([8.0 + len(named) - bobs, 8.0 + bobs - wrong]))  # ann, bob
    metrics, _ = train(tmp_path / "a", RewardInputs(policy, named), **settings)
    people = metrics["annotators"]
    assert people["ann"]["low"] > people["bob"]["high"] and people["bob"]["accuracy"] < 0.65


def test_careless_givers_of_thumbs_are_found_out(policy, tmp_path):  # noqa: F811
    """Two in three are right in 95 %, one in half of the cases; beside them, all comparisons are right."""
    rng = random.Random(3)
    said = []
    for i, one in enumerate(thumbs(1200, seed=2)):
        right = rng.random() < (0.95 if i % 3 else 0.5)
        said.append(one.model_copy(update={"good": one.good == right, "annotator": f"ann{i % 3}"}))
    inputs = RewardInputs(policy, comparisons(400, seed=3), thumbs=said)
    metrics, _ = train(tmp_path, inputs, annotators={}, held_out_share=0, epochs=2)
    found = metrics["annotators"]
    assert found["ann0"]["high"] < found["ann1"]["low"] and found["ann0"]["high"] < found["ann2"]["low"]
    assert sum(person["labels"] for person in found.values()) == 1200 + sum(
        one.choice is not None for one in comparisons(400, seed=3)
    )
    metrics, _ = train(tmp_path / "b", RewardInputs(policy, thumbs=said[:60]), annotators={}, held_out_share=0)
    assert set(metrics["annotators"]) == {"ann0", "ann1", "ann2"}  # thumbs alone will do


def test_what_annotators_are_not_learned_from_is_refused(policy, tmp_path):  # noqa: F811
    said = [one.model_copy(update={"annotator": "ann"}) for one in comparisons(40)]
    ranked = [Ranking(id=one.id, prompt=one.prompt, responses=(*one.responses, "y"), ranks=(2, 1, 3)) for one in said]
    rated = [
        Rating(
            id=one.id, prompt=one.prompt, responses=one.responses[:1], scores={"y": i % 3 + 1}, higher_is_better=True
        )
        for i, one in enumerate(said)
    ]
    for name, inputs, judgements, message in (
        ("a", RewardInputs(policy, said, rankings=ranked), {"rankings_as": "plackett_luce"}, "whole lists"),
        ("b", RewardInputs(policy, said, ratings=rated), {"ratings_as": "regression"}, "numbers"),
        ("c", RewardInputs(policy, comparisons(40), thumbs=thumbs(40)), {}, "no comparison and no thumb names"),
    ):
        with pytest.raises(ConfigError, match=f"reward.annotators.*{message}"):
            train(tmp_path / name, inputs, annotators={}, judgements=judgements)


def test_what_is_wrong_with_the_data_is_said_without_held_out_pairs(policy, tmp_path):  # noqa: F811
    said = comparisons(30)
    both_ways = said[0].model_copy(update={"id": "x", "choice": 1 - said[0].choice})
    _, output = train(tmp_path / "a", RewardInputs(policy, [*said, both_ways]), held_out_share=0)
    report = json.loads((output / "assessment.json").read_text())
    assert set(report) == {"data"} and report["data"]["consistency"]["contradictions"]["count"] == 1
    _, output = train(tmp_path / "b", RewardInputs(policy, thumbs=thumbs(40)), held_out_share=0)
    consistency = json.loads((output / "assessment.json").read_text())["data"]["consistency"]
    assert consistency["thumbs"]["single_class"] is False and sum(consistency["thumbs"]["counts"].values()) == 40


def test_what_length_did_to_labels_does_not_end_up_in_the_scores(policy, tmp_path):  # noqa: F811
    """People like the letter y and length; the scores of texts that differ in length alone are to be alike."""
    rng = random.Random(3)

    def text():
        return " ".join("".join(rng.choice("nyo") for _ in range(2)) for _ in range(rng.randint(1, 4)))

    def liked(answer):
        return 3 * answer.count("y") / len(answer) + 0.6 * len(answer.split())

    said = []
    for i in range(1200):
        pair = (text(), text())
        prompt = (Message(role="user", content=f"Q{i}"),)
        first = 1 / (1 + 2.718 ** (2 * (liked(pair[1]) - liked(pair[0]))))
        said.append(Comparison(id=str(i), prompt=prompt, responses=pair, choice=int(rng.random() > first)))
    pulls, right = {}, {}
    for name, settings in (("without", {}), ("with", {"covariates": ["length"]})):
        metrics, output = train(tmp_path / name, RewardInputs(policy, said), **settings)
        right[name] = metrics.get("accuracy_with_covariates")
        short, long, worst, best = scored(output, "ny", "ny yn ny yn", "nn on", "yy yy")
        pulls[name] = float((long - short) / (best - worst))
    assert metrics["length_nats"] > 0.5 and pulls["without"] > 0.5
    assert right["without"] is None and right["with"] > metrics["accuracy"] + 0.05
    assert abs(pulls["with"]) < 0.4 * pulls["without"]


def test_a_teachers_differences_are_taken_in_its_own_unit(policy, tmp_path):  # noqa: F811
    """A teacher of another size than the pupil, whose scores are 2.5 times as large in its own loss."""
    shape = LlamaShape(hidden_size=48, layers=3, heads=2, intermediate_size=64, max_positions=64, initializer_range=0.1)
    large = reward_model_from(new_llama(shape, tiny_tokenizer(), seed=4), seed=5)
    large.config.preference_scale = 2.5
    folder = saved(large, tiny_tokenizer(), tmp_path / "teacher")
    _, data = loaded(tmp_path, RewardInputs(policy, comparisons(3)))
    groups = teach(data.train, RewardModel(folder), tiny_tokenizer())
    assert len(groups) == 3
    for one in groups:
        first, second = score_rows(load_reward_model(folder), one.rows, 257).tolist()
        (pair,) = one.pairs
        assert pair.probability == pytest.approx(torch.tensor(2.5 * (first - second)).sigmoid().item(), rel=1e-4)
        assert pair.choice == int(first < second)
