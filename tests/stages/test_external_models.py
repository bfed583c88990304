"""Folders that other programs saved go through sft, reward and ppo; what comes out, plain transformers loads."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from loopwright.data.readers import write_records
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Comparison, Demonstration, Message, Prompt
from loopwright.stages import ppo, reward, sft
from tests.tiny import FAMILIES, saved, tiny_model, tiny_tokenizer

TRAINED = {
    "llama": {"mode": "all"},
    "qwen2": {"mode": "lora", "lora": {"r": 2, "alpha": 4, "bias": "all"}},
    "gpt2": {"mode": "top_layers", "layers": 1},
}


def question(number):
    return (Message(role="user", content=f"Is {number} even?"),)


def demonstrations():
    return [
        Demonstration(id=str(i), prompt=question(i), response="yes" if i % 2 == 0 else "no, sorry") for i in range(24)
    ]


def comparisons():
    rng = random.Random(0)
    return [
        Comparison(id=str(i), prompt=question(i), responses=("yes", "no, sorry"), choice=rng.choice([0, 1]))
        for i in range(24)
    ]


@pytest.mark.parametrize("pad", [True, False], ids=["pad", "no-pad"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sft_reward_ppo(family, pad, tmp_path):
    tokenizer = tiny_tokenizer(pad=pad)
    theirs = tiny_model(family, vocab_size=len(tokenizer), scale=1.0)
    folder = saved(theirs, tokenizer, tmp_path / "theirs")
    write_records(tmp_path / "demonstrations.jsonl", demonstrations())
    shared = dict(trainable=TRAINED[family], learning_rate=1e-3)

    def runtime(stage):
        return Runtime.temporary(tmp_path / stage, stage=stage)

    at = runtime("sft")
    config = sft.SFTConfig(**shared, max_steps=3, batch_size_per_device=8, max_length=48, held_out_share=0.1)
    sft.run(config, sft.SFTInputs(folder, tmp_path / "demonstrations.jsonl"), at)
    policy = at.output / "model"

    at = runtime("reward")
    config = reward.RewardConfig(
        **shared,
        max_steps=3,
        batch_size_per_device=8,
        max_length=48,
        reference_samples=8,
        sampling={"max_new_tokens": 8},
    )
    reward.run(config, reward.RewardInputs(policy, comparisons()), at)
    reward_model = at.output / "model"

    at = runtime("ppo")
    config = ppo.PPOConfig(
        **shared, steps=2, rollouts_per_step=8, minibatch_size=4, epochs_per_batch=1, max_new_tokens=8
    )
    prompts = [Prompt(id=str(i), messages=question(i)) for i in range(16)]
    ppo.run(config, ppo.PPOInputs(policy, reward_model, prompts), at)

    expected_class = type(theirs)
    after_sft = AutoModelForCausalLM.from_pretrained(policy)
    after_ppo = AutoModelForCausalLM.from_pretrained(at.output / "model")
    assert type(after_sft) is type(after_ppo) is expected_class
    assert AutoModelForSequenceClassification.from_pretrained(reward_model).config.num_labels == 1
    changed = [not torch.equal(a, b) for a, b in zip(after_sft.parameters(), after_ppo.parameters(), strict=True)]
    assert any(changed) and (all(changed) or family != "llama")

    tokenizer = AutoTokenizer.from_pretrained(at.output / "model")
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Is 3 even?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = after_ppo.generate(**asked, max_new_tokens=4, do_sample=False)
    assert answer.shape[1] > asked["input_ids"].shape[1]
