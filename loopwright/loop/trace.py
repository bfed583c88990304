"""From one answer of a run back to the labels behind it: answer → policy → reward model → feedback → labels."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from loopwright.errors import ArtifactError, LoopwrightError
from loopwright.feedback.asking import Source, read_sources
from loopwright.feedback.client import FeedbackClient
from loopwright.schemas import KINDS, Record
from loopwright.schemas.steps import stage_of
from loopwright.tracking.artifacts import Artifact, ArtifactStore, current_artifacts

SHOWN_IDS = 5
SAMPLES = "samples.jsonl"  # of the evaluate stage, an answer a line


class Labels(Record):
    """What an artifact was made from."""

    count: int
    annotators: dict[str, int]  # name -> labels
    ids: tuple[str, ...]
    store: str | None = None  # the feedback store's address; None: simulated annotators, no store
    project: str | None = None
    stale: tuple[str, ...] = ()  # what became of labels since, in sentences
    unknown: str | None = None  # why the store could not be asked


class Link(Record):
    """An artifact on the way."""

    kind: str
    id: str
    folder: str  # of the run; empty where it is not there any more
    made_by: tuple[str, ...]  # kinds of what it was made from
    labels: Labels | None = None


class Trace(Record):
    """An answer, and the artifacts it rests on, from the policy that wrote it to the first ones."""

    number: int
    version: str
    prompt: Any
    response: str
    links: tuple[Link, ...]


def trace(run: Path, number: int) -> Trace:
    """Where the answer on line `number` (from 1) of the run's evaluation comes from.

    Raises:
        ArtifactError: the run has no evaluation, or not so many answers.
    """
    current = current_artifacts(run)
    if "evaluate" not in current:
        raise ArtifactError(f"{run}: has no evaluated answers; add an evaluate section to its recipe and run it")
    row = _row(current["evaluate"].path / SAMPLES, number)
    version = str(row["version"])
    parents = current["evaluate"].manifest.parents
    known = {artifact.id: artifact for artifact in ArtifactStore(run / "artifacts").history("*")}
    return Trace(
        number=number,
        version=version,
        prompt=row.get("prompt"),
        response=str(row.get("response", "")),
        links=tuple(_links(parents[version], known)) if version in parents else (),
    )


def in_words(found: Trace) -> Iterator[str]:
    """A line an artifact; under those made from labels, whose these are."""
    yield f"answer {found.number}, of {found.version}: {_short(found.response)}"
    yield f"to: {_short(str(found.prompt))}"
    for link in found.links:
        yield f"{link.kind} {link.folder or link.id[:12]}" + (
            f", from {', '.join(link.made_by)}" if link.made_by else ""
        )
        if (labels := link.labels) is None:
            continue
        people = ", ".join(f"{name} ({count:,})" for name, count in labels.annotators.items())
        where = "simulated" if labels.store is None else f"project {labels.project} at {labels.store}"
        yield f"  {labels.count:,} labels, {where}: {people}"
        yield f"  ids: {', '.join(labels.ids[:SHOWN_IDS])}{', … (all with --json)' * (len(labels.ids) > SHOWN_IDS)}"
        for sentence in labels.stale:
            yield f"  stale: {sentence}"
        if labels.unknown is not None:
            yield f"  whether they still count is not known: {labels.unknown}"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else f"{line[:200]} …"


def _links(id: str, known: Mapping[str, Artifact]) -> Iterator[Link]:
    """The artifact and its ancestors, each once, what it was made from after it."""
    waiting, seen = [id], {id}
    while waiting:
        artifact = known.get(one := waiting.pop(0))
        if artifact is None:
            yield Link(kind="?", id=one, folder="", made_by=())
            continue
        parents = [parent for parent in artifact.manifest.parents.values() if parent not in seen]
        seen.update(parents)
        waiting += parents
        kinds = (
            known[parent].manifest.kind if parent in known else "?" for parent in artifact.manifest.parents.values()
        )
        yield Link(
            kind=artifact.manifest.kind,
            id=artifact.id,
            folder=f"artifacts/{artifact.path.name}",
            made_by=tuple(dict.fromkeys(kinds)),
            labels=_labels(artifact) if stage_of(artifact.manifest.kind) in ("feedback", "demonstrations") else None,
        )


def _labels(artifact: Artifact) -> Labels:
    records = {one["id"]: one for kind in KINDS if kind != "prompts" for one in _rows(artifact.path / f"{kind}.jsonl")}
    sources = read_sources(artifact.path)
    by_label = {label: records.get(label, {}) for source in sources for label in source.labels} if sources else records
    annotators = Counter(str(one.get("annotator")) for one in by_label.values())
    found = Labels(count=len(by_label), annotators=dict(annotators.most_common()), ids=tuple(by_label))
    if not sources:
        return found
    about = {"store": sources[0].store, "project": ", ".join(source.project for source in sources)}
    try:
        stale = tuple(sentence for source in sources for sentence in _stale(source, by_label))
    except LoopwrightError as error:
        return found.model_copy(update=about | {"unknown": str(error)})
    return found.model_copy(update=about | {"stale": stale})


def _stale(source: Source, records: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What the store says of these labels today: which count no more, and why."""
    with FeedbackClient(source.store, attempts=2, timeout_seconds=10.0) as client:
        counting = {line.label for line in client.labels(source.project_id)}
        lost = [label for label in source.labels if label not in counting]
        if not lost:
            return
        excluded = [one.what for one in client.exclusions(source.project_id)]
        names = {member.account: member.name for member in client.members(source.project_id)}
    reasons = Counter(_reason(records[label], excluded, names) for label in lost)
    for (whose, what), count in reasons.most_common():
        yield f"{count} label{'s' * (count > 1)} {whose}{'are' if count > 1 else 'is'} {what}"


def _reason(record: Mapping[str, Any], excluded: list[dict[str, Any]], names: Mapping[str, str]) -> tuple[str, str]:
    """Whose label it is, as far as that is the reason; and what it is."""
    for what in excluded:
        if "annotator" in what and names.get(what["annotator"]) == record.get("annotator"):
            return f"of annotator {record['annotator']} ", "excluded"
        if "day" in what and str(record.get("created")).startswith(str(what["day"])):
            return f"of {what['day']} ", "excluded"
        if "guideline" in what and record.get("guideline") == str(what["guideline"]):
            return f"under guideline {what['guideline']} ", "excluded"
    return "", "changed or taken back"


def _row(path: Path, number: int) -> dict[str, Any]:
    row = next(islice(_rows(path), number - 1, None), None) if number > 0 else None
    if row is None:
        raise ArtifactError(f"{path}: has no answer {number}; there are {sum(1 for _ in _rows(path))}, from 1")
    return row


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines)
