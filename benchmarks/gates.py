"""What must hold before PPO or sampling is timed: both sides compute the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from shapes import EOS, PAD
from torch import Tensor

from loopwright.generation.base import Rollouts
from loopwright.models.loading import load_causal_lm, load_reward_model, load_tokenizer
from loopwright.models.padding import position_ids
from loopwright.models.tokens import forbidden_token_ids
from loopwright.rewards.reward_model import score_rows
from loopwright.runtime.runtime import Runtime
from loopwright.stages import ppo
from loopwright.training.ppo_batch import Episodes
from loopwright.training.ppo_checks import TOLERANCES

ROWS, PROMPT = 8, 16  # rows, and tokens of each that count as its prompt; the others are read as a response
MOST = 1e-3  # float32: of log-probabilities in nats, of values and scores in their own unit
Reading = Mapping[str, Sequence[float]]


def save_rows(folder: Path) -> None:
    """`gate.pt`: [ROWS, W] int64 of the prompts' words, every other row with EOS in its last place."""
    rows = torch.load(folder / "prompts.pt")[:ROWS].clone()
    rows[1::2, -1] = EOS
    torch.save(rows, folder / "gate.pt")


def read(folder: Path) -> Reading:
    """What our learner, its critic and the reward model say of these rows, row by row."""
    rows = torch.load(folder / "gate.pt")
    count, response = len(rows), rows.shape[1] - PROMPT
    inputs = ppo.PPOInputs(folder / "policy", folder / "reward", [])
    runtime = Runtime.temporary(folder / "gate", stage="ppo")
    policy, tokenizer = load_causal_lm(inputs.policy), load_tokenizer(inputs.policy)
    config = ppo.PPOConfig(rollouts_per_step=count, minibatch_size=count)
    learner = ppo.make_learner(config, inputs, ppo.load_reward(inputs, runtime), policy, tokenizer, runtime)
    mask, prompts = torch.ones(count, response).bool(), torch.full((count,), PROMPT)
    episodes = Episodes(rows, prompts, mask, torch.zeros(count, response), rows[:, -1] == EOS)
    scores = score_rows(load_reward_model(folder / "reward"), rows.tolist(), PAD)
    found = {"logprobs": learner.response_logprobs(episodes), "values": learner.response_values(episodes)}
    return {name: values.tolist() for name, values in (found | {"scores": scores}).items()}


def check_same(ours: Reading, theirs: Reading) -> dict[str, float]:
    """The largest difference of each figure; stops where one is not rounding."""
    gaps = {}
    for name in ours:
        one, other = torch.tensor(ours[name]), torch.tensor(theirs[name])
        gaps[name] = (one - other).abs().max().item() if one.shape == other.shape else float("inf")
        if not gaps[name] <= MOST:
            raise SystemExit(
                f"{name} of the same tokens under the same weights differ by {gaps[name]:.2g} between the two sides "
                f"(rounding: at most {MOST:g}), so they do not do the same work; nothing was timed"
            )
    return gaps


@torch.no_grad()
def check_sampler(model: Any, tokenizer: Any, rollouts: Rollouts, precision: str = "float32") -> float:
    """Nats a token, mean, between the sampler's log-probabilities and transformers' own; stops where they part."""
    rollouts = Rollouts(*(part.to(model.device) for part in rollouts))
    ids, mask = rollouts.sequences(), rollouts.attention_mask()
    logits: Tensor = model(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask)).logits.float()
    logits[..., forbidden_token_ids(tokenizer, logits.shape[-1]).to(logits.device)] = -torch.inf
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    drift = (logprobs[:, rollouts.prompt_ids.shape[1] - 1 :] - rollouts.logprobs)[rollouts.response_mask]
    mean = drift.abs().mean().item()
    if not mean <= TOLERANCES[precision].mean:
        raise SystemExit(
            f"the sampler's log-probabilities are {mean:.2g} nats a token from the model's own ({precision}: at most "
            f"{TOLERANCES[precision].mean:g}), so what would be timed is not this model; nothing was"
        )
    return mean
