"""What became of labels, in sentences: who or what was left out, and what was changed."""

import json
from types import SimpleNamespace

import pytest

from loopwright.errors import ArtifactError, StoreError
from loopwright.feedback.asking import SOURCE, Source
from loopwright.loop import trace as trace_module
from loopwright.loop.trace import in_words, trace
from loopwright.tracking.artifacts import ArtifactStore, Origin

SAID = {  # label -> annotator, day, guideline
    "l1": ("ann", "2026-01-01", "1"), "l2": ("ann", "2026-01-02", "2"), "l3": ("bob", "2026-01-02", "1"),
    "l4": ("bob", "2026-01-03", "2"), "l5": ("bob", "2026-01-03", "1"),
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    """A run directory with feedback, a policy made of it, and two evaluated answers."""
    store = ArtifactStore(tmp_path / "artifacts")

    def made(kind, files, **parents):
        origin = Origin(kind=kind, parents=parents, config={}, seed=len(files), code="", versions={})
        folder = store.begin(kind, origin.key())
        for name, text in files.items():
            (folder / name).write_text(text)
        return store.commit(origin, name="toy", seconds=0, peak_rss_mb=0, metrics={})

    records = [
        {"id": id, "annotator": who, "created": f"{day}T09:00:00", "guideline": guideline}
        for id, (who, day, guideline) in SAID.items()
    ]
    source = Source(store="http://there", project="desk", project_id="p", policy="x", labels=tuple(SAID))
    lines = "".join(json.dumps(one) + "\n" for one in records)
    feedback = made("feedback", {"comparisons.jsonl": lines, SOURCE: source.model_dump_json()})
    simulated = made("feedback", {"rankings.jsonl": lines})
    rows = [{"version": name, "prompt": "Q", "response": f"of \x1b {name}"} for name in ("ppo", "sft", "base")]
    ppo, sft = made("ppo", {}, reward=feedback.id, policy="gone"), made("sft", {}, feedback=simulated.id)
    samples = "".join(json.dumps(row) + "\n" for row in rows)
    evaluate = made("evaluate", {"samples.jsonl": samples}, ppo=ppo.id, sft=sft.id)
    summary = {"stages": {"evaluate": {"artifact": evaluate.path.name}}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    return tmp_path


class Store:
    """A client of a store where these labels count, and these exclusions are in force."""

    def __init__(self, counting, *excluded):
        self.counting, self.excluded = counting, excluded

    def __call__(self, url, **settings):
        assert url == "http://there"
        return self

    def __enter__(self):
        return self

    def __exit__(self, *about):
        pass

    def labels(self, project):
        return [SimpleNamespace(label=label) for label in self.counting]

    def exclusions(self, project):
        return [SimpleNamespace(what=what) for what in self.excluded]

    def members(self, project):
        return [SimpleNamespace(account="a1", name="ann"), SimpleNamespace(account="b1", name="bob")]


def stale(run, store, monkeypatch):
    monkeypatch.setattr(trace_module, "FeedbackClient", store)
    (labels,) = (link.labels for link in trace(run, 1).links if link.labels)
    return labels.stale


def test_each_reason_is_said_with_its_count(run, monkeypatch):
    assert stale(run, Store(SAID), monkeypatch) == ()
    store = Store(["l4"], {"annotator": "a1"}, {"day": "2026-01-02"})
    assert stale(run, store, monkeypatch) == (
        "2 labels of annotator ann are excluded",
        "1 label of 2026-01-02 is excluded",
        "1 label is changed or taken back",
    )
    store = Store(["l1", "l3", "l5"], {"guideline": 2})
    assert stale(run, store, monkeypatch) == ("2 labels under guideline 2 are excluded",)


def test_a_store_that_is_away_leaves_what_the_run_itself_knows(run, monkeypatch):
    def away(url, **settings):
        raise StoreError("it is away")

    monkeypatch.setattr(trace_module, "FeedbackClient", away)
    (labels,) = (link.labels for link in trace(run, 1).links if link.labels)
    assert (labels.annotators, labels.ids, labels.unknown) == ({"bob": 3, "ann": 2}, tuple(SAID), "it is away")


def test_what_is_gone_and_what_was_simulated_is_said(run, monkeypatch):
    monkeypatch.setattr(trace_module, "FeedbackClient", Store(SAID))
    assert [link.kind for link in trace(run, 1).links] == ["ppo", "feedback", "?"]
    lines = list(in_words(trace(run, 2)))
    assert lines[0] == "answer 2, of sft: of \x1b sft"  # the command line takes codes out
    assert "  5 labels, simulated: bob (3), ann (2)" in lines
    assert trace(run, 3).links == ()  # the base model rests on nothing of the run
    with pytest.raises(ArtifactError, match="has no answer 4; there are 3, from 1"):
        trace(run, 4)
