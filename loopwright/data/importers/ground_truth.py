"""SageMaker Ground Truth: the output manifest of a custom job that shows two answers."""

from collections.abc import Iterator
from typing import Any

from loopwright.data.importers.base import Fields, Importer, Notes, Row, Settings, Unreadable, note_same, user
from loopwright.data.importers.choices import read_choice
from loopwright.schemas import Comparison

COLUMNS = {  # the texts' names in `source` (or beside it), and the answer's in the workers' forms
    "prompt": "prompt",
    "response_a": "response_a",
    "response_b": "response_b",
    "choice": "choice",
    "first": "A",
    "second": "B",
    "tie": "tie",
}
_ALL = "annotationsFromAllWorkers"


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Comparison]:
    """A comparison of each worker's answer."""
    shown = _shown(row)
    jobs = [key for key, value in row.values.items() if isinstance(value, dict) and _ALL in value]
    if len(jobs) != 1:
        raise Unreadable(f'{len(jobs)} fields hold "{_ALL}", not one; is this the output of a custom job?')
    annotations = row.inside(jobs[0]).objects(_ALL)
    if not annotations:
        notes.skip("an item without annotations")
        return
    prompt = user(shown.text_or_none(settings.column("prompt")) or "")
    responses = (shown.text(settings.column("response_a")), shown.text(settings.column("response_b")))
    note_same(responses, notes)
    for number, annotation in enumerate(annotations):
        content = annotation.inside("annotationData").spelled_object("content")
        key = settings.column("choice")
        if key not in content.values:
            names = ", ".join(f'"{str(name)[:30]}"' for name in list(content.values)[:4]) or "nothing"
            notes.skip(f'no "{key[:30]}" in a form (--columns choice=…); found {names}')
            annotation.ignore()
            continue
        given = _selected(content.get(key))
        if given is None:
            notes.skip("a form without a choice")
            annotation.ignore()
            continue
        yield Comparison(
            id=f"{row.name}/{number}",
            prompt=prompt,
            responses=responses,
            choice=read_choice(given, settings),
            annotator=annotation.name_of("workerId"),
        )


def _shown(row: Row) -> Fields:
    """The item's texts: JSON in `source`, or fields of the manifest that passed through."""
    if row.has("source-ref") and not row.has("source"):
        raise Unreadable('the text is not in the file ("source-ref" points elsewhere); put it into "source"')
    if not row.has("source"):
        return row
    source = row.values["source"]
    if isinstance(source, str) and not source.lstrip().startswith("{"):
        return row  # a plain text; the answers must stand beside it
    return row.spelled_object("source")


def _selected(value: Any) -> Any:
    """Of radio buttons {"A": true, "B": false} and classifiers {"label": "A"} what was selected."""
    if not isinstance(value, dict):
        return value
    if "label" in value:
        return value["label"]
    chosen = [name for name, on in value.items() if on is True]
    if len(chosen) > 1:
        raise Unreadable("several buttons of one choice are on")
    return chosen[0] if chosen else None


GROUND_TRUTH = Importer(convert, f'JSON lines {{"source", "<job>": {{"{_ALL}": […]}}}} of a custom job', COLUMNS)
