import pytest
import torch
from torch import nn

from loopwright.training.optim import make_optimizers
from loopwright.training.ppo_config import PPOSettings
from loopwright.training.ppo_learner import _clip


@pytest.mark.parametrize(
    ("settings", "after"), [({}, 1.0), ({"max_grad_norm": 7.0}, 5.0), ({"max_grad_norm": None}, 5.0)]
)
def test_gradients_are_cut_to_their_norm(settings, after):
    """By default to 1; what is below the norm stays, and what is reported is the norm before."""
    config, net = PPOSettings(**settings), nn.Linear(2, 1, bias=False)
    optimizers = make_optimizers(net.named_parameters(), config)
    net.weight.grad = torch.tensor([[3.0, 4.0]])
    assert _clip(optimizers, config.max_grad_norm) == pytest.approx(5.0)
    assert net.weight.grad.norm().item() == pytest.approx(after)
    assert (net.weight.grad / net.weight.grad.norm()).tolist()[0] == pytest.approx([0.6, 0.8])
