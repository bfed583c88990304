"""Artifacts: keyed by what goes in, named by what came out, never used when damaged."""

import json
from pathlib import Path

import pytest

from loopwright.errors import ArtifactError
from loopwright.tracking import ArtifactStore, Origin, current_artifacts
from loopwright.tracking.artifacts import hash_files

ORIGIN = Origin(
    kind="sft", parents={"model": "a"}, config={"steps": 3, "rate": 0.1}, seed=0, code="c", versions={"torch": "1"}
)


def make(store, origin=ORIGIN, content="weights", **more):
    folder = store.begin(origin.kind, origin.key())
    (folder / "model").mkdir()
    (folder / "model" / "w").write_text(content)
    return store.commit(
        origin, name="recipe", **({"seconds": 1.0, "peak_rss_mb": 2.0, "metrics": {"loss": 0.5}} | more)
    )


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "ppo"},
        {"parents": {"model": "b"}},
        {"config": {"steps": 4, "rate": 0.1}},
        {"inputs": {"file": "hash"}},
        {"seed": 1},
        {"code": "d"},
        {"versions": {"torch": "2"}},
    ],
)
def test_the_key_depends_on_everything_that_goes_in(change):
    assert ORIGIN.model_copy(update=change).key() != ORIGIN.key()


def test_the_key_does_not_depend_on_the_order_of_settings():
    assert ORIGIN.model_copy(update={"config": {"rate": 0.1, "steps": 3}}).key() == ORIGIN.key()


def test_the_id_is_of_key_and_files_not_of_times_or_metrics(tmp_path):
    one = make(ArtifactStore(tmp_path / "1"))
    same = make(ArtifactStore(tmp_path / "2"), seconds=9.0, metrics={"loss": 7}, peak_rss_mb=99.0)
    other = make(ArtifactStore(tmp_path / "3"), content="other weights")
    assert one.id == same.id != other.id


def test_what_is_committed_is_found_and_readable(tmp_path):
    store = ArtifactStore(tmp_path)
    made = make(store)
    assert made.path == tmp_path / f"sft-{ORIGIN.key()[:12]}"
    found = store.find("sft", ORIGIN.key())
    assert found == made
    assert found.manifest.origin == ORIGIN
    assert found.file("model/w").read_text() == "weights"
    assert found.file("model").is_dir()
    assert store.find("sft", "0" * 64) is None


def test_a_file_it_does_not_have_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="holds no mode, only model/w; delete the folder to have sft run again"):
        make(ArtifactStore(tmp_path)).file("mode")


def test_begin_leaves_nothing_of_an_attempt_before(tmp_path):
    store = ArtifactStore(tmp_path)
    (store.begin("sft", ORIGIN.key()) / "half").write_text("x")
    assert hash_files(store.begin("sft", ORIGIN.key())) == {}
    assert store.find("sft", ORIGIN.key()) is None  # nothing stands under the final name


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "model/w").write_text("weightz"), "model/w was changed after the artifact was made"),
        (lambda path: (path / "model/w").unlink(), "model/w is missing"),
        (lambda path: (path / "new").write_text(""), "new was added"),
        (lambda path: (path / "manifest.json").unlink(), "has no manifest.json, so it is no whole artifact"),
        (lambda path: (path / "manifest.json").write_text("{"), "is not a whole manifest"),
        (lambda path: (path / "manifest.json").write_bytes(b"\xff"), "is not a whole manifest"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    store = ArtifactStore(tmp_path)
    damage(make(store).path)
    with pytest.raises(ArtifactError, match=message):
        store.find("sft", ORIGIN.key())


def test_a_commit_replaces_a_damaged_one(tmp_path):
    store = ArtifactStore(tmp_path)
    (make(store).path / "model/w").write_text("broken")
    made = make(store)
    assert store.find("sft", ORIGIN.key()) == made
    assert [path.name for path in tmp_path.iterdir()] == [made.path.name]


def test_metrics_are_what_json_gives_back(tmp_path):
    class Scalar:
        def item(self):
            return 1.5

    made = make(ArtifactStore(tmp_path), metrics={"a": Scalar(), "b": float("nan"), "c": (1, 2), "d": {3: True}})
    assert made.manifest.metrics == {"a": 1.5, "b": None, "c": [1, 2], "d": {"3": True}}
    with pytest.raises(TypeError, match="a metric is a set"):
        make(ArtifactStore(tmp_path), metrics={"a": {1}})


def test_current_artifacts_are_those_of_the_summary(tmp_path):
    store = ArtifactStore(tmp_path / "artifacts")
    used = make(store)
    make(store, ORIGIN.model_copy(update={"seed": 1}))  # newer, but not the one that was used last
    with pytest.raises(ArtifactError, match="holds no summary.json"):
        current_artifacts(tmp_path)
    Path(tmp_path / "summary.json").write_text(json.dumps({"stages": {"sft": {"artifact": used.path.name}}}))
    assert current_artifacts(tmp_path) == {"sft": used}
