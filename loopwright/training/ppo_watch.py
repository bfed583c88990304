"""Whether PPO still improves answers, or only their score: a rule, fed one look at a time. docs/watch.md explains it.

A policy that climbs a reward model finds, sooner or later, answers that this model overrates: its score rises and what
it stands for falls (Gao et al. 2022, arXiv:2210.10760). A reward model trained on other labels errs elsewhere, so the
two part there. Nothing here needs a model: figures in, a verdict out.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from loopwright.config.base import Config

FEWEST_PROMPTS = 2  # a standard error needs so many
BETTER = 1.0  # standard errors that a new best must exceed: what is gained by chance is not worth more KL


class WatchConfig(Config):
    """The `watch` section of `ppo`. Where nothing changes, the defaults raise an alarm in 1 run of 20 at most."""

    reward: tuple[Path, ...] = ()  # folders of held-out reward models, trained on other labels than ppo.reward
    stage: tuple[str, ...] = ()  # or the recipe's own: reward stages that PPO is not trained on
    action: Literal["warn", "stop", "roll_back"] = "roll_back"
    every_steps: PositiveInt = 5
    patience: PositiveInt = 2  # looks in a row that must find the rewards parted: one may be chance
    standard_errors: PositiveFloat = 3.0  # that fall or rise must exceed; the best of many looks is best by luck, too
    stall_looks: PositiveInt | None = 8  # without a new best, while the proxy rose; None: only a fall counts
    max_length_ratio: Annotated[float, Field(gt=1)] = 2.0  # longer or shorter than at the start; a word of warning
    max_repetition_rise: Annotated[float, Field(gt=0, le=1)] = 0.1  # of the share of repeated pairs of tokens
    max_spread_ratio: Annotated[float, Field(gt=1)] = 2.0  # of the disagreement between, or within, reward models
    max_kl: PositiveFloat = 10.0  # nats per response; as far as the best of 60,000 is, a word of warning, too

    @field_validator("reward", "stage", mode="before")
    @classmethod
    def _one_needs_no_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value

    @model_validator(mode="after")
    def _rewards_come_from_one_place(self) -> Self:
        if self.reward and self.stage:
            raise ValueError(f"reward = {self.reward[0]} contradicts stage = {self.stage[0]}; leave one out")
        return self


class Look(NamedTuple):
    """Figures of one response to each of P held-out prompts: the same prompts and sampling seeds at every look."""

    step: int
    proxy: Sequence[float]  # [P] the reward that the policy is trained on
    held_out: Sequence[Sequence[float]]  # of each held-out reward, [P]
    kl: float  # nats per response
    length_tokens: float
    repetition: float  # see `repeated_share`
    unsure: Sequence[float] | None = None  # [P] std of the proxy, where it is an ensemble or has several heads


class Verdict(NamedTuple):
    signal: Literal["ok", "warn", "stop"]
    reasons: tuple[str, ...]  # sentences for a person
    is_best: bool  # better than the best look before it
    figures: dict[str, float]  # for the metrics


class Difference(NamedTuple):
    """A mean difference over the same prompts."""

    mean: float
    se: float

    def exceeds(self, standard_errors: float) -> bool:
        """Whether it is positive beyond chance."""
        return self.mean > standard_errors * self.se


class Watch:
    """The rule, and what it remembers.

    Every reward is put in units of its own standard deviation at the first look, with mean 0 there; several held-out
    rewards are averaged. A look is the best so far when its held-out reward exceeds that of the best one before by more
    than one standard error, prompt by prompt, so that of equals the one nearest to the start stays (the one standard
    error rule of Breiman et al. 1984). A look finds the rewards *parted* when, against the best one, the held-out
    reward has fallen by more than `standard_errors` standard errors and the proxy has risen. At `patience` such looks
    in a row it acts. It also acts on a *stall*: at `stall_looks` looks in a row without a new best, if the proxy has
    risen by more than `standard_errors` standard errors since.
    """

    def __init__(self, config: WatchConfig) -> None:
        self.config = config
        self.stopped_at: int | None = None
        self.reason: str | None = None
        self._start: dict[str, Any] = {}  # the first look: scale of each reward, length, repetition, spread, unsure
        self._best: dict[str, Any] = {}  # the best look
        self._parted = 0  # looks in a row
        self._without_best = 0  # looks in a row
        self._told = False  # the warning of this episode was given
        self._drifting: list[str] = []  # what a person has been told of and still is so

    @property
    def best_step(self) -> int | None:
        """Of the best look so far."""
        return self._best.get("step")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: numbers, text and lists."""
        fields = ("stopped_at", "reason", "_start", "_best", "_parted", "_without_best", "_told", "_drifting")
        return {name.lstrip("_"): getattr(self, name) for name in fields}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.stopped_at, self.reason = state["stopped_at"], state["reason"]
        self._start, self._best = dict(state["start"]), dict(state["best"])
        self._parted, self._without_best = state["parted"], state["without_best"]
        self._told, self._drifting = state["told"], list(state["drifting"])

    def look(self, look: Look) -> Verdict:
        """What to make of one more look.

        Raises:
            ValueError: looks differ in their prompts or rewards, or a number is not finite.
        """
        rewards = [list(look.proxy), *(list(scores) for scores in look.held_out)]
        self._check(rewards, look.unsure)
        if not self._start:
            self._start = {"scales": [[fmean(scores), _deviation(scores) or 1.0] for scores in rewards]}
        scaled = [
            [(score - mean) / deviation for score in scores]
            for scores, (mean, deviation) in zip(rewards, self._start["scales"], strict=True)
        ]
        proxy, held_out = scaled[0], _means(scaled[1:])
        spread = fmean(_deviation(of_prompt) for of_prompt in zip(*scaled, strict=True))
        now = {"length_tokens": look.length_tokens, "repetition": look.repetition, "spread": spread, "kl": look.kl}
        if look.unsure is not None:
            now["unsure"] = fmean(look.unsure) / self._start["scales"][0][1]
        self._start = {**now, **self._start}  # the first look's figures stay

        is_best = not self._best or difference(held_out, self._best["held_out"]).exceeds(BETTER)
        if is_best:
            self._best = {"step": look.step, "proxy": proxy, "held_out": held_out}
        rise, fall = difference(proxy, self._best["proxy"]), difference(self._best["held_out"], held_out)
        parted = rise.mean > 0 and fall.exceeds(self.config.standard_errors)
        self._parted = self._parted + 1 if parted else 0
        self._without_best = 0 if is_best else self._without_best + 1
        figures = {
            "watch_proxy": fmean(proxy),
            "watch_held_out": fmean(held_out),
            "watch_held_out_se": _standard_error(held_out),
            "watch_rise": rise.mean,
            "watch_fall": fall.mean,
            "watch_fall_se": fall.se,
            "watch_parted": float(self._parted),
            "watch_without_best": float(self._without_best),
            "watch_spread": spread,
            "watch_repetition": look.repetition,
            "watch_kl": look.kl,
            **({"watch_unsure": now["unsure"]} if "unsure" in now else {}),
        }
        return self._verdict(look.step, is_best, rise, fall, self._drift(now), figures)

    def _verdict(
        self,
        step: int,
        is_best: bool,
        rise: Difference,
        fall: Difference,
        drift: tuple[str, ...],
        figures: dict[str, float],
    ) -> Verdict:
        reason = self._reason(rise, fall)
        if reason is None:
            self._told = False
            return Verdict("warn" if drift else "ok", drift, is_best, figures)
        if self.config.action == "warn":  # once an episode, not at every look of it
            reasons = drift if self._told else (reason, *drift)
            self._told = True
            return Verdict("warn" if reasons else "ok", reasons, is_best, figures)
        self.stopped_at, self.reason = step, reason
        return Verdict("stop", (reason, *drift), is_best, figures)

    def _reason(self, rise: Difference, fall: Difference) -> str | None:
        """Why to act, or None."""
        config = self.config
        if self._parted >= config.patience:
            return (
                f"since step {self.best_step} the reward rose by {rise.mean:.2f} and the held-out reward fell by "
                f"{fall.mean:.2f} ({fall.se:.2f} standard error), at {self._parted} looks in a row"
            )
        stalled = config.stall_looks is not None and self._without_best >= config.stall_looks
        if stalled and rise.exceeds(config.standard_errors):
            return (
                f"since step {self.best_step} the reward rose by {rise.mean:.2f} ({rise.se:.2f} standard error) and "
                f"the held-out reward had no new best, for {self._without_best} looks"
            )
        return None

    def _drift(self, now: Mapping[str, float]) -> tuple[str, ...]:
        """What has left its bounds since the look before."""
        config, start = self.config, self._start
        longer = now["length_tokens"] / max(start["length_tokens"], 1e-9)
        found = {}
        if not 1 / config.max_length_ratio <= longer <= config.max_length_ratio:
            found["length"] = (
                f"responses have {now['length_tokens']:.1f} tokens, {start['length_tokens']:.1f} at the start"
            )
        if now["repetition"] - start["repetition"] > config.max_repetition_rise:
            found["repetition"] = (
                f"{now['repetition']:.0%} of pairs of tokens repeat within a response, {start['repetition']:.0%} "
                "at the start"
            )
        if now["spread"] > config.max_spread_ratio * start["spread"]:
            found["spread"] = (
                f"the reward models differ by {now['spread']:.2f} on a response, {start['spread']:.2f} at the start"
            )
        if now.get("unsure", 0.0) > config.max_spread_ratio * start.get("unsure", math.inf):
            found["unsure"] = (
                f"the members of the reward differ by {now['unsure']:.2f} on a response, {start['unsure']:.2f} at the "
                "start"
            )
        if now["kl"] > config.max_kl:
            found["kl"] = f"the policy is {now['kl']:.1f} nats of KL from the reference, more than {config.max_kl:g}"
        new = tuple(sentence for name, sentence in found.items() if name not in self._drifting)
        self._drifting = list(found)
        return new

    def _check(self, rewards: Sequence[Sequence[float]], unsure: Sequence[float] | None) -> None:
        counts = {len(scores) for scores in rewards}
        expected = len(self._best["proxy"]) if self._best else None
        if len(rewards) < 2 or len(counts) != 1 or expected not in (None, *counts):
            raise ValueError(f"a look needs a proxy and a held-out reward on the same prompts each time, got {counts}")
        if min(counts) < FEWEST_PROMPTS:
            raise ValueError(f"a look needs at least {FEWEST_PROMPTS} prompts, got {min(counts)}")
        if not all(math.isfinite(score) for scores in (*rewards, unsure or ()) for score in scores):
            raise ValueError("a look got a score that is not a finite number")


def difference(new: Sequence[float], old: Sequence[float]) -> Difference:
    """The mean of new - old over the same prompts, and its standard error (unbiased variance)."""
    differences = [a - b for a, b in zip(new, old, strict=True)]
    return Difference(fmean(differences), _standard_error(differences))


def repeated_share(responses: Sequence[Sequence[int]]) -> float:
    """The share of a response's pairs of neighbouring tokens that it has had before, mean over responses.

    A response of fewer than two tokens repeats nothing.
    """
    shares = []
    for tokens in responses:
        pairs = list(zip(tokens, tokens[1:], strict=False))
        shares.append(1.0 - len(set(pairs)) / len(pairs) if pairs else 0.0)
    return fmean(shares)


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation, biased."""
    mean = fmean(values)
    return math.sqrt(fmean((value - mean) ** 2 for value in values))


def _standard_error(values: Sequence[float]) -> float:
    """Of the mean, from the unbiased variance."""
    return _deviation(values) / math.sqrt(len(values) - 1)


def _means(rewards: Sequence[Sequence[float]]) -> list[float]:
    return [fmean(of_prompt) for of_prompt in zip(*rewards, strict=True)]
