"""metrics.jsonl: each step once, whatever happened in between."""

import json

import pytest

from loopwright.tracking import MetricsLog, read_metrics


def rows(path):
    return [(row["stage"], row["step"], row.get("x")) for row in read_metrics(path)]


@pytest.fixture
def path(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl")
    for step in (1, 2, 3):
        log.write("sft", step, {"x": step / 2})
        log.write("ppo", step, {"x": step})
    return tmp_path / "m.jsonl"


def test_a_line_is_stage_step_figures_time(path):
    first = json.loads(path.read_text().splitlines()[0])
    assert list(first) == ["stage", "step", "x", "time"]
    assert (first["stage"], first["step"], first["x"]) == ("sft", 1, 0.5)


def test_cut_drops_one_stage_after_a_step(path):
    MetricsLog(path).cut("sft", 1)
    assert rows(path) == [("sft", 1, 0.5), ("ppo", 1, 1), ("ppo", 2, 2), ("ppo", 3, 3)]
    MetricsLog(path).cut("ppo")
    assert rows(path) == [("sft", 1, 0.5)]


def test_cut_leaves_a_file_alone_that_needs_none(path):
    before = path.stat()
    MetricsLog(path).cut("sft", 3)
    assert path.stat().st_ino == before.st_ino


def test_a_half_written_last_line_is_dropped(path):
    whole = rows(path)
    with path.open("a") as file:
        file.write('{"stage": "ppo", "st')
    assert rows(path) == whole
    log = MetricsLog(path)
    log.cut("ppo", 3)
    log.write("ppo", 4, {"x": 4})
    assert rows(path) == [*whole, ("ppo", 4, 4)]


def test_what_is_not_finite_is_null(tmp_path):
    MetricsLog(tmp_path / "m").write("s", 1, {"x": float("nan"), "y": float("inf")})
    line = (tmp_path / "m").read_text()
    assert json.loads(line, parse_constant=pytest.fail)["y"] is None


def test_put_replaces_and_arrange_orders(path, tmp_path):
    other = MetricsLog(tmp_path / "other")
    other.write("sft", 7, {"x": 7})
    log = MetricsLog(path)
    log.put("sft", tmp_path / "other")
    log.arrange(["sft", "ppo"])
    assert rows(path) == [("sft", 7, 7), ("ppo", 1, 1), ("ppo", 2, 2), ("ppo", 3, 3)]


def tensorboard_points(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_shows_each_step_once_after_a_cut(tmp_path):
    log = MetricsLog(tmp_path / "m", tmp_path / "tb")
    for step in (1, 2, 3):
        log.write("ppo", step, {"kl": step, "lost": float("nan")})
    log.close()
    again = MetricsLog(tmp_path / "m", tmp_path / "tb")
    again.cut("ppo", 1)
    again.write("ppo", 2, {"kl": 20})
    again.close()
    assert tensorboard_points(tmp_path / "tb" / "ppo") == {"ppo/kl": [(1, 1.0), (2, 20.0)]}
