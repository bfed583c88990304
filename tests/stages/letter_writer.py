"""A tiny policy that answers with letters, and people who like the letter y."""

from pathlib import Path

import torch

from loopwright.data.chat import render_prompts
from loopwright.data.readers import write_records
from loopwright.generation.base import SamplingConfig, decode_responses
from loopwright.generation.engines import make_engine
from loopwright.models.loading import load_causal_lm, load_tokenizer, new_llama
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Demonstration, Message
from loopwright.stages import sft
from tests.stages.test_reward import SHAPE, comparisons
from tests.tiny import saved, tiny_tokenizer


def writer(folder: Path) -> Path:
    """The folder of a policy that writes six letters of "nyo ", each as often, and ends."""
    start = saved(new_llama(SHAPE, tiny_tokenizer(), seed=0), tiny_tokenizer(), folder / "start")
    shown = [(pair.id, pair.prompt, response) for pair in comparisons(300, seed=9) for response in pair.responses]
    demonstrations = [
        Demonstration(id=f"{name}-{i}", prompt=prompt, response=response)
        for i, (name, prompt, response) in enumerate(shown)
    ]
    write_records(folder / "demonstrations.jsonl", demonstrations)
    config = sft.SFTConfig(learning_rate=1e-2, max_steps=60, max_length=40)
    runtime = Runtime.temporary(folder / "run", stage="sft")
    sft.run(config, sft.SFTInputs(start, folder / "demonstrations.jsonl"), runtime)
    return runtime.output / "model"


@torch.no_grad()
def letters_written(folder: Path) -> dict[str, float]:
    """How often a policy writes each letter, and how often it ends."""
    tokenizer, model = load_tokenizer(folder), load_causal_lm(folder)
    prompts = render_prompts(tokenizer, [(Message(role="user", content=f"P{i}"),) for i in range(60)])
    rollouts = make_engine(model, tokenizer).generate(prompts, SamplingConfig(max_new_tokens=10), range(60))
    text = "".join(decode_responses(tokenizer, rollouts))
    found = {letter: text.count(letter) / len(text) for letter in "nyo "}
    return found | {"finished": float(rollouts.finished.float().mean())}
