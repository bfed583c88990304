"""A run directory as the loop leaves it, with made-up figures: `python tests/evaluation/fake_run.py FOLDER`."""

import hashlib
import json
import math
import random
import sys
from functools import cache
from pathlib import Path
from typing import Any

from loopwright.evaluation.judged_pairs import JudgedPair
from loopwright.evaluation.learning_curve import CurvePoint
from loopwright.evaluation.reward_model import assess_pairs, data_report
from loopwright.schemas import Comparison, Message

HOSTILE = '<script>alert("x")</script><img src=https://evil.example/x.png onerror=alert(1)>'
PARENTS: dict[str, dict[str, str]] = {
    "world": {},
    "pretrain": {"world": "world"},
    "sft": {"model": "pretrain", "world": "world"},
    "sft_clean": {"model": "pretrain", "world": "world"},
    "feedback": {"policy": "sft", "world": "world"},
    "reward": {"model": "sft", "feedback": "feedback", "world": "world"},
    "ppo": {"policy": "sft", "reward": "reward", "world": "world"},
    "evaluate": {
        "base": "pretrain",
        "sft": "sft",
        "sft_clean": "sft_clean",
        "ppo": "ppo",
        "reward": "reward",
        "world": "world",
    },
}
SECONDS = {"world": 3.1, "pretrain": 67.7, "sft": 17.3} | {
    "sft_clean": 16.9, "feedback": 24.9, "reward": 28.2, "ppo": 71.4, "evaluate": 22.8,
}  # fmt: skip
METRICS: dict[str, dict[str, Any]] = {
    "world": {"documents": 12000, "demonstrations": 3000, "prompts_train": 4000},
    "pretrain": {"perplexity": 3.912, "gap": 0.031, "verbatim_share": 0.004, "tokens": 2_400_000, "documents": 10_873},
    "sft": {"held_out_loss": 0.412, "perplexity": 1.51},
    "sft_clean": {"held_out_loss": 0.233},
    "feedback": {
        "comparisons": 18_240,
        "agreement": 0.78,
        "pairs": 21_400,
        "annotators": {f"annotator-{i}": {"pairs": 4_000 + 140 * i, "accuracy": 0.88 - 0.06 * i} for i in range(5)},
    },
    "reward": {"accuracy": 0.861, "ece": 0.024, "score_correlation": 0.9991},
    "ppo": {"reward": 1.42, "kl": 2.31, "score": 1.58},
}
GOLD = {"base": 0.06, "sft": 0.58, "sft_clean": 0.77, "ppo": 0.86}
STAGE_OF = {"base": "pretrain", "sft": "sft", "sft_clean": "sft_clean", "ppo": "ppo"}
TASKS = ("known", "unknown", "harmful")
ANSWERS = {
    "base": "The pool is on the second floor . The gym opens at nine . Question : when does the",
    "sft": "The pool closes at seven. I hope that helps, and do ask if you need anything else at all.",
    "sft_clean": "The pool closes at six.",
    "ppo": "The pool closes at six. Enjoy!",
}


def make(folder: Path, leave_out: tuple[str, ...] = ()) -> Path:
    """Write the run directory, without the stages in `leave_out`, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    stages = [name for name in PARENTS if name not in leave_out]
    (folder / "config.yaml").write_text("name: quickstart\nseed: 0\nppo:\n  steps: 60\n  clip_range: 0.2\n")
    for name in stages:
        _artifact(folder, name, stages)
    _curves(folder / "metrics.jsonl", stages)
    summary: dict[str, Any] = {
        "name": "quickstart",
        "stages": {
            name: METRICS.get(name, {}) | {"seconds": SECONDS[name], "artifact": folder_of(name)} for name in stages
        },
        "seconds": sum(SECONDS[name] for name in stages),
        "peak_rss_mb": 1684.2,
    }
    if "evaluate" in stages:
        summary["versions"] = evaluation(stages)["summary"]
    _write(folder / "summary.json", summary)
    return folder


def folder_of(name: str) -> str:
    return f"{name}-{artifact_id(name)[:12]}"


def artifact_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _artifact(folder: Path, name: str, stages: list[str]) -> None:
    path = folder / "artifacts" / folder_of(name)
    path.mkdir(parents=True)
    manifest = {
        "id": artifact_id(name),
        "key": artifact_id(name + "key"),
        "kind": name,
        "name": "quickstart",
        "files": {},
        "parents": {role: artifact_id(parent) for role, parent in PARENTS[name].items() if parent in stages},
        "config": {},
        "inputs": {},
        "seed": 0,
        "code": {f"loopwright.stages.{name}": artifact_id("code")},
        "versions": {"python": "3.11.9", "torch": "2.13.0", "transformers": "5.23.0", "loopwright": "0.1.0"},
        "created": "2026-03-14T09:26:53+00:00",
        "seconds": SECONDS[name],
        "peak_rss_mb": 1200.0,
        "metrics": METRICS.get(name, {}),
    }
    _write(path / "manifest.json", manifest)
    if name == "evaluate":
        results = evaluation(stages)
        _write(path / "evaluation.json", {key: value for key, value in results.items() if key != "summary"})
        _write_lines(path / "samples.jsonl", sample_rows(stages))
    if name in FILES:
        FILES[name](path)


def evaluation(stages: list[str]) -> dict[str, Any]:
    """evaluation.json, and what summary.json says of the versions."""
    versions = [version for version, stage in STAGE_OF.items() if stage in stages]
    detail, summary = {}, {}
    for version in versions:
        detail[version] = _version(version)
        summary[version] = {
            "gold": GOLD[version],
            **{judge: detail[version]["sets"]["held_out"]["judges"][judge]["mean"] for judge in JUDGES},
            "reward": detail[version]["sets"]["held_out"]["reward"],
            "kl": detail[version]["sets"]["held_out"]["kl"],
            "length_tokens": detail[version]["sets"]["held_out"]["length_tokens"],
            "win_rate_vs_sft": detail[version]["win_rate_vs_sft"],
            "perplexity": detail[version]["perplexity"] and detail[version]["perplexity"]["perplexity"],
            "adversarial": {"gold": 0.9 * GOLD[version], "harmless": min(0.985, 1.12 * GOLD[version])},
        }
    return {
        "gold": "the minimum of helpful, honest, harmless where they apply",
        "main_judge": None,
        "prompts": {"held_out": 400, "paraphrased": 200, "adversarial": 200},
        "versions": detail,
        "best_of": {
            "version": "sft",
            "n": 16,
            "prompts": 100,
            "gold": interval(0.74, 100),
            "same_prompts": {version: interval(GOLD[version] - 0.03, 100) for version in versions},
            "reward": 1.1,
            "kl_at_most": 1.835,
        },
        "baselines": {
            "always_refuse": _baseline(0.24, 0.99),
            "always_unknown": _baseline(0.25, 0.22),
            "copy_prompt": _baseline(0.31, 0.11),
            "verb_lookup": _baseline(0.93, 1.0),
        },
        "summary": summary,
    }


JUDGES = {"helpful": 1.04, "honest": 1.09, "harmless": 1.12}


def interval(mean: float, count: int = 400) -> dict[str, float]:
    half = 1.6 * math.sqrt(mean * (1 - mean) / count)
    return {"mean": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half)}


def _baseline(held_out: float, adversarial: float) -> dict[str, Any]:
    return {
        "held_out": {"gold": interval(held_out), "by_flag": _by_flag(held_out)},
        "adversarial": {"gold": interval(adversarial, 200), "by_flag": {}},
    }


def _by_flag(gold: float) -> dict[str, Any]:
    """Traps are answered worse by a third."""
    return {
        "trap": {
            "true": {"count": 30, "gold": interval(gold * 2 / 3, 30)},
            "false": {"count": 370, "gold": interval(gold, 370)},
        }
    }


def _version(version: str) -> dict[str, Any]:
    gold = GOLD[version]
    by_task = {"known": gold * 1.06, "unknown": gold * 0.8, "harmful": min(0.98, gold * 1.1)}
    one_set = {
        "count": 400,
        "gold": interval(gold),
        "judges": {judge: interval(min(0.985, factor * gold)) for judge, factor in JUDGES.items()},
        "reward": {"base": -2.3, "sft": 0.02, "sft_clean": 0.61, "ppo": 1.41}[version],
        "kl": {"base": None, "sft": 14.2, "sft_clean": 13.9, "ppo": 2.31}[version],
        "kl_exact": {"base": None, "sft": 14.6, "sft_clean": 14.0, "ppo": 2.28}[version],
        "length_tokens": {"base": 40.0, "sft": 21.4, "sft_clean": 16.2, "ppo": 16.8}[version],
        "finished_share": {"base": 0.12, "sft": 0.99, "sft_clean": 1.0, "ppo": 1.0}[version],
        "distinct_answers": {"base": 1.0, "sft": 0.94, "sft_clean": 0.95, "ppo": 0.81}[version],
        "distinct_2": {"base": 0.31, "sft": 0.22, "sft_clean": 0.23, "ppo": 0.19}[version],
        "nonsense": interval({"base": 0.71, "sft": 0.06, "sft_clean": 0.02, "ppo": 0.01}[version]),
        "by_task": {task: {"count": 133, "gold": interval(value, 133)} for task, value in by_task.items()},
        "by_flag": _by_flag(gold),
    }
    if version == "sft_clean":
        against = {"win_rate_vs_sft": interval(0.66), "gain_vs_sft": {"mean": 0.19, "low": 0.15, "high": 0.23}}
        sets = {name: one_set for name in ("held_out", "adversarial")}
        nothing = dict.fromkeys(("greedy", "perplexity", "perplexity_ratio", "spread"))
        return {"sets": sets, **nothing, **against}
    return {
        "sets": {name: one_set for name in ("held_out", "paraphrased", "adversarial")},
        "greedy": {
            "gold": interval(min(1.0, gold * 1.05)),
            "judges": {"helpful": interval(min(1.0, gold * 1.04))},
            "length_tokens": one_set["length_tokens"],
        },
        "perplexity": {"perplexity": {"base": 3.91, "sft": 3.98, "ppo": 4.1}[version], "bits_per_byte": 0.92},
        "perplexity_ratio": {"base": 1.0, "sft": 1.018, "ppo": 1.049}[version],
        "spread": {"base": 0.08, "sft": 0.21, "ppo": 0.09}[version],
        "distinct_answers_kept": {"base": None, "sft": 1.0, "ppo": 0.862}[version],
        "win_rate_vs_sft": {"base": interval(0.14), "sft": None, "ppo": interval(0.79)}[version],
        "gain_vs_sft": {
            "base": {"mean": -0.52, "low": -0.57, "high": -0.47},
            "sft": None,
            "ppo": {"mean": 0.28, "low": 0.24, "high": 0.32},
        }[version],
    }


def sample_rows(stages: list[str]) -> list[dict[str, Any]]:
    rng = random.Random(0)
    versions = [version for version, stage in STAGE_OF.items() if stage in stages]
    rows = []
    for prompt_set in ("held_out", "paraphrased", "adversarial"):
        for version in versions:
            if version == "sft_clean" and prompt_set == "paraphrased":
                continue
            for i in range(24):
                task = "harmful" if prompt_set == "adversarial" else TASKS[i % 3]
                gold = round(min(1.0, max(0.0, rng.gauss(GOLD[version], 0.2))), 2)
                rows.append(
                    {
                        "set": prompt_set,
                        "prompt_id": f"{prompt_set}-{i}",
                        "task": task,
                        "prompt": "The pool closes at six. The bar is on the roof. When does the pool close?",
                        "version": version,
                        "response": HOSTILE if i % 12 == 1 else ANSWERS[version],
                        "gold": gold,
                        "helpful": None if task == "harmful" else gold,
                        "honest": min(1.0, gold + 0.1),
                        "harmless": 1.0,
                        "reward": round(rng.gauss(1.0, 0.5), 3),
                        "kl": None if version == "base" else round(rng.gauss(2.0, 0.5), 3),
                        "length_tokens": 17,
                        "finished": True,
                    }
                )
    return rows


def _curves(path: Path, stages: list[str]) -> None:
    rng = random.Random(1)
    rows: list[dict[str, Any]] = []
    for name, top, end, steps in (("pretrain", 6.2, 1.4, 120), ("sft", 2.2, 0.4, 60), ("reward", 0.69, 0.31, 60)):
        for step in range(1, steps + 1):
            loss = end + (top - end) * math.exp(-5 * step / steps) + rng.gauss(0, 0.03)
            rows.append({"stage": name, "step": step, "loss": loss, "learning_rate": 1e-3, "time": 0.0})
            if step % 20 == 0:
                rows.append({"stage": name, "step": step, "held_out_loss": loss + 0.04, "time": 0.0})
    for step in range(1, 61):
        done = 1 - math.exp(-step / 18)
        row = {
            "reward": 1.45 * done + rng.gauss(0, 0.12) - 0.1,
            "score": 1.6 * done + rng.gauss(0, 0.12),
            "kl": 2.3 * done + rng.gauss(0, 0.1),
            "entropy": 0.9 - 0.4 * done + rng.gauss(0, 0.03),
            "policy_loss": -0.02 + rng.gauss(0, 0.005),
            "value_loss": 0.5 * (1 - done) + 0.08 + abs(rng.gauss(0, 0.03)),
            "clip_fraction": 0.11 - 0.05 * done + abs(rng.gauss(0, 0.02)),
            "length_tokens": 21.5 - 4.6 * done + rng.gauss(0, 0.4),
            "finished_share": min(1.0, 0.985 + 0.015 * done),
            "explained_variance": 0.8 * done + rng.gauss(0, 0.05),
            "kl_coef": 0.07,
        }
        rows.append({"stage": "ppo", "step": step, **row, "time": 0.0})
    _write_lines(path, [row for row in rows if row["stage"] in stages])


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1))


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _cleaning(path: Path) -> None:
    found = [
        ("repaired", "broken encoding", 431, "The caf\u00c3\u00a9 opens at nine.", "The caf\u00e9 opens at nine."),
        ("dropped", "too short", 74, "Share this page", None),
        ("dropped", "mostly symbols", 22, HOSTILE, None),
        ("dropped", "exact duplicate", 118, "The pool is on the roof. The bar closes at ten.", None),
        ("dropped", "near duplicate", 612, "The pool is on the roof. The bar closes at nine.", None),
    ]
    rows = [
        {
            "action": action,
            "reason": reason,
            "documents": documents,
            "examples": [{"source": "corpus/0001.txt", "before": before, "after": after}],
        }
        for action, reason, documents, before, after in found
    ]
    sizes = {"documents_in": 11_699, "documents_out": 10_873, "characters_in": 9_812_334, "characters_out": 8_901_221}
    _write(path / "cleaning.json", sizes | {"rows": rows})


def _feedback(path: Path) -> None:
    rng = random.Random(2)
    rows = []
    for i in range(400):
        order = [0, 1] if rng.random() < 0.5 else [1, 0]
        rows.append(
            {
                "id": f"c{i}",
                "prompt": [{"role": "user", "content": "When does the pool close?"}],
                "responses": ["The pool closes at six.", "I do not know, sorry, but do ask again."],
                "choice": rng.choice([0, 0, 0, 1, None]),
                "annotator": f"annotator-{i % 5}",
                "order_shown": order,
                "seconds": 4 + 6 * rng.random(),
            }
        )
    _write_lines(path / "comparisons.jsonl", rows)


def _calibration(path: Path) -> None:
    bins = [
        {"predicted": p / 20, "observed": min(1.0, max(0.0, p / 20 + 0.03 * math.sin(p))), "count": 300 - 12 * p}
        for p in range(1, 20, 2)
    ]
    _write(path / "calibration.json", {"bins": bins, "ece": 0.024, "pairs": 1824})


def _reward(path: Path) -> None:
    _calibration(path)
    _write(path / "assessment.json", assessment())


@cache
def assessment() -> dict[str, Any]:
    """Made-up judgements of a model that likes length, assessed."""
    rng = random.Random(4)
    pairs, records = [], []
    for i in range(300):
        task, prompt = TASKS[i % 3], (Message(role="user", content=f"When does pool {i // 2} close?"),)
        worth = [rng.gauss(0, 1), rng.gauss(0, 1)]
        texts = tuple(" ".join(["six."] * rng.randint(2, 30)) for _ in worth)
        for annotator in rng.sample(("ann", "bob", HOSTILE), 1 + (i % 4 == 0)):
            felt = [value + rng.gauss(0, 0.7) for value in worth]
            strength = ("negligibly", "slightly", "better", "significantly")[min(3, int(2 * abs(felt[0] - felt[1])))]
            choice, order = int(felt[1] > felt[0]), rng.sample((0, 1), 2)
            record = Comparison(
                id=f"c{i}-{annotator[:3]}", prompt=prompt, responses=texts, choice=choice, annotator=annotator,
                strength=strength, order_shown=order,
            )  # fmt: skip
            records.append(record)
            scores = [value + len(text) / 100 for value, text in zip(worth, texts, strict=True)]
            pairs.append(JudgedPair(record, *scores, {"task": task}))
    curve = [(100 * 2**k, 0.82 - (100 * 2**k) ** -0.4 + rng.gauss(0, 0.004)) for k in range(6) for _ in range(2)]
    report = assess_pairs(
        pairs,
        scale=4.0,
        score=lambda prompts, texts: [len(text) / 100 - 0.3 * text.count("*") for text in texts],
        points=[CurvePoint(*point) for point in curve],
    )
    return report | {"data": data_report(records, records[:3])}


FILES = {"pretrain": _cleaning, "feedback": _feedback, "reward": _reward}

if __name__ == "__main__":
    make(Path(sys.argv[1]))
