"""Invariants of PPO that are checked while it runs. Each one stops the run and says what is wrong."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import safetensors.torch
import torch
from torch import Tensor

from loopwright.errors import CheckError
from loopwright.training.ppo_batch import Episodes, Experience
from loopwright.training.precision import Precision


class Tolerance(NamedTuple):
    """How far two ways to compute the same may part. Nats: the sampler reads a cache, the learner whole rows."""

    mean: float
    largest: float
    worth_a_word: float  # mean from which a run is told


TOLERANCES = {"float32": Tolerance(1e-4, 1e-3, 3e-5), "bfloat16": Tolerance(0.05, 2.0, 0.01)}
PADDING_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}
PADDED_ROWS = 8  # how many rows the padding checks look at


class _Learner(Protocol):
    @property
    def critic(self) -> object | None: ...
    def response_logprobs(self, episodes: Episodes) -> Tensor: ...
    def response_values(self, episodes: Episodes) -> Tensor: ...


def check_ratio_is_one(drift: Tensor, step: int, precision: Precision = "float32") -> None:
    """On the first minibatch after sampling, new and old policy are the same: [N] log ratios must be 0.

    Raises:
        CheckError: they are not.
    """
    if _is_zero(drift, precision):
        return
    raise CheckError(
        f"step {step}: before its first update the policy's log-probabilities differ from the sampler's by "
        f"{_mean(drift):.2g} on average and {_largest(drift):.2g} at most, so the ratio is not 1; sampler and learner "
        "must agree on temperature, forbidden tokens, positions and dropout, and logits must be a plain linear head's"
    )


def watch_sampler(drift: float, step: int, precision: Precision, say: Callable[[str], None]) -> None:
    """A word where sampler and learner part by more than is usual at this precision; nats, mean over tokens."""
    tolerance = TOLERANCES[precision]
    if drift > tolerance.worth_a_word:
        float32 = f"the run stops at {tolerance.mean:.0e}; look at the model's largest activations"
        other = "tokens are weighed for it, but look at the model's largest activations, or use float32"
        say(
            f"step {step}: sampler and learner differ by {drift:.2g} nats a token on average, more than {precision} "
            f"usually does; {float32 if precision == 'float32' else other}"
        )


def check_reference_is_policy(episodes: Episodes, reference_logprobs: Tensor, precision: Precision = "float32") -> None:
    """Before the first update KL(policy || reference) is 0, token by token.

    Raises:
        CheckError: it is not.
    """
    difference = (episodes.logprobs - reference_logprobs)[episodes.mask]
    if _is_zero(difference, precision):
        return
    raise CheckError(
        "before the first update KL(policy || reference) is not 0: log-probabilities differ by "
        f"{_mean(difference):.2g} on average and {_largest(difference):.2g} at most; "
        "the reference must be the policy that training starts from, at the same temperature"
    )


def check_padding(learner: _Learner, episodes: Episodes, precision: Precision = "float32") -> None:
    """A policy, and a critic, give a row the same alone as beside longer rows, and whatever stands in its padding.

    Raises:
        CheckError: they do not.
    """
    few = episodes.rows(torch.arange(min(PADDED_ROWS, len(episodes.ids)), device=episodes.ids.device))
    wide = torch.nn.functional.pad(few.ids, (0, 3))
    columns = torch.arange(wide.shape[1], device=wide.device)
    junk = few._replace(ids=torch.where(columns < few.lengths()[:, None], wide, few.ids[0, 0]))
    measures = {"policy": learner.response_logprobs}
    if learner.critic is not None:
        measures["critic"] = learner.response_values
    for name, measure in measures.items():
        alone = [measure(few.rows(torch.tensor([row], device=wide.device))) for row in range(len(few.ids))]
        gap = _largest(torch.cat(alone) - measure(junk))
        if not gap <= PADDING_TOLERANCE[precision]:
            raise CheckError(
                f"the {name} is not invariant to padding: a token's result changes by {gap:.2g} with what stands "
                "behind its row; use a causal model whose attention looks at nothing later"
            )


def check_reward_padding(name: str, together: Tensor, alone: Tensor, precision: Precision = "float32") -> None:
    """A reward model scores a response the same beside others as alone: two [n] tensors of the same responses.

    Raises:
        CheckError: it does not.
    """
    gap = _largest(together - alone)
    if not gap <= PADDING_TOLERANCE[precision] * max(1.0, _largest(alone)):
        raise CheckError(
            f"the reward model {name} is not invariant to padding: a score changes by {gap:.2g} when longer responses "
            "share its batch; its pad token must be masked and its score read at the last real token"
        )


def check_scores(scores: Tensor, responses: Sequence[str], *, first: bool) -> None:
    """[B] scores are finite and, at the first step, not all the same unless the responses are.

    Raises:
        CheckError: they are not.
    """
    broken = (~torch.isfinite(scores)).nonzero().flatten().tolist()
    if broken:
        raise CheckError(
            f"the reward is {scores[broken[0]].item()} for {len(broken)} of {len(scores)} responses, "
            f"first for {responses[broken[0]][:60]!r}; a reward must be a finite number"
        )
    if first and len(set(responses)) > 1 and bool((scores == scores[0]).all()):
        raise CheckError(
            f"the reward gives the same score, {scores[0].item():.4g}, to all {len(scores)} responses that it "
            "was asked about first, so there is nothing to learn; give a reward that tells them apart (a reward "
            "model: look at its held-out accuracy)"
        )


def non_finite_loss(scratch: Path, step: int, state: Mapping[str, Any], batch: Experience) -> CheckError:
    """Write weights and minibatch of an update that broke, and return the error to raise.

    The weights are those before the update; checkpoints are left as they are, so that a run with other settings or a
    repaired reward can go on from the last one.
    """
    folder = scratch / f"non-finite-step-{step}"
    folder.mkdir(parents=True, exist_ok=True)
    parts = [part for part in ("policy", "critic") if part in state]
    weights = {f"{part}.{name}": _whole(tensor) for part in parts for name, tensor in state[part].items()}
    safetensors.torch.save_file(weights, folder / "state.safetensors")
    tensors = batch.episodes._asdict() | batch._asdict()
    kept = {name: _whole(value) for name, value in tensors.items() if isinstance(value, Tensor) and name != "below"}
    safetensors.torch.save_file(kept, folder / "batch.safetensors")
    return CheckError(
        f"step {step}: the loss or its gradient is not finite; the weights before it and the batch are in {folder}: "
        "lower the learning rate, or look for extreme rewards in the batch"
    )


def _is_zero(difference: Tensor, precision: Precision) -> bool:
    # Written so that NaN is not zero.
    tolerance = TOLERANCES[precision]
    return _mean(difference) <= tolerance.mean and _largest(difference) <= tolerance.largest


def _mean(difference: Tensor) -> float:
    return difference.abs().mean().item() if len(difference) else 0.0


def _largest(difference: Tensor) -> float:
    return difference.abs().max().item() if len(difference) else 0.0


def _whole(tensor: Tensor) -> Tensor:
    """A copy of its own: safetensors refuses tensors that share memory."""
    return tensor.detach().cpu().clone().contiguous()
