"""What others make of DPO, IPO and KTO on a small batch: numbers for tests/objectives/test_direct_against_peers.py.

    pip install --no-deps --target PEERS openrlhf==0.11.2 torchtune==0.6.1     # in an environment with trl==1.16.0
    python benchmarks/golden_preferences.py PEERS

Reads the inputs in tests/golden/preferences.json and writes beside them what each peer makes of these, in float64:
the mean loss, and its gradient by the policy's log-probability of each token. TRL's losses are inside its trainers, so
these are called with a model that gives the log-probabilities of the inputs.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch
import trl
from golden import load
from torch import Tensor
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_trainer import KTOTrainer

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "preferences.json"
INPUTS = json.loads(GOLDEN.read_text())["inputs"]
BETA, SMOOTHING = INPUTS["beta"], INPUTS["label_smoothing"]
ROWS = ("chosen", "rejected")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path)
    folder = parser.parse_args().peers
    peers = {
        "trl": {
            "version": trl.__version__,
            "sigmoid": trl_dpo("sigmoid"),
            "sigmoid_per_token": trl_dpo("sigmoid_norm"),
            "ipo_per_token": trl_dpo("ipo"),
            "kto": trl_kto(),
        }
    }
    for name, file in (("torchtune", "torchtune/rlhf/loss/dpo.py"), ("openrlhf", "openrlhf/models/loss.py")):
        losses = load(folder / file, "DPOLoss", Tuple=tuple, Optional=Any)
        (info,) = folder.glob(f"{name}-*.dist-info")
        version = info.name.removeprefix(f"{name}-").removesuffix(".dist-info")
        found: dict[str, Any] = {"version": version, "sigmoid": of_sums(losses.DPOLoss(BETA))}
        found["smoothed"] = of_sums(losses.DPOLoss(BETA, SMOOTHING))
        if name == "openrlhf":
            found["ipo"] = of_sums(losses.DPOLoss(BETA, 0.0, True))
        peers[name] = found
    text = json.dumps({"inputs": INPUTS, "peers": peers}, indent=1)
    GOLDEN.write_text(re.sub(r"\[[^\[\]{}]+\]", lambda row: "[" + " ".join(row[0][1:-1].split()) + "]", text) + "\n")


def padded(rows: list[list[float]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows], dtype=torch.float64)


def leaves(names: tuple[str, ...]) -> Tensor:
    """The policy's log-probabilities of the named responses, [B, T]; what gradients are taken by."""
    return padded([row for name in names for row in INPUTS["policy"][name]]).requires_grad_()


def reference(names: tuple[str, ...]) -> Tensor:
    return padded([row for name in names for row in INPUTS["reference"][name]])


def mask_of(names: tuple[str, ...]) -> Tensor:
    return padded([[1.0] * len(row) for name in names for row in INPUTS["policy"][name]]).bool()


def said(loss: Tensor, policy: Tensor, names: tuple[str, ...]) -> dict[str, Any]:
    """The loss, and the rows of its gradient without padding, name after name."""
    loss.backward()
    assert policy.grad is not None
    kept = [row[own].tolist() for row, own in zip(policy.grad, mask_of(names), strict=True)]
    return {"loss": loss.item(), "gradient": kept}


def of_sums(loss: Callable[..., Any]) -> dict[str, Any]:
    """Of a function of summed log-probabilities."""
    policy = leaves(ROWS)
    sums = [*policy.sum(1).chunk(2), *reference(ROWS).sum(1).chunk(2)]
    return said(loss(*sums)[0].mean(), policy, ROWS)


def gives(logprobs: Tensor) -> Callable[..., Any]:
    """A model that finds the tokens of whatever rows so likely; all else that it gives is for the trainer's log."""
    zeros = torch.zeros_like(logprobs)
    top = zeros.bool()
    return lambda **_: SimpleNamespace(log_probs=logprobs, entropy=zeros, mean_logits=zeros, is_top1=top)


def trainer(**settings: Any) -> Any:
    """What the methods of a trainer ask of it."""
    own = MagicMock()
    own.accelerator.gather_for_metrics = own.accelerator.gather = lambda values: values
    own.accelerator.device = torch.device("cpu")
    own.model.training = False
    own._metrics = defaultdict(lambda: defaultdict(list))
    own.aux_loss_enabled = own.use_weighting = False
    for name, value in settings.items():
        setattr(own, name, value)
    return own


def rows(mask: Tensor) -> dict[str, Tensor]:
    """A prompt of one token before each response."""
    whole = torch.cat((torch.ones(len(mask), 1).bool(), mask), 1)
    completion = whole.clone()
    completion[:, 0] = False
    return {"input_ids": whole.long(), "attention_mask": whole.long(), "completion_mask": completion.long()}


def trl_dpo(loss_type: str) -> dict[str, Any]:
    policy, own = leaves(ROWS), reference(ROWS).sum(1).chunk(2)
    inputs = rows(mask_of(ROWS)) | {"ref_chosen_logps": own[0], "ref_rejected_logps": own[1]}
    settings = {"beta": BETA, "ld_alpha": None, "precompute_ref_logps": True, "f_divergence_type": "reverse_kl"}
    stand_in = trainer(**settings, loss_types=[loss_type], loss_weights=[1.0], label_smoothing=0.0)
    return said(DPOTrainer._compute_loss(stand_in, gives(policy), inputs, return_outputs=False), policy, ROWS)


def trl_kto() -> dict[str, Any]:
    """The chosen responses are liked, the others not; the mismatched ones are read in a pass of their own."""
    names = ("mismatched",)
    policy, wrong = leaves(ROWS), leaves(names)
    count = len(INPUTS["policy"]["chosen"])
    inputs: dict[str, Any] = rows(mask_of(ROWS)) | {f"KL_{k}": v for k, v in rows(mask_of(names)).items()}
    inputs |= {"label": torch.arange(2 * count) < count}
    inputs |= {"ref_logps": reference(ROWS).sum(1), "ref_KL_logps": reference(names).sum(1)}
    weights = {name: INPUTS[name] for name in ("desirable_weight", "undesirable_weight")}
    stand_in = trainer(beta=BETA, loss_type="kto", calculate_KL=True, precompute_ref_logps=True, **weights)
    stand_in._compute_kl_logps = lambda *_: wrong.sum(1)
    loss = KTOTrainer._compute_loss(stand_in, gives(policy), inputs, return_outputs=False)
    return said(loss, policy, ROWS) | {"kl": stand_in._metrics["eval"]["kl"][0]}


if __name__ == "__main__":
    main()
