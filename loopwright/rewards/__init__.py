"""What scores responses: reward models, classifiers, functions, servers, and several of them merged by a rule."""

from loopwright.rewards.base import Reward, Sample, Scores
from loopwright.rewards.callables import CallableReward, VerifierReward
from loopwright.rewards.classifier import Classifier, ClassifierConfig
from loopwright.rewards.combine import MergeConfig, Merged, WeightedSum
from loopwright.rewards.ensemble import Ensemble
from loopwright.rewards.judged import JudgeReward
from loopwright.rewards.normalised import Negated, Normalised
from loopwright.rewards.preference_judge import PreferenceJudge
from loopwright.rewards.remote import RemoteReward
from loopwright.rewards.reward_model import RewardModel
from loopwright.rewards.spans import SpanReward

__all__ = [
    "CallableReward",
    "Classifier",
    "ClassifierConfig",
    "Ensemble",
    "JudgeReward",
    "MergeConfig",
    "Merged",
    "Negated",
    "Normalised",
    "PreferenceJudge",
    "RemoteReward",
    "Reward",
    "RewardModel",
    "Sample",
    "Scores",
    "SpanReward",
    "VerifierReward",
    "WeightedSum",
]
