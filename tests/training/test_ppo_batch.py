import torch
from torch.testing import assert_close

from loopwright.training.ppo_batch import estimate
from loopwright.training.ppo_config import PPOSettings

REWARDS = torch.tensor([[1.0, 4.0, 7.0], [0.0, 9.0, 9.0]])
MASK = torch.tensor([[True, True, True], [True, False, False]])


def test_advantages_are_whitened_unless_told_and_rewards_only_if():
    """With lam = 0 and values of 0 an advantage is the token's reward. 1, 4, 7 and 0: mean 3, variance 7.5."""
    rewards, values = REWARDS.masked_fill(~MASK, 0.0), torch.zeros(2, 3)

    def advantages(**settings):
        return estimate(rewards, values, MASK, PPOSettings(lam=0.0, **settings))[0][MASK]

    raw, deviation = rewards[MASK], 7.5**0.5
    assert_close(advantages(whiten_advantages=False), raw)
    assert_close(advantages(), (raw - 3) / deviation)
    assert_close(advantages(whiten_advantages=False, whiten_rewards=True), (raw - 3) / deviation + 3)
