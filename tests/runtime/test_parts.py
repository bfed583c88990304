import json

import pytest
import torch

from loopwright.runtime.parts import Part
from loopwright.runtime.runtime import Runtime


def steps(folder):
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_steps_are_counted_on_and_checkpoints_are_the_stages(tmp_path):
    whole = Runtime.temporary(tmp_path)
    first, second = Part(whole, 0, {"number": 0}), Part(whole, 5, {"number": 1})
    first.record(3, {"loss": 1.0})
    first.checkpoint(5, {"weights": torch.ones(2)})
    assert second.restore() is None  # the checkpoint is another training's
    second.record(1, {"loss": 0.5})
    second.checkpoint(2, {"weights": torch.zeros(2)})
    second.record(4, {"loss": 0.4})  # lost with the crash

    again = Runtime.temporary(tmp_path)
    found = again.restore()
    assert found.step == 7 and found.state["around"] == {"number": 1}
    assert steps(tmp_path) == [3, 6]
    part = Part(again, 5, found.state["around"], found)
    mine = part.restore()
    assert mine.step == 2 and torch.equal(mine.state["weights"], torch.zeros(2))


def test_it_is_the_same_stage_in_the_same_place(tmp_path):
    whole = Runtime.temporary(tmp_path, stage="rest", seed=7)
    part = Part(whole, 9, {})
    assert part.seed_for("order", 1) == whole.seed_for("order", 1)
    assert (part.stage, part.device, part.scratch, part.output) == ("rest", whole.device, whole.scratch, whole.output)
    assert part.seconds == pytest.approx(whole.seconds, abs=60)
