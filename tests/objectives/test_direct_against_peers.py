"""Our losses of preferences against numbers of TRL, torchtune and OpenRLHF; benchmarks/golden_preferences.py made them.

TRL divides IPO's log-ratios by the tokens of the response, which the paper does not (`per_token` in our stages).
"""

import json
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from loopwright.objectives.direct_preference import dpo_loss, ipo_loss, kto_loss, mismatched_kl

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "preferences.json").read_text())
INPUTS, PEERS = GOLDEN["inputs"], GOLDEN["peers"]
BETA = INPUTS["beta"]
LOSSES = {
    "sigmoid": lambda w, lose: dpo_loss(w, lose, beta=BETA),
    "smoothed": lambda w, lose: dpo_loss(w, lose, beta=BETA, label_smoothing=INPUTS["label_smoothing"]),
    "ipo": lambda w, lose: ipo_loss(w, lose, beta=BETA),
}


def double(row):
    return torch.tensor(row, dtype=torch.float64)


def policy_and_ratios(*, per_token):
    """The policy's log-probabilities as leaves, and the log-ratios of chosen and rejected responses, [6] each."""
    leaves = {name: [double(row).requires_grad_() for row in INPUTS["policy"][name]] for name in ("chosen", "rejected")}
    ratios = []
    for name, own in leaves.items():
        differences = [row - double(known) for row, known in zip(own, INPUTS["reference"][name], strict=True)]
        ratios.append(torch.stack([row.mean() if per_token else row.sum() for row in differences]))
    return leaves["chosen"] + leaves["rejected"], ratios


def same(loss, leaves, theirs):
    loss.backward()
    assert abs(loss.item() - theirs["loss"]) < 1e-6
    for own, row in zip(leaves, theirs["gradient"], strict=True):
        assert_close(own.grad, double(row), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("peer", "name"),
    [(peer, name) for peer, found in PEERS.items() for name in found if name not in ("version", "kto")],
)
def test_losses_of_pairs(peer, name):
    per_token = name.endswith("_per_token")
    leaves, ratios = policy_and_ratios(per_token=per_token)
    same(LOSSES[name.removesuffix("_per_token")](*ratios).mean(), leaves, PEERS[peer][name])


def test_kto():
    theirs = PEERS["trl"]["kto"]
    leaves, ratios = policy_and_ratios(per_token=False)
    rows = zip(INPUTS["policy"]["mismatched"], INPUTS["reference"]["mismatched"], strict=True)
    kl = mismatched_kl(torch.stack([(double(own) - double(known)).sum() for own, known in rows]))
    assert abs(kl.item() - theirs["kl"]) < 1e-6 and kl > 0
    good = double([1.0] * len(ratios[0]) + [0.0] * len(ratios[1]))
    weights = {name: INPUTS[name] for name in ("desirable_weight", "undesirable_weight")}
    same(kto_loss(torch.cat(ratios), good, kl, beta=BETA, **weights).mean(), leaves, theirs)


def test_every_peer_says_something():
    assert {peer: sorted(found) for peer, found in PEERS.items()} == {
        "trl": ["ipo_per_token", "kto", "sigmoid", "sigmoid_per_token", "version"],
        "torchtune": ["sigmoid", "smoothed", "version"],
        "openrlhf": ["ipo", "sigmoid", "smoothed", "version"],
    }
