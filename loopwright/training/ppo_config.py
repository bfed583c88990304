"""The settings of PPO, and those it shares with its relatives that need no critic (critic_free_config.py).

A setting that has no effect, or fights another, is an error.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from loopwright.models.trainable import TrainableConfig
from loopwright.objectives.kl import LARGEST_ERROR
from loopwright.objectives.masking import Aggregation
from loopwright.training.config import Fraction, OptimizerConfig, ResponseConfig
from loopwright.training.ppo_watch import WatchConfig
from loopwright.training.precision import Precision

NonNegativeFloat = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

SMALLEST_MOVE = 0.01  # of kl_coef over a run, for an adaptive controller to be one
KL_SETTINGS = ("kl_estimator", "kl_coef", "kl_controller", "kl_target", "kl_horizon")


class PolicySettings(ResponseConfig, OptimizerConfig):
    """How a policy is improved against a reward, whatever its advantages are. docs/ppo.md has each one's formula.

    The temperature also divides the logits of learner and reference.
    """

    clip_ranges: ClassVar[tuple[str, ...]] = ("clip_range",)

    # How much
    steps: PositiveInt = 1_000
    rollouts_per_step: PositiveInt = 512
    samples_per_prompt: PositiveInt = 1  # rollouts that answer one prompt
    minibatch_size: PositiveInt = 64  # responses an optimizer step sees
    microbatch_size: PositiveInt | None = None  # responses computed as one batch; None: the minibatch, over the cores
    microbatch_tokens: PositiveInt | None = None  # or so many tokens of prompts and responses, padding not counted
    epochs_per_batch: PositiveInt = 4

    # KL(policy || reference)
    kl_penalty: Literal["reward", "loss", "none"] = "reward"  # none: the clip-only objective
    kl_estimator: Literal["k1", "k2", "k3", "exact"] = "k1"
    kl_coef: NonNegativeFloat = 0.05  # where an adaptive controller starts
    kl_controller: Literal["fixed", "adaptive"] = "fixed"
    kl_target: PositiveFloat | None = None  # nats per response
    kl_horizon: PositiveInt = 10_000  # responses
    max_kl: PositiveFloat | None = None  # nats per response; above it a step leaves the scores out and lowers KL alone
    report_exact_kl: bool = False  # one more forward pass of the policy a step

    # Losses
    clip_range: Annotated[float, Field(gt=0, lt=1)] = 0.2  # epsilon in Schulman et al. 2017, eq. 7; 0.1 is usual, too
    entropy_coef: NonNegativeFloat = 0.0  # c_e
    loss_aggregation: Aggregation = "token_mean"  # from the policy's losses of tokens to that of a minibatch
    ptx_coef: NonNegativeFloat = 0.0  # gamma in Ouyang et al. 2022, eq. 2: the weight of the loss on raw text
    ptx_rows: PositiveInt = 16  # of raw text that a minibatch is joined by
    ptx_row_tokens: Annotated[int, Field(ge=2)] = 256  # of such a row, which short documents share

    # Optimizer
    learning_rate: PositiveFloat = 1e-5
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    warmup_steps: NonNegativeInt = 0
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    adam_eps: PositiveFloat = 1e-5  # lm-human-preferences' value, far above Adam's own 1e-8
    max_grad_norm: PositiveFloat | None = 1.0  # of the policy, and of the critic by itself

    trainable: TrainableConfig = TrainableConfig()  # which part of the policy learns
    precision: Precision = "float32"  # bfloat16: what computes; optimizers keep float32 masters
    importance_cap: Annotated[float, Field(ge=1)] = 2.0  # bfloat16: the most a token counts for, see `as_learned`
    gradient_checkpointing: bool = False  # keep only what goes into each block, for one more forward pass
    save_steps: PositiveInt = 10
    log_steps: PositiveInt = 1
    eval_steps: PositiveInt | None = None  # and at the end; None: nothing is held out
    held_out_prompts: PositiveInt = 64  # about so many, by hash
    watch: WatchConfig | None = None  # looks with other reward models whether the score still means something

    @property
    def minibatches_per_step(self) -> int:
        """Optimizer steps on one rollout batch."""
        return self.epochs_per_batch * self.rollouts_per_step // self.minibatch_size

    @property
    def assess_steps(self) -> int | None:
        """Steps between two assessments on held-out prompts; None: nothing is held out."""
        return self.eval_steps if self.watch is None else self.watch.every_steps

    @model_validator(mode="after")
    def _batches_are_whole(self) -> Self:
        parts = (("rollouts_per_step", "minibatch_size"), ("minibatch_size", "microbatch_size"))
        for whole, part in (*parts, ("rollouts_per_step", "samples_per_prompt")):
            size, unit = getattr(self, whole), getattr(self, part)
            if unit is not None and size % unit:
                raise ValueError(f"{whole} = {size} is not a multiple of {part} = {unit}; change either")
        return self

    @model_validator(mode="after")
    def _microbatches_have_one_measure(self) -> Self:
        if self.microbatch_size is not None and self.microbatch_tokens is not None:
            raise ValueError("microbatch_size and microbatch_tokens both say what is computed at once; leave one out")
        return self

    @model_validator(mode="after")
    def _kl_penalty_uses_what_is_written(self) -> Self:
        if self.kl_penalty == "none":
            for name in KL_SETTINGS:
                if name in self.model_fields_set:
                    raise ValueError(
                        f"{name} has no effect with kl_penalty = none (the clip-only objective); "
                        "leave it out, or set kl_penalty to reward or loss"
                    )
        elif self.kl_coef == 0:
            raise ValueError("kl_coef = 0 leaves no KL penalty; say so with kl_penalty = none, or raise kl_coef")
        elif self.kl_penalty == "reward" and self.kl_estimator == "exact":
            raise ValueError(
                "kl_estimator = exact does not depend on the token that was sampled, so in the reward it cannot teach "
                "that token; set kl_penalty = loss, or report_exact_kl = true to only measure it"
            )
        elif self.kl_penalty == "loss" and self.kl_estimator == "k1":
            raise ValueError(
                "kl_estimator = k1 has an expected gradient of zero as a loss; choose k2, k3 or exact, "
                "or set kl_penalty = reward"
            )
        return self

    @model_validator(mode="after")
    def _kl_controller_has_its_target(self) -> Self:
        if self.kl_controller == "fixed":
            for name in ("kl_target", "kl_horizon"):
                if name in self.model_fields_set and getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} has no effect on a fixed coefficient; set kl_controller = adaptive or leave it out"
                    )
        elif self.kl_target is None:
            raise ValueError("kl_controller = adaptive needs kl_target, the KL to hold in nats per response; set it")
        elif self.max_kl is not None and self.max_kl <= self.kl_target:
            raise ValueError(
                f"max_kl = {self.max_kl:g} is not above kl_target = {self.kl_target:g}, which could then not be held; "
                "raise max_kl"
            )
        return self

    @model_validator(mode="after")
    def _kl_coef_can_move(self) -> Self:
        if self.kl_target is None or self.steps == 1:  # in a single step, a trial, none can
            return self
        once = LARGEST_ERROR * self.rollouts_per_step / self.kl_horizon
        most = (1 + once) ** (self.steps - 1) - 1  # what the last step changes is never used
        if most < SMALLEST_MOVE:
            raise ValueError(
                f"kl_controller = adaptive moves kl_coef by {most:.1%} at the most with kl_horizon = "
                f"{self.kl_horizon}, steps = {self.steps} and rollouts_per_step = {self.rollouts_per_step}; lower "
                "kl_horizon, to the responses of 2 to 5 steps, or set kl_controller = fixed"
            )
        return self

    @model_validator(mode="after")
    def _clipping_can_happen(self) -> Self:
        if self.epochs_per_batch == 1 and self.minibatch_size == self.rollouts_per_step:
            for name in self.clip_ranges:
                if name in self.model_fields_set and getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} has no effect with one epoch of one minibatch, where nothing has moved since the "
                        "responses were sampled; leave it out, or raise epochs_per_batch or lower minibatch_size"
                    )
        return self

    @model_validator(mode="after")
    def _raw_text_is_used(self) -> Self:
        for name in ("ptx_rows", "ptx_row_tokens"):
            if self.ptx_coef == 0 and name in self.model_fields_set:
                raise ValueError(f"{name} has no effect with ptx_coef = 0; set ptx_coef (1 is a start) or drop {name}")
        return self

    @model_validator(mode="after")
    def _dropout_is_off(self) -> Self:
        check_dropout("trainable", self.trainable)
        return self

    @model_validator(mode="after")
    def _learner_and_sampler_part(self) -> Self:
        if self.precision == "float32" and "importance_cap" in self.model_fields_set:
            raise ValueError(
                "importance_cap has no effect with precision = float32, where learner and sampler agree; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _held_out_prompts_are_used(self) -> Self:
        if self.assess_steps is None and "held_out_prompts" in self.model_fields_set:
            raise ValueError("held_out_prompts has no effect without eval_steps or watch; set one, or leave this out")
        return self

    @model_validator(mode="after")
    def _watch_can_act(self) -> Self:
        if self.watch is None:
            return self
        if self.eval_steps is not None:
            raise ValueError("eval_steps has no effect beside watch, which looks every watch.every_steps; leave it out")
        looks = -(-self.steps // self.watch.every_steps)  # the first, before any step, is what others are compared to
        if looks < self.watch.patience:
            raise ValueError(
                f"watch.every_steps = {self.watch.every_steps} gives {looks} looks in steps = {self.steps}, fewer than "
                f"watch.patience = {self.watch.patience}, so the watch could never act; lower either"
            )
        stall = self.watch.stall_looks if "stall_looks" in self.watch.model_fields_set else None
        if stall is not None and looks < stall:
            raise ValueError(
                f"watch.stall_looks = {stall} has no effect with {looks} looks; lower it or watch.every_steps"
            )
        return self

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps} leaves nothing of steps = {self.steps}; lower it")
        return self


class PPOSettings(PolicySettings):
    """PPO's own: a critic, whose values make advantages by GAE, and what trains it."""

    muon_rates: ClassVar[tuple[str, ...]] = ("muon_learning_rate", "critic_muon_learning_rate")
    clip_ranges: ClassVar[tuple[str, ...]] = ("clip_range", "value_clip_range")

    # From rewards to advantages
    gamma: Share = 1.0
    lam: Share = 0.95
    whiten_advantages: bool = True
    whiten_rewards: bool = False

    # The critic
    value_clip_range: PositiveFloat | None = 0.2  # None: not clipped
    value_coef: PositiveFloat = 0.1  # c_v
    critic_learning_rate: PositiveFloat = 1e-5
    critic_muon_learning_rate: PositiveFloat | None = None
    critic_trainable: TrainableConfig | None = None  # which part of it learns; None: as `trainable`

    @property
    def critic_trains(self) -> TrainableConfig:
        """Which part of the critic learns."""
        return self.critic_trainable or self.trainable

    @property
    def of_critic(self) -> OptimizerConfig:
        """The same with the critic's learning rates."""
        rates = {"learning_rate": self.critic_learning_rate, "muon_learning_rate": self.critic_muon_learning_rate}
        return self.model_copy(update=rates)

    @model_validator(mode="after")
    def _there_is_a_later_token(self) -> Self:
        for name in ("gamma", "lam"):
            if self.max_new_tokens == 1 and name in self.model_fields_set:
                raise ValueError(
                    f"{name} has no effect with max_new_tokens = 1, where no token follows whose reward or value could "
                    "count; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _dropout_of_the_critic_is_off(self) -> Self:
        check_dropout("critic_trainable", self.critic_trains)
        return self


def check_dropout(name: str, trainable: TrainableConfig) -> None:
    """Raise ValueError where adapters are to be trained with dropout."""
    if trainable.lora is not None and trainable.lora.dropout:
        raise ValueError(
            f"{name}.lora.dropout = {trainable.lora.dropout:g} has no effect in PPO, which trains without "
            "dropout so that sampler and learner agree; leave it out"
        )
