"""A model of where people mark passages, and its rewards on tokens."""

import json
import random
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch.testing import assert_close

from loopwright.errors import ConfigError, DataError, ModelError
from loopwright.models.heads import Critic
from loopwright.models.loading import LlamaShape, new_llama
from loopwright.rewards.base import Sample
from loopwright.rewards.spans import SpanReward
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Message, Prompt, Span, SpanFeedback
from loopwright.stages import reward
from loopwright.stages.reward import RewardConfig, RewardInputs
from loopwright.training.marked import marked_tokens
from tests.tiny import saved, tiny_tokenizer

SHAPE = LlamaShape(hidden_size=32, layers=2, heads=2, intermediate_size=48, max_positions=64, initializer_range=0.1)
SETTINGS = dict(learning_rate=3e-3, batch_size_per_device=16, max_length=40, save_steps=5, log_steps=5, kinds=["spans"])


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return saved(new_llama(SHAPE, tiny_tokenizer(), seed=0), tiny_tokenizer(), tmp_path_factory.mktemp("policy"))


def marked(count, *, seed=0):
    """People mark every letter x."""
    rng = random.Random(seed)
    texts = ["".join(rng.choice("xyo ") for _ in range(8)) for _ in range(count)]
    return [
        SpanFeedback(
            id=str(i),
            prompt=(Message(role="user", content=f"Q{i}"),),
            responses=(text,),
            spans=tuple(Span(start=k, end=k + 1, label="wrong") for k, letter in enumerate(text) if letter == "x"),
        )
        for i, text in enumerate(texts)
    ]


def train(folder, inputs, **settings):
    runtime = Runtime.temporary(folder, stage="reward", seed=1)
    return reward.run(RewardConfig(**(SETTINGS | settings)), inputs, runtime).metrics, runtime.output


def sample(text, *, ask="Q1"):
    tokenizer = tiny_tokenizer()
    prompt, ids = Prompt.user("p", ask), [*tokenizer.encode(text), 256]
    return Sample(prompt, text, tokenizer.encode(ask), ids, finished=True, tokenizer=tokenizer)


def test_it_finds_what_people_mark_and_tokens_cost_it(policy, tmp_path):
    metrics, output = train(tmp_path, RewardInputs(policy, spans=marked(400)), epochs=3)
    assert metrics["token_auc"] > 0.95 and metrics["responses"] + metrics["responses_held_out"] == 400
    scorer = SpanReward(output / "model")
    scores = scorer.score([sample("yxyx"), sample("yo")])
    assert scores.per_token.shape == (2, 5) and scores.total.tolist() == [0.0, 0.0]
    row = scores.per_token[0]
    assert min(row[0], row[2], row[4]) > max(row[1], row[3]) + 0.3  # the two letters x cost most
    assert scores.per_token[1, 3:].tolist() == [0.0, 0.0]  # after its end there is nothing
    alone = scorer.score([sample("yo")]).per_token
    assert_close(alone[0], scores.per_token[1, :3], atol=1e-5, rtol=0)


def test_the_loss_of_the_first_step_is_the_mean_of_a_token(policy, tmp_path):
    """-log of the probability that the model it starts from gives each mark, worked out from that model by hand."""
    records, whole = (
        marked(24),
        dict(batch_size_per_device=24, held_out_share=0.0, log_steps=1, max_steps=1, epochs=None),
    )
    _, output = train(tmp_path, RewardInputs(policy, spans=records), **whole)
    recorded = json.loads((output.parent / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    runtime = Runtime.temporary(tmp_path / "again", stage="reward", seed=1)
    model = reward.reward_model_from(reward.load_causal_lm(policy), runtime.seed_for("head"))
    losses, critic = [], Critic(model)
    for row in marked_tokens(records, tiny_tokenizer(), None, append_eos=True):
        ids = torch.tensor([row.prompt_ids + row.response_ids])
        chances = critic(ids, torch.ones_like(ids).bool())[0, len(row.prompt_ids) :].sigmoid()
        losses += [-(chance if mark else 1 - chance).log() for chance, mark in zip(chances, row.marks, strict=True)]
    assert recorded == pytest.approx(float(torch.stack(losses).mean().detach()), rel=1e-4)


def test_the_rest_is_refused(policy, tmp_path):
    with pytest.raises(DataError, match="0 of .* tokens .* are marked.*the labels are wrong"):
        train(tmp_path / "a", RewardInputs(policy, spans=marked(40)), span_labels=["rude"])
    with pytest.raises(ValidationError, match="train them in two stages"):
        RewardConfig(kinds=["spans", "comparisons"])
    with pytest.raises(ValidationError, match="span_labels has no effect"):
        RewardConfig(span_labels=["rude"])
    with pytest.raises(ValidationError, match="centering has no effect on marked passages"):
        RewardConfig(kinds=["spans"], centering=0.1)


def test_a_reward_model_of_answers_finds_no_spans(policy, tmp_path):
    model = reward.reward_model_from(reward.load_causal_lm(policy), seed=0)
    with pytest.raises(ModelError, match="was not trained on marked passages"):
        SpanReward(saved(model, tiny_tokenizer(), tmp_path))
    model.config.finds_spans = True
    scorer = SpanReward(saved(model, tiny_tokenizer(), tmp_path))
    other = tiny_tokenizer()
    other.add_tokens(["more"])
    with pytest.raises(ConfigError, match="another vocabulary"):
        scorer.score([replace(sample("yo"), tokenizer=other)])
