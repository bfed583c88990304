"""The models of PPO: policy and reference, the critic where there is one, and what they share with reward models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loopwright.errors import ConfigError
from loopwright.models.adapters import over_base
from loopwright.models.heads import Critic
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.models.sharing import share_frozen
from loopwright.models.tokens import forbidden_token_ids, match_vocabulary
from loopwright.rewards import Merged, Normalised, RewardModel
from loopwright.runtime.runtime import Runtime
from loopwright.stages.ppo_config import PolicyConfig, PPOConfig
from loopwright.stages.sampled_rewards import own_models
from loopwright.training.ppo_learner import PPOLearner
from loopwright.training.precision import in_precision

if TYPE_CHECKING:
    from loopwright.stages.ppo import PPOInputs


def make_learner(
    config: PolicyConfig,
    inputs: PPOInputs,
    reward: Merged,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    runtime: Runtime,
) -> PPOLearner:
    """Policy and reference; PPO's critic from the reward model (Stiennon et al. 2020, app. G.1)."""
    loaded = own_models(inputs, reward)
    apart = [lay_over(policy, model, folder, config) for model, folder in loaded]
    critic = None
    if isinstance(config, PPOConfig):
        critic = start_critic(config, inputs, reward, policy, tokenizer, runtime)
    embeddings: Any = policy.get_input_embeddings()  # may have more rows than the tokenizer has tokens
    forbidden = forbidden_token_ids(tokenizer, embeddings.num_embeddings)
    reference = None if inputs.reference is None else load_reference(inputs.reference, tokenizer, runtime)
    seed = runtime.seed_for("adapters")
    learner = PPOLearner(policy, critic, forbidden, config, seed, runtime.scratch, reference)
    say_what_is_slow(learner, runtime)
    reasons = {} if learner.critic is None else {"the critic": learner.critic.shares}
    for (loaded_model, _), reason in zip(loaded, apart, strict=True):
        in_precision(loaded_model.model.requires_grad_(False), config.precision)
        which = "the reward model" if len(loaded) == 1 else f"the reward model {loaded_model.name}"
        reasons[which] = reason or share_frozen(loaded_model.model, learner.policy)
        if learner.critic is not None:
            share_frozen(loaded_model.model, learner.critic.model.model)
    for name, why in reasons.items():
        if why is not None and config.trainable.mode != "all":
            runtime.log(f"{name} keeps weights of its own beside the policy's: {why}")
    return learner


def say_what_is_slow(learner: PPOLearner, runtime: Runtime) -> None:
    """Name the models that our own forward pass does not know, which also compute padding."""
    readers = {"policy": learner.policy_reader, "reference": learner.reference_reader}
    if learner.critic is not None:
        readers["critic"] = learner.critic.reader
    for reason in dict.fromkeys(reader.why_not for reader in readers.values()):
        if reason is not None:
            names = ", ".join(name for name, reader in readers.items() if reader.why_not == reason)
            runtime.log(f"learning reads {names} through transformers, which is slower: {reason}")


def load_reference(folder: Path, tokenizer: PreTrainedTokenizerBase, runtime: Runtime) -> PreTrainedModel:
    """A reference that is not the policy as it was.

    Raises:
        ConfigError: it reads other tokens than the policy.
    """
    if load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        raise ConfigError(
            f"the reference {folder} has another tokenizer than the policy, so that their probabilities cannot be "
            "compared; name a model that the policy was trained from, or leave reference out"
        )
    return load_causal_lm(folder, runtime.device)


def lay_over(policy: PreTrainedModel, loaded: RewardModel, folder: Path, config: PolicyConfig) -> str | None:
    """Let a reward model that was trained with LoRA over the policy's base read it again, or say why not."""
    if config.trainable.mode != "lora":
        return None
    found = over_base(loaded.model, folder, policy)
    if isinstance(found, str):
        return found
    loaded.model = found
    return None


def start_critic(
    config: PPOConfig,
    inputs: PPOInputs,
    reward: Merged,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    runtime: Runtime,
) -> Critic:
    """From the folder that is named, the first reward model that reads the policy's tokens, or the policy's body.

    Raises:
        ConfigError: the folder that is named does not read the policy's tokens.
    """
    parts = [part.reward if isinstance(part, Normalised) else part for part, _ in reward.rewards]
    models = [part for part in parts if isinstance(part, RewardModel)]
    if inputs.critic is not None:
        models = [RewardModel(inputs.critic, device=runtime.device)]
        if not models[0].reads(tokenizer):
            raise ConfigError(
                f"ppo.critic = {inputs.critic} has another tokenizer or chat template than the policy and would read "
                "other text; name a reward model made from the policy's model, or leave critic out"
            )
        lay_over(policy, models[0], inputs.critic, config)
    for model in models:
        if model.reads(tokenizer):
            critic = Critic.from_reward_model(model.model)
            match_vocabulary(critic.model, tokenizer)  # it also reads the policy's padding
            return critic
    return Critic.from_policy(policy)
