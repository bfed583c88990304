"""What other implementations of PPO and its relatives say of a small batch, for tests/objectives/test_against_peers.py.

    pip install --no-deps --target PEERS verl==0.9.1 openrlhf==0.11.2 torchtune==0.6.1 trl==1.12.0
    python benchmarks/golden.py PEERS

Reads the inputs in tests/golden/peers.json and writes beside them what each peer makes of these, in float64. Single
functions are taken out of the peers' files, so nothing that they import need be there. Rows are kept without padding:
every peer gets the padding it expects, and what it says of padding is dropped.
"""

from __future__ import annotations

import argparse
import ast
import json
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "peers.json"
INPUTS = json.loads(GOLDEN.read_text())["inputs"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path)
    folder = parser.parse_args().peers
    torch.set_default_dtype(torch.float64)
    peers = {}
    for peer in (verl, openrlhf, torchtune, trl):
        (installed,) = distributions(name=peer.__name__, path=[str(folder)])
        peers[peer.__name__] = {"version": installed.version, **peer(folder / peer.__name__, padded("right"))}
    text = json.dumps({"inputs": INPUTS, "peers": peers}, indent=1)
    GOLDEN.write_text(re.sub(r"\[[^\[\]{}]+\]", lambda row: "[" + " ".join(row[0][1:-1].split()) + "]", text) + "\n")


def verl(package: Path, b: SimpleNamespace) -> dict[str, Any]:
    tools = load(
        package / "utils/torch_functional.py",
        "masked_sum masked_mean masked_var masked_whiten clip_by_value "
        "logprobs_from_logits logprobs_from_logits_v2 log_probs_from_logits_response",
        FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE=False,
        NPU_CROSS_ENTROPY_LOSS_AVAILABLE=False,
    )
    core = load(
        package / "trainer/ppo/core_algos.py",
        "AdaptiveKLController compute_gae_advantage_return compute_rewards kl_penalty_forward "
        "agg_loss compute_policy_loss compute_value_loss compute_grpo_outcome_advantage compute_rloo_outcome_advantage "
        "compute_reinforce_plus_plus_outcome_advantage compute_reinforce_plus_plus_baseline_outcome_advantage",
        verl_F=tools,
        defaultdict=defaultdict,
    )
    manager = load(package / "experimental/reward_loop/reward_manager/base.py", "assemble_rm_scores")
    batch = {"prompts": b.prompts, "responses": b.responses, "attention_mask": b.rows != b.pad}
    scores = manager.assemble_rm_scores(None, SimpleNamespace(batch=batch), INPUTS["scores"])
    rewards = core.compute_rewards(scores, b.logprobs, b.reference_logprobs, b.kl_coef)

    def gae(b: SimpleNamespace) -> tuple[Tensor, Tensor]:
        return core.compute_gae_advantage_return(b.rewards, b.values, b.mask.long(), b.gamma, b.lam)

    policy = core.compute_policy_loss(
        b.logprobs, b.new_logprobs, b.advantages, b.mask, b.clip_range, clip_ratio_c=1e9  # without the dual clip
    )  # fmt: skip
    mean_kept = kept(tools.masked_whiten(b.rewards, b.mask, shift_mean=False), b.mask)
    value = core.compute_value_loss(b.new_values, b.returns, b.values, b.mask, b.value_clip_range)
    model = load(package / "utils/model.py", "compute_position_id_with_mask")
    positions = model.compute_position_id_with_mask(b.rows != b.pad)
    logprobs = tools.log_probs_from_logits_response(b.rows, logits(b, positions), b.mask.shape[1])
    return {
        "token_rewards": dict(function="assemble_rm_scores, compute_rewards", rewards=kept(rewards, b.mask)),
        "gae": dict(function="compute_gae_advantage_return", **on_both_sides(gae, "whitened_advantages")),
        "whiten": dict(
            function="masked_whiten", variance="unbiased", **whitened(tools.masked_whiten, b), mean_kept=mean_kept
        ),
        "kl": dict(function="kl_penalty_forward", **estimates(core.kl_penalty_forward, b)),
        "adaptive_kl": dict(function="AdaptiveKLController", coefficients=coefficients(core.AdaptiveKLController)),
        "policy_loss": dict(
            function="compute_policy_loss", **loss(policy[0], b.new_logprobs, b), clip_fraction=number(policy[1])
        ),
        "value_loss": dict(
            function="compute_value_loss", **loss(value[0], b.new_values, b), clip_fraction=number(value[1])
        ),
        "logprobs": dict(function="log_probs_from_logits_response", **read(positions, logprobs, b)),
        "groups": verl_groups(core),
        "aggregation": dict(
            function="agg_loss",
            token_mean=number(core.agg_loss(b.grouped_rewards, grouped_mask(), "token-mean")),
            response_mean=number(core.agg_loss(b.grouped_rewards, grouped_mask(), "seq-mean-token-mean")),
            response_sum=number(core.agg_loss(b.grouped_rewards, grouped_mask(), "seq-mean-token-sum-norm")),
        ),
    }


def verl_groups(core: SimpleNamespace) -> dict[str, Any]:
    """Advantages without a critic. With a baseline, verl's REINFORCE++ reads rewards of whole responses alone."""
    rewards, mask = padded("right").grouped_rewards, grouped_mask()
    prompts = np.arange(len(rewards)) // INPUTS["samples_per_prompt"]
    outcomes = torch.zeros_like(rewards)
    outcomes[torch.arange(len(rewards)), mask.sum(1) - 1] = rewards.sum(1)
    given, gamma = (rewards, mask.double()), SimpleNamespace(gamma=1.0)
    baseline = core.compute_reinforce_plus_plus_baseline_outcome_advantage(outcomes, mask.double(), prompts)
    found = {
        "grpo": core.compute_grpo_outcome_advantage(*given, prompts),
        "dr_grpo": core.compute_grpo_outcome_advantage(*given, prompts, norm_adv_by_std_in_grpo=False),
        "rloo": core.compute_rloo_outcome_advantage(*given, prompts),
        "reinforce_plus_plus": core.compute_reinforce_plus_plus_outcome_advantage(*given, gamma),
        "reinforce_plus_plus_baseline": baseline,
    }
    functions = "compute_grpo_, compute_rloo_, compute_reinforce_plus_plus_(baseline_)outcome_advantage"
    return {"function": functions} | {name: kept(advantages, mask) for name, (advantages, _) in found.items()}


def openrlhf(package: Path, b: SimpleNamespace) -> dict[str, Any]:
    tools = load(package / "models/utils.py", "compute_approx_kl compute_reward masked_mean masked_normalize")
    losses = load(package / "models/loss.py", "aggregate_loss PolicyLoss ValueLoss", masked_mean=tools.masked_mean)
    maker = load(package / "trainer/ppo_utils/experience_maker.py", "get_advantages_and_returns get_cumulative_returns")
    controller = load(package / "trainer/ppo_utils/kl_controller.py", "AdaptiveKLController").AdaptiveKLController
    kl = estimates(lambda new, base, k: tools.compute_approx_kl(new, base, kl_estimator=k), b)
    rewards = tools.compute_reward(b.scores, b.kl_coef, b.logprobs - b.reference_logprobs, b.mask)

    def gae(b: SimpleNamespace) -> tuple[Tensor, Tensor]:
        return maker.get_advantages_and_returns(None, b.values, b.rewards, b.mask, b.gamma, b.lam)

    policy = losses.PolicyLoss(b.clip_range, b.clip_range)(b.new_logprobs, b.logprobs, b.advantages, b.mask)
    value = losses.ValueLoss(b.value_clip_range)(b.new_values, b.values, b.returns, b.mask)
    return {
        "token_rewards": dict(function="compute_reward", rewards=kept(rewards, b.mask)),
        "gae": dict(function="get_advantages_and_returns", **on_both_sides(gae, "advantages")),
        "whiten": dict(
            function="masked_normalize", variance="biased", **whitened(partial(tools.masked_normalize, dim=(0, 1)), b)
        ),
        "kl": dict(function="compute_approx_kl", **kl),
        "adaptive_kl": dict(function="AdaptiveKLController", coefficients=coefficients(controller)),
        "policy_loss": dict(
            function="PolicyLoss", **loss(policy[0], b.new_logprobs, b), clip_fraction=number(policy[1])
        ),
        "value_loss": dict(function="ValueLoss", **loss(value, b.new_values, b)),
        "groups": dict(
            function="get_cumulative_returns",
            to_come=kept(maker.get_cumulative_returns(None, b.grouped_rewards, grouped_mask(), 1.0), grouped_mask()),
        ),
        "aggregation": dict(
            function="aggregate_loss",
            token_mean=number(losses.aggregate_loss(b.grouped_rewards, grouped_mask(), True)),
            response_mean=number(losses.aggregate_loss(b.grouped_rewards, grouped_mask(), False)),
        ),
    }


def torchtune(package: Path, b: SimpleNamespace) -> dict[str, Any]:
    tools = load(package / "rlhf/rewards.py", "get_rewards_ppo estimate_advantages whiten masked_mean masked_var")
    sequences = load(package / "rlhf/sequence_processing.py", "logits_to_logprobs truncate_sequence_for_logprobs")
    generation = load(package / "generation/_generation.py", "get_position_ids_from_padding_mask")
    last = load(package / "training/pooling.py", "get_unmasked_sequence_lengths").get_unmasked_sequence_lengths(~b.mask)
    rewards, _, _ = tools.get_rewards_ppo(b.scores, b.logprobs, b.reference_logprobs, b.kl_coef, last)
    # Its advantages are no measure: its `whiten` adds the mean back when it is asked to take it out.
    _, returns = tools.estimate_advantages(b.values, b.rewards, b.gamma, b.lam, b.mask)
    ppo = load(package / "rlhf/loss/ppo.py", "PPOLoss", rlhf=tools).PPOLoss(b.clip_range, b.value_clip_range, 1.0)
    total, policy, value, _, clipped = ppo(
        b.logprobs, b.new_logprobs, b.advantages, b.values, b.new_values, b.returns, b.mask, b.mask
    )  # the first alone has gradients
    positions = generation.get_position_ids_from_padding_mask(b.rows != b.pad)
    of_response = sequences.truncate_sequence_for_logprobs(logits(b, positions), b.prompts.shape[1])
    logprobs = sequences.logits_to_logprobs(of_response, b.responses)
    return {
        "token_rewards": dict(function="get_rewards_ppo", rewards=kept(rewards, b.mask)),
        "gae": dict(function="estimate_advantages", returns=kept(returns, b.mask)),
        "policy_loss": dict(
            function="PPOLoss", **loss(total, b.new_logprobs, b, policy), clip_fraction=number(clipped)
        ),
        "value_loss": dict(function="PPOLoss", **loss(total, b.new_values, b, value)),
        "logprobs": dict(function="truncate_sequence_for_logprobs, logits_to_logprobs", **read(positions, logprobs, b)),
    }


def trl(package: Path, b: SimpleNamespace) -> dict[str, Any]:
    trainer = package / "experimental/ppo/ppo_trainer.py"
    whiten = load(trainer, "masked_mean masked_var masked_whiten").masked_whiten

    def rollout(estimator: str) -> SimpleNamespace:
        args = SimpleNamespace(**vars(b), kl_estimator=estimator, whiten_rewards=False)
        given = {"args": args, "self": SimpleNamespace(args=args, processing_class=SimpleNamespace(eos_token_id=b.eos))}
        given |= {"logprobs": b.logprobs, "ref_logprobs": b.reference_logprobs, "INVALID_LOGPROB": 1.0}
        given |= {"responses": b.responses, "postprocessed_responses": b.responses, "values": b.values}
        given |= {"scores": b.scores.clone(), "sequence_lengths": b.mask.sum(1) - 1, "masked_whiten": whiten}
        return run(between(trainer, "contain_eos_token", "advantages"), given)

    mean_kept = kept(whiten(b.rewards, b.mask, shift_mean=False), b.mask)
    k1, k3 = rollout("k1"), rollout("k3")
    return {
        "whiten": dict(function="masked_whiten", variance="unbiased", **whitened(whiten, b), mean_kept=mean_kept),
        "kl": dict(function="PPOTrainer.train", k1=kept(k1.kl, b.mask), k3=kept(k3.kl, b.mask)),
        "rollout": dict(  # rewards and returns reach one place past the response
            function="PPOTrainer.train",
            rewards=kept(k1.rewards),
            returns=kept(k1.returns),
            whitened_advantages=kept(k1.advantages, b.mask),
        ),
    }


def padded(side: str) -> SimpleNamespace:
    """The inputs with rows as tensors, [B, R] mask, and `rows`: prompts, padded on the left, with their responses."""
    b = SimpleNamespace(**INPUTS)
    for name, rows in INPUTS.items():
        if isinstance(rows, list) and isinstance(rows[0], list):
            pads = [[b.pad] * (max(map(len, rows)) - len(row)) for row in rows]
            left = side == "left" or name == "prompts"
            setattr(b, name, torch.tensor([p + row if left else row + p for row, p in zip(rows, pads, strict=True)]))
    b.scores, b.mask, b.rows = torch.tensor(b.scores), b.responses != b.pad, torch.cat((b.prompts, b.responses), 1)
    b.new_logprobs.requires_grad_()
    b.new_values.requires_grad_()
    return b


def grouped_mask() -> Tensor:
    """[P * n, R] bool: neighbouring rows answer one prompt."""
    lengths = torch.tensor([len(row) for row in INPUTS["grouped_rewards"]])
    return torch.arange(int(lengths.max())) < lengths[:, None]


def number(value: Any) -> float:
    return round(value.item() if isinstance(value, Tensor) else float(value), 8)


def kept(values: Tensor, mask: Tensor | None = None) -> list[list[float]]:
    """Row by row what stands at the true places, everything without a mask."""
    places = torch.ones_like(values).bool() if mask is None else mask
    return [[number(x) for x in row[true]] for row, true in zip(values, places, strict=True)]


def on_both_sides(gae: Callable[[SimpleNamespace], tuple[Tensor, Tensor]], advantages: str) -> dict[str, Any]:
    right, left = padded("right"), padded("left")
    of_right, of_left = gae(right), gae(left)
    outputs = {"returns": kept(of_right[1], right.mask), "returns_padded_on_the_left": kept(of_left[1], left.mask)}
    return outputs | {advantages: kept(of_right[0], right.mask)}


def whitened(whiten: Callable[..., Tensor], b: SimpleNamespace) -> dict[str, Any]:
    """Of the batch, and of a batch of one token, which has no unbiased variance: an error or NaN, kept as null."""
    try:
        alone = number(whiten(b.rewards[2:3], b.mask[2:3])[0, 0])
    except ValueError:
        alone = math.nan
    return {"whitened": kept(whiten(b.rewards, b.mask), b.mask), "one_token": None if math.isnan(alone) else alone}


def estimates(kl: Callable[[Tensor, Tensor, str], Tensor], b: SimpleNamespace) -> dict[str, Any]:
    return {k: kept(kl(b.logprobs, b.reference_logprobs, k), b.mask) for k in ("k1", "k2", "k3")}


def coefficients(controller: Callable[[float, float, int], Any]) -> list[float]:
    """After each batch."""
    adaptive, after = controller(INPUTS["kl_coef"], INPUTS["kl_target"], INPUTS["kl_horizon"]), []
    for kl in INPUTS["kl_nats_per_response"]:
        adaptive.update(kl, INPUTS["episodes"])
        after.append(number(adaptive.value))
    return after


def loss(mean: Tensor, new: Tensor, b: SimpleNamespace, reported: Tensor | None = None) -> dict[str, Any]:
    (gradient,) = torch.autograd.grad(mean, new, retain_graph=True)
    return {"loss": number(mean if reported is None else reported), "gradient": kept(gradient, b.mask)}


def logits(b: SimpleNamespace, positions: Tensor) -> Tensor:
    """A model that knows the token before and its position."""
    return b.next_token_logits[b.rows] / (1 + positions)[:, :, None]


def read(positions: Tensor, logprobs: Tensor, b: SimpleNamespace) -> dict[str, Any]:
    return {"positions": kept(positions, b.rows != b.pad), "logprobs": kept(logprobs, b.mask)}


def load(path: Path, names: str, **given: object) -> SimpleNamespace:
    """Functions, methods and classes of a file, without its imports and their decorators."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names.split():
            node.decorator_list = []
            found.append(node)
    return run(found, given)


def between(path: Path, first: str, last: str) -> list[ast.stmt]:
    """The statements of one `with` from the first assignment to `first` to the last one to `last`."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = node.body if isinstance(node, ast.With) else []
        assigned = [ast.unparse(x.targets[0]) if isinstance(x, ast.Assign) else "" for x in body]
        if first in assigned:
            return body[assigned.index(first) : len(body) - assigned[::-1].index(last)]
    raise LookupError(f"{path}: no assignment to {first}")


def run(body: list[ast.stmt], given: dict[str, object]) -> SimpleNamespace:
    names = {"torch": torch, "nn": nn, "F": F, "np": np, "os": os, **given}
    exec(compile(ast.Module(body, type_ignores=[]), "peer", "exec"), names)  # its annotations stay unread, as ours do
    return SimpleNamespace(**names)


if __name__ == "__main__":
    main()
