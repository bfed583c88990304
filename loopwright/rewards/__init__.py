"""What scores responses: trained reward models, Python functions, and sums of them."""

from loopwright.rewards.base import Reward, Sample, Scores
from loopwright.rewards.callables import CallableReward
from loopwright.rewards.combine import WeightedSum
from loopwright.rewards.reward_model import RewardModel

__all__ = ["CallableReward", "Reward", "RewardModel", "Sample", "Scores", "WeightedSum"]
