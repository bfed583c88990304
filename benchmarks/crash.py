"""Kill -9 the whole loop at random moments of each stage, finish it with the same command, compare the outcome.

    python benchmarks/crash.py [--kills 20] [--seed 0] [--recipe benchmarks/crash.yaml]

It must be that of a run that was never killed, bit for bit, times and memory aside: every file of every artifact, the
artifacts' ids, the figures of every step, the summary. Prints a table, and one JSON line last; exit status 1 when
anything differs.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def main() -> None:
    arguments = _arguments()
    rng = random.Random(arguments.seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="loopwright-crash-") as folder:
        out = Path(folder) / "run"
        spans = _finish(arguments.recipe, out)
        expected = outcome(out)
        seconds = sum(spans.values())
        print(f"undisturbed: {seconds:.1f} s, {len(expected['files'])} files in {len(expected['ids'])} artifacts")
        print(f"{'kill':>4} {'after':>8}  {'killed in':<10} {'resumed from':<14} result")
        differing: list[int] = []
        stages: list[str] = []
        for number in range(1, arguments.kills + 1):
            # At a random moment of each stage in turn, so that the short ones are hit, too.
            aim = list(spans)[number % len(spans)]
            delay = rng.random() * spans[aim]
            stage = _kill(arguments.recipe, out, aim, delay)
            checkpoint = _checkpoint(out)
            _finish(arguments.recipe, out)
            found = outcome(out)
            different = sorted(part for part in expected if found[part] != expected[part])
            result = "equal" if not different else f"DIFFERS in {', '.join(different)}"
            print(f"{number:>4} {delay:>6.1f} s  {stage:<10} {checkpoint:<14} {result}", flush=True)
            stages.append(stage)
            if different:
                differing.append(number)
    print(
        json.dumps(
            {
                "benchmark": "crash",
                "kills": arguments.kills,
                "equal": arguments.kills - len(differing),
                "differing": differing,
                "killed_in": {stage: stages.count(stage) for stage in dict.fromkeys(stages)},
                "undisturbed_seconds": round(seconds, 1),
                "seconds": round(time.perf_counter() - started, 1),
            }
        )
    )
    sys.exit(bool(differing))


def outcome(run: Path) -> dict[str, Any]:
    """What an undisturbed and a killed run must agree on."""
    summary = json.loads((run / "summary.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    files = {
        path.relative_to(run).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((run / "artifacts").rglob("*"))
        if path.is_file() and path.name not in ("manifest.json", "metrics.jsonl")
    }
    manifests = {path.parent.name: json.loads(path.read_text()) for path in run.glob("artifacts/*/manifest.json")}
    return {
        "files": files,
        "ids": {name: manifest["id"] for name, manifest in sorted(manifests.items())},
        "figures": {name: _without_times(manifest["metrics"]) for name, manifest in sorted(manifests.items())},
        "steps": _without_times(lines),
        "summary": _without_times(summary),
        "config": (run / "config.yaml").read_text(),
    }


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        timing = ("time", "peak_rss_mb")
        return {key: _without_times(inner) for key, inner in value.items() if key not in timing and "second" not in key}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def _start(recipe: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "loopwright", "run", str(recipe), "--out", str(out)]
    # Its own process group, so that the kill takes helpers too. Run in the repository: this tree's code is measured.
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )


def _finish(recipe: Path, out: Path) -> dict[str, float]:
    """Run to the end. The seconds that each stage took."""
    moments: list[tuple[str, float]] = []
    said = ""
    with _start(recipe, out) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said += line.decode(errors="replace")
            if not moments or _stage(said) != moments[-1][0]:
                moments.append((_stage(said), time.perf_counter()))
    if process.returncode != 0:
        sys.exit(f"the run failed:\n{said[-3000:]}")
    ends = [moment for _, moment in moments[1:]] + [time.perf_counter()]
    return {stage: end - begun for (stage, begun), end in zip(moments, ends, strict=True)}


def _kill(recipe: Path, out: Path, stage: str, delay: float) -> str:
    """Start afresh and kill `delay` seconds after the stage began; the stage it was in by then.

    A run that was done before that is killed earlier the next time.
    """
    while True:
        shutil.rmtree(out, ignore_errors=True)
        said = ""
        with _start(recipe, out) as process:
            assert process.stderr is not None
            for line in process.stderr:
                said += line.decode(errors="replace")
                if _stage(said) == stage:
                    break
            time.sleep(delay)
            os.killpg(process.pid, signal.SIGKILL)
            said += process.communicate()[1].decode(errors="replace")
        if process.returncode != 0:
            return _stage(said)
        delay *= 0.9


def _stage(said: str) -> str:
    """The stage that was at work, from what the run said last."""
    begun = [line.split()[-1] for line in said.splitlines() if line.startswith("[")]
    return begun[-1] if begun else "starting"


def _checkpoint(out: Path) -> str:
    found = sorted((out / "scratch").glob("*/checkpoint-*"))
    return f"step {int(found[-1].name.rpartition('-')[2])}" if found else "its beginning"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", type=Path, default=ROOT / "benchmarks" / "crash.yaml")
    return parser.parse_args()


if __name__ == "__main__":
    main()
