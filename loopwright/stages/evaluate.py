"""Compare the versions of a model on prompts and text that none of them was trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from loopwright.data.labelled import read_labelled
from loopwright.data.openings import openings
from loopwright.data.readers import read_records, read_texts, write_records
from loopwright.errors import ConfigError
from loopwright.evaluation.answering import Answers, Bench, LanguageModel, Row, answer, kl_of, measure, reward_scores
from loopwright.evaluation.cheap import baseline_results, best_of_results, picked_by_reward
from loopwright.evaluation.judging import judge_all
from loopwright.evaluation.metrics import rounded
from loopwright.evaluation.perplexity import perplexity
from loopwright.evaluation.results import COMPARISON, Measured, flags_of, summary_of, version_results
from loopwright.evaluation.text_classifier import TextClassifier
from loopwright.evaluation.versions import are_compared, compare_versions, round_figures
from loopwright.models.loading import load_causal_lm, load_tokenizer
from loopwright.rewards import PreferenceJudge, RewardModel
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Judge, Prompt
from loopwright.stages.base import POLICIES, Stage, StageOutput
from loopwright.stages.evaluate_inputs import (
    SETS,
    EvaluateConfig,
    EvaluateInputs,
    bind,
    check_there,
    files,
    in_order,
    reference_of,
)
from loopwright.worlds import WORLDS

IMPROVED = tuple(name for name in POLICIES if name not in ("sft", "pretrain"))  # they have roles of their own
GREEDY = ("held_out", "paraphrased")  # the sets that are also answered with the likeliest token always
COMPARED = ("held_out", "adversarial")  # the sets on which cheap policies and the comparison are measured


def run(config: EvaluateConfig, inputs: EvaluateInputs, runtime: Runtime) -> StageOutput:
    """Measure every version on every set of prompts, then put them side by side.

    One unit of work is one version on one set; each is checkpointed.
    """
    trial = _Trial(config, inputs, runtime)
    restored = runtime.restore()
    done: dict[str, Any] = json.loads(restored.state["done"]) if restored else {}
    units = trial.units()
    with runtime.progress("evaluating", len(units), start=len(done)) as bar:
        for step, (name, work) in enumerate(units.items(), start=1):
            if name not in done:
                done[name] = work()
                runtime.checkpoint(step, {"done": json.dumps(done)})
                bar.advance()

    evaluation = rounded(trial.compare(done))
    rows = [row for version in trial.versions for name in trial.sets(version) for row in done[f"{version}/{name}"]]
    rows.sort(key=lambda row: SETS.index(row["set"]))  # stable: versions and prompts stay in order within a set
    write_records(runtime.output / "samples.jsonl", [rounded(row) for row in rows])
    text = json.dumps(evaluation, indent=1, ensure_ascii=False) + "\n"
    (runtime.output / "evaluation.json").write_text(text, encoding="utf-8")
    return StageOutput(_metrics(evaluation))


class _Trial:
    """The prompts, the judges and, one or two at a time, the models."""

    def __init__(self, config: EvaluateConfig, inputs: EvaluateInputs, runtime: Runtime) -> None:
        self.config, self.inputs, self.runtime = config, inputs, runtime
        self.versions = in_order(inputs.versions)
        self.models = _Models(inputs.versions, runtime)
        self.texts = [d.text for d in read_texts([inputs.texts])] if inputs.texts else []
        check_there(inputs.versions, inputs.prompts, self.texts)
        self.prompts = self._prompts()
        self.world = WORLDS[inputs.world] if inputs.world else None
        self.judge_accuracy = inputs.judge_accuracy
        judges = self._judges()
        self.bench = Bench(judges, self.world.is_nonsense if self.world else None, self._reward())

    def units(self) -> dict[str, Callable[[], Any]]:
        """Every piece of work by its name, in the order of the models."""
        units: dict[str, Callable[[], Any]] = {}
        for version in self.versions:
            for prompt_set in self.sets(version):
                units[f"{version}/{prompt_set}"] = partial(self.answers, version, prompt_set)
            if version == COMPARISON:
                continue
            if self.config.greedy:
                for prompt_set in (name for name in GREEDY if name in self.prompts):
                    units[f"{version}/greedy/{prompt_set}"] = partial(self.greedy, version, prompt_set)
            if self.texts:
                units[f"{version}/perplexity"] = partial(self.perplexity, version)
            if version == self._best_of_version():
                units["best_of"] = self.best_of
        return units

    def sets(self, version: str) -> list[str]:
        """The sets of prompts that a version answers."""
        return [name for name in self.prompts if version != COMPARISON or name in COMPARED]

    def answers(self, version: str, prompt_set: str) -> list[Row]:
        """A row for each sampled answer of a version to a set of prompts."""
        prompts = self.prompts[prompt_set]
        model = self.models.load(version)
        seeds = self._seeds(prompts, version, prompt_set)
        sampled = answer(model, prompts, self.config.sampling, seeds, self.runtime.log_once)
        reference = reference_of(version, self.versions)
        other = self.models.load(reference, beside=version) if reference else None
        rows = measure(self.bench, model, other, prompts, sampled, self.config.sampling.temperature)
        if prompt_set == "held_out" and are_compared(self.versions) and reference and "base" in self.versions:
            kls = [row["kl"] for row in rows] if reference == "base" else self._kl_from_base(version, sampled)
            rows = [row | {"kl_from_base": kl} for row, kl in zip(rows, kls, strict=True)]
        about = {"set": prompt_set, "version": version}
        return [about | row | {"flags": flags_of(prompt)} for prompt, row in zip(prompts, rows, strict=True)]

    def _kl_from_base(self, version: str, sampled: Answers) -> list[float] | list[None]:
        """Nats of each answer; with several versions, the way from the start is asked besides that from SFT."""
        model = self.models.load(version)
        base = self.models.load("base", beside=version)
        return kl_of(model, base, sampled.rollouts, self.config.sampling.temperature)[0]

    def greedy(self, version: str, prompt_set: str) -> list[Row]:
        """As `answers`, with the likeliest token always; judges and length only."""
        prompts = self.prompts[prompt_set]
        sampling = self.config.sampling.model_copy(update={"temperature": 0.0})
        found = answer(self.models.load(version), prompts, sampling, [0] * len(prompts), self.runtime.log_once)
        return measure(Bench(self.bench.judges), self.models.load(version), None, prompts, found, 1.0)

    def perplexity(self, version: str) -> dict[str, float]:
        """On the held-out text."""
        return dict(perplexity(*self.models.load(version), self.texts[: self.config.perplexity_texts])._asdict())

    def best_of(self) -> dict[str, Any]:
        """The answer of several that the reward model likes best: what its taste is worth without any training."""
        version, copies = self._best_of_version(), self.config.best_of
        assert version is not None
        model = self.models.load(version)
        asked = self._best_of_prompts()
        prompts = [prompt for prompt in asked for _ in range(copies)]
        seeds = [self.runtime.seed_for("best_of", prompt.id, i) for prompt in asked for i in range(copies)]
        found = answer(model, prompts, self.config.sampling, seeds, self.runtime.log_once)
        scores = reward_scores(self.bench.reward, model.tokenizer, prompts, found)
        golds = [verdict["gold"] for verdict in judge_all(self.bench.judges, prompts, found.texts)]
        return {"version": version} | picked_by_reward(scores, golds, copies)

    def compare(self, done: Mapping[str, Any]) -> dict[str, Any]:
        """Everything in `evaluation.json`."""
        seed = self.runtime.seed_for("intervals")
        measured = {version: self._measured(version, done) for version in self.versions}
        results = version_results(measured, list(self.bench.judges), seed)
        best_of = None
        if "best_of" in done:
            held_out = {version: one.sets["held_out"] for version, one in measured.items()}
            best_of = best_of_results(done["best_of"], self.config.best_of, self._best_of_prompts(), held_out, seed)
        return {
            "gold": self._gold_in_words(),
            "main_judge": next(iter(self.bench.judges)) if len(self.bench.judges) == 1 else None,
            "judge_accuracy": self.judge_accuracy,
            "prompts": {name: len(prompts) for name, prompts in self.prompts.items()},
            "versions": results,
            "comparison": compare_versions(measured, list(self.bench.judges), seed)
            if are_compared(self.versions)
            else None,
            "best_of": best_of,
            "baselines": self._baselines(seed),
        }

    def _measured(self, version: str, done: Mapping[str, Any]) -> Measured:
        return Measured(
            {name: done[f"{version}/{name}"] for name in self.sets(version)},
            {name: done[unit] for name in GREEDY if (unit := f"{version}/greedy/{name}") in done},
            done.get(f"{version}/perplexity"),
        )

    def _baselines(self, seed: int) -> dict[str, Any]:
        policies = self.world.baselines if self.world and self.inputs.judges is None else {}
        sets = {name: self.prompts[name] for name in COMPARED if name in self.prompts}
        return baseline_results(policies, sets, self.bench.judges, seed)

    def _best_of_prompts(self) -> list[Prompt]:
        return chosen(self.prompts["held_out"], self.config.best_of_prompts)

    def _best_of_version(self) -> str | None:
        if self.config.best_of < 2 or self.inputs.reward is None:
            return None
        return next((name for name in ("sft", "base") if name in self.versions), None)

    def _seeds(self, prompts: Sequence[Prompt], *names: str) -> list[int]:
        return [self.runtime.seed_for("sample", *names, prompt.id) for prompt in prompts]

    def _prompts(self) -> dict[str, list[Prompt]]:
        """Set -> its prompts; sets of size 0 and sets without a file are left out."""
        sizes = {name: getattr(self.config, f"{name}_prompts") for name in SETS}
        if not self.inputs.prompts:
            return {"held_out": self._openings()}
        return {
            name: chosen(read_records(self.inputs.prompts[name], Prompt).records, sizes[name])
            for name in SETS
            if name in self.inputs.prompts and sizes[name]
        }

    def _openings(self) -> list[Prompt]:
        """How the held-out documents start, to be continued."""
        tokenizer, length = self.models.load(self.versions[0]).tokenizer, self.config.opening_tokens
        prompts = openings(tokenizer, self.texts, length)
        if not prompts:
            raise ConfigError(
                f"evaluate.opening_tokens = {length}: no held-out document is so long; lower it or set evaluate.prompts"
            )
        return prompts[: self.config.held_out_prompts]

    def _judges(self) -> Mapping[str, Judge]:
        if self.inputs.judges is not None:
            return self.inputs.judges
        if self.world is not None:
            return self.world.judges
        if self.inputs.judge is not None:
            model = RewardModel(self.inputs.judge, device=self.runtime.device)
            return {"preferred": PreferenceJudge(model, as_probability=True)}
        if self.config.judge is None:
            return {}
        classifier = TextClassifier.train(read_labelled(self.config.judge.labelled))
        if self.config.judge.check is not None:
            self.judge_accuracy = classifier.accuracy(read_labelled(self.config.judge.check))
        return {self.config.judge.name: classifier}

    def _reward(self) -> RewardModel | None:
        return None if self.inputs.reward is None else RewardModel(self.inputs.reward, device=self.runtime.device)

    def _gold_in_words(self) -> str:
        names = list(self.bench.judges)
        if self.inputs.judge is not None and self.inputs.judges is None:
            right = (
                ""
                if self.judge_accuracy is None
                else f" and orders {100 * self.judge_accuracy:.0f} % of held-out pairs rightly"
            )
            return f"how likely the answer is preferred to a mean one, by a judge that trained nothing{right}"
        if self.config.judge is not None and self.inputs.judges is None:
            return f"1 where an independent classifier of text calls the answer {names[0]}, else 0"
        return f"the minimum of {', '.join(names)} over those that apply" if names else "not measured"


class _Models:
    """Loads versions when they are needed, and keeps no more than a policy and its reference in memory."""

    def __init__(self, folders: Mapping[str, Path], runtime: Runtime) -> None:
        self._folders, self._device = folders, runtime.device
        self._loaded: dict[str, LanguageModel] = {}

    def load(self, version: str, beside: str | None = None) -> LanguageModel:
        if version not in self._loaded:
            self._loaded = {name: model for name, model in self._loaded.items() if name == beside}
            folder = self._folders[version]
            self._loaded[version] = LanguageModel(load_causal_lm(folder, self._device), load_tokenizer(folder))
        return self._loaded[version]


def chosen(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    """`count` of the prompts, in their order: by the hash of the question, so that its wordings stay together."""

    def question(prompt: Prompt) -> str:
        return str(prompt.tags.get("question_id") or prompt.id)

    by_hash = sorted(range(len(prompts)), key=lambda i: hashlib.sha256(question(prompts[i]).encode()).digest())
    return [prompts[i] for i in sorted(by_hash[:count])]


def _metrics(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest keeps: `versions` as in summary.json, and beside it the figures a `require:` may name."""
    results = evaluation["versions"]
    kept = ("gain_vs_sft", "perplexity_ratio", "spread", "distinct_answers_vs_sft", "distinct_2_vs_base")
    return {
        "versions": {name: summary_of(result) for name, result in results.items()},
        **{figure: {name: result[figure] for name, result in results.items()} for figure in kept},
        "gold_interval": {name: result["sets"]["held_out"]["gold"] for name, result in results.items()},
        "judge_accuracy": evaluation["judge_accuracy"],
        "best_of": evaluation["best_of"],
        "baselines": evaluation["baselines"],
        **({"rounds": round_figures(evaluation["comparison"], results)} if evaluation["comparison"] else {}),
    }


STAGE = Stage(
    name="evaluate",
    config=EvaluateConfig,
    needs={
        "base": ("pretrain",),
        "sft": ("sft",),
        "sft_clean": ("sft_clean",),
        "version_*": IMPROVED,  # every one of these before it, in the role of its own name
        "reward": ("reward",),
        "world": ("world",),
        "dataset": ("dataset",),
        "judge": ("judge",),
    },
    bind=bind,
    run=run,
    files=files,
)
