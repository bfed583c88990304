"""A sentiment reward from a pre-trained encoder: MiniLM on SST-2, by recipes/sst2_encoder.yaml.

    python benchmarks/sst2.py --data FOLDER --model FOLDER [--out runs/sst2]

The recipe says where the encoder comes from. A finished run in OUT is not made again. Some minutes on two cores. Prints
a line and, last, one JSON line. Bar: 0.86 of the development sentences called right.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from loopwright.cli.display import on_stderr
from loopwright.errors import RequirementError
from loopwright.loop import RunConfig, load_config, read_summary, run

ROOT = Path(__file__).parents[1]
BAR = 0.86


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="with sst2_train.tsv and sst2_dev.tsv")
    parser.add_argument("--model", type=Path, required=True, help="the encoder's folder")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "sst2")
    args = parser.parse_args()
    with on_stderr() as display:
        try:
            run(config_of(args.data, args.model), args.out, display=display)
        except RequirementError as missed:
            print(missed)
    row = figures(read_summary(args.out))
    print(f"{row['label_accuracy']:.3f} of the development sentences called right (bar: {BAR}), {row['seconds']:.0f} s")
    print(json.dumps({"benchmark": "sst2", **row}))
    return int(not row["met"])


def config_of(data: Path, model: Path) -> RunConfig:
    return load_config(ROOT / "recipes" / "sst2_encoder.yaml", [f"data_dir={data}", f"reward.model={model}"])


def figures(summary: dict[str, Any]) -> dict[str, Any]:
    reward = summary["stages"]["reward"]
    accuracy = reward["label_accuracy"]
    return {"label_accuracy": accuracy, "bar": BAR, "met": accuracy >= BAR, "seconds": reward["seconds"]}


if __name__ == "__main__":
    raise SystemExit(main())
