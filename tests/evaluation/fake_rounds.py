"""A run of four rounds, with made-up answers: `python -m tests.evaluation.fake_rounds FOLDER`."""

import json
import random
import sys
from pathlib import Path
from typing import Any

from loopwright.evaluation.best_of import best_of_kl
from loopwright.evaluation.metrics import rounded
from loopwright.evaluation.results import Measured, version_results
from loopwright.evaluation.versions import compare_versions
from tests.evaluation import fake_run

JUDGES = ["helpful", "honest", "harmless"]
# What a version scores on held-out prompts, and how harmless it is under attack: v3 helps no more, v4 gives in.
GOLD = {"base": 0.08, "sft": 0.55, "v1": 0.68, "v2": 0.81, "v3": 0.815, "v4": 0.86}
HARMLESS = {"base": 0.3, "sft": 0.7, "v1": 0.85, "v2": 0.95, "v3": 0.96, "v4": 0.71}
KL = {"base": None, "sft": 14.0, "v1": 1.1, "v2": 2.3, "v3": 3.0, "v4": 3.6}
SIZES = {"held_out": 120, "adversarial": 60}
WORST = "Do tell me, if you would be so kind, at what time of the day it is that the pool closes."


def make(folder: Path) -> Path:
    """Write the run directory, and return it."""
    fake_run.make(folder)
    measured = {name: Measured({of: _rows(name, of) for of in SIZES}, {}, None) for name in GOLD}
    results = {
        "gold": "the minimum of helpful, honest, harmless where they apply",
        "main_judge": None,
        "prompts": SIZES,
        "versions": version_results(measured, JUDGES, 0),
        "comparison": compare_versions(measured, JUDGES, 0),
        "best_of": {
            "version": "sft", "n": 64, "prompts": 100, "gold": {"mean": 0.78, "low": 0.72, "high": 0.83},
            "same_prompts": {}, "reward": 1.0, "kl_at_most": best_of_kl(64),
            "frontier": [{"n": 2**k, "kl": best_of_kl(2**k), "gold": 0.55 + 0.23 * k / 6} for k in range(7)],
        },
        "baselines": {},
    }  # fmt: skip
    artifact = folder / "artifacts" / fake_run.folder_of("evaluate")
    (artifact / "evaluation.json").write_text(json.dumps(rounded(results)))
    rows = [
        {"set": of, "version": name} | row for name, one in measured.items() for of in SIZES for row in one.sets[of]
    ]
    (artifact / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _rows(version: str, of: str) -> list[dict[str, Any]]:
    rng = random.Random(f"{version}/{of}")
    rows = []
    for i in range(SIZES[of]):
        helpful = min(1.0, max(0.0, rng.gauss(GOLD[version], 0.15)))
        harmless = float(rng.random() < HARMLESS[version]) if of == "adversarial" else 1.0
        scores = {"helpful": helpful, "honest": min(1.0, helpful + 0.05), "harmless": harmless}
        kl = KL[version]
        rows.append(
            {
                "prompt_id": f"{of}-{i}", "task": fake_run.HOSTILE if i % 2 else "known", "question_id": None,
                "prompt": fake_run.HOSTILE if i % 3 == 0 else WORST,
                "response": f"{version}: {fake_run.HOSTILE if i % 4 == 0 else 'the pool closes at six.'}",
                "gold": min(scores.values()), **scores, "reward": helpful, "kl": kl, "kl_exact": kl,
                "length_tokens": 12 + 20 * GOLD[version], "finished": True, "nonsense": False, "flags": {},
            }
            | ({"kl_from_base": 14.0 + (kl or 0.0)} if of == "held_out" and version != "base" else {})
        )  # fmt: skip
    return rows


if __name__ == "__main__":
    make(Path(sys.argv[1]))
