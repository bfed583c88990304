"""The models of red teaming and what each source of attacks does with them; one source is one unit of work."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.evaluation.answering import LanguageModel
from loopwright.generation.base import Engine
from loopwright.generation.engines import make_engine
from loopwright.models.loading import load_causal_lm, load_tokenizer, save_model
from loopwright.models.tokens import context_length
from loopwright.runtime.runtime import Runtime
from loopwright.stages.red_team_attacker import SCALE_TRIES, Learned, make_attacker, scaled, train
from loopwright.stages.red_team_ground import contexts, load_harm, open_ground
from loopwright.stages.red_team_regression import read_known, retry
from loopwright.stages.red_team_tries import (
    EARLIER,
    Target,
    Try,
    from_templates,
    longest_that_fits,
    with_examples,
    write_in_batches,
)

if TYPE_CHECKING:
    from loopwright.stages.red_team import RedTeamConfig, RedTeamInputs

ATTACKER = "attacker"  # the folder of the trained one


class Trial:
    """Target, attackers, and the tries made so far."""

    def __init__(self, config: RedTeamConfig, inputs: RedTeamInputs, runtime: Runtime) -> None:
        self.config, self.inputs, self.runtime = config, inputs, runtime
        self.ground = open_ground(config, inputs, runtime)
        target = LanguageModel(load_causal_lm(inputs.policy, runtime.device), load_tokenizer(inputs.policy))
        self.target = Target(target, self.ground, config.answer, say=runtime.log_once)
        self.known = read_known(inputs.earlier)
        self.learner = None
        if "rl" in config.sources:
            start = self._load_attacker(inputs.trained)
            self.learner = make_attacker(*start, config.attack, config.rl, runtime)
            self.trained = LanguageModel(self.learner.policy, start.tokenizer)
        self.learned = Learned(0, [self.ground.wording(one.attack.text) for one in self.known], {})
        self.done: dict[str, list[Try]] = {}
        if (found := runtime.restore()) is not None:
            self._load(found.state)

    def train_attacker(self) -> dict[str, float] | None:
        """To the end of its training; gives the figures of its last step."""
        if self.learner is None:
            return None
        config = self.config.rl
        if self.learned.step < config.steps:
            engine = self._engine(self.trained)
            self.learned = train(
                self.learner, engine, self._to_train_on(), self.config.attack, config, self.learned, self.runtime
            )
        return {"tries": config.steps * config.rollouts_per_step, **self.learned.figures}

    def tries_of(self, source: str) -> list[Try]:
        """Those of a source: made now, or before an interruption."""
        if source not in self.done:
            makers = {
                EARLIER: lambda: retry(self.known, self.target, self.config.answers_to_earlier, self.runtime),
                "templates": self._templates,
                "zero_shot": lambda: self._written("zero_shot", self._load_attacker()),
                "few_shot": lambda: self._written("few_shot", self._load_attacker()),
                "rl": lambda: self._written("rl", self.trained),
            }
            self.done[source] = makers[source]()
            self.runtime.log(f"{source}: {sum(one.success for one in self.done[source])} of {len(self.done[source])}")
            step = self.config.rl.steps if self.learner is not None else 0
            self.runtime.checkpoint(step + len(self.done), self._state())
        return self.done[source]

    def save_attacker(self) -> None:
        """The trained one, as a Hugging Face folder."""
        if self.learner is not None:
            self.learner.restore()
            save_model(*self.trained, self.runtime.output / ATTACKER)

    def _templates(self) -> list[Try]:
        requests = self.ground.requests(self._seed("requests"), self.config.tries)
        attacks = from_templates(requests, self.ground.templates, self._seed("templates"))
        return self.target.attack("templates", attacks, self._seeds("templates", "answer"))

    def _written(self, source: str, writer: LanguageModel) -> list[Try]:
        """Attacks of a model behind the same contexts as all sources have."""
        before = contexts(self.ground, self._seed("requests"), self.config.tries)
        openings = [self.ground.opening(context) for context in before]
        if source == "few_shot":
            openings = self._with_examples(openings, writer)
        seeds = self._seeds(source, "attack")
        attacks = write_in_batches(self._engine(writer), openings, before, self.config.attack, seeds)
        return self.target.attack(source, attacks, self._seeds(source, "answer"))

    def _with_examples(self, openings: list[str], writer: LanguageModel) -> list[str]:
        config, pool = self.config, [one for one in self.tries_of("zero_shot") if one.asks]
        rng = random.Random(self._seed("examples"))
        lines = [f"{self.ground.opening(one.context)} {one.text}" for one in pool]
        harms = [one.harm or 0.0 for one in pool]
        versions = [with_examples(one, lines, harms, config.shots, config.shot_temperature, rng) for one in openings]
        limit = context_length(writer.model)
        room = None if limit is None else limit - config.attack.max_new_tokens
        return longest_that_fits(versions, writer.tokenizer, room)

    def _load_attacker(self, trained: Path | None = None) -> LanguageModel:
        """The attacker before any training, or as an earlier round has trained it."""
        folder = trained or self.inputs.attacker
        assert folder is not None, "a model writes attacks, and none is given"
        return LanguageModel(load_causal_lm(folder, self.runtime.device), load_tokenizer(folder))

    def _to_train_on(self) -> Target:
        """The target with the verdict that the attacker learns from."""
        reward = load_harm(self.inputs, self.runtime)
        if reward is None:
            return self.target
        before = contexts(self.ground, self._seed("scale", "requests"), SCALE_TRIES)
        openings = [self.ground.opening(context) for context in before]
        seeds = [[self._seed("scale", what, row) for row in range(SCALE_TRIES)] for what in ("attack", "answer")]
        attacks = write_in_batches(self._engine(self._load_attacker()), openings, before, self.config.attack, seeds[0])
        verdict = scaled(reward, self.target, attacks, seeds[1])
        return Target(self.target.model, self.ground, self.config.answer, verdict)

    def _engine(self, writer: LanguageModel) -> Engine:
        return make_engine(*writer, self.runtime.log_once)

    def _seed(self, *names: str | int) -> int:
        return self.runtime.seed_for(*names)

    def _seeds(self, *names: str) -> list[int]:
        return [self.runtime.seed_for(*names, row) for row in range(self.config.tries)]

    def _state(self) -> dict[str, Any]:
        return {
            "learner": None if self.learner is None else self.learner.state(),
            "learned": self.learned._asdict(),
            "tries": json.dumps({source: [one._asdict() for one in tries] for source, tries in self.done.items()}),
        }

    def _load(self, state: dict[str, Any]) -> None:
        if self.learner is not None:
            self.learner.load(state["learner"])
        self.learned = Learned(**state["learned"])
        self.done = {name: [Try(**one) for one in tries] for name, tries in json.loads(state["tries"]).items()}
