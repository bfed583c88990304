"""Label Studio's JSON export of a Pairwise project: one array of tasks."""

from collections.abc import Iterator
from typing import Any

from loopwright.data.importers.base import Fields, Importer, Notes, Row, Settings, Unreadable, note_same, user
from loopwright.schemas import Comparison

COLUMNS = {"prompt": "prompt", "left": "answer1", "right": "answer2"}  # the names of the project's own labeling config


def convert(row: Row, notes: Notes, settings: Settings) -> Iterator[Comparison]:
    """A comparison of each annotation that was not skipped."""
    data = row.inside("data")
    annotations = row.objects("annotations")
    if not annotations:
        notes.skip("a task without annotations")
        return
    prompt = user(data.text(settings.column("prompt")))
    responses = (data.text(settings.column("left")), data.text(settings.column("right")))
    note_same(responses, notes)
    for number, annotation in enumerate(annotations):
        if annotation.flag("was_cancelled"):
            notes.skip("an annotation that was skipped (was_cancelled)")
            annotation.ignore()
            continue
        selected = _selected(annotation)
        if selected is None:
            notes.skip("an annotation without a pairwise result")
            annotation.ignore()
            continue
        if annotation.flag("ground_truth"):
            notes.warn("an annotation marked as ground truth")
        yield Comparison(
            id=f"{row.name_of('id') or row.name}/{annotation.name_of('id') or number}",
            prompt=prompt,
            responses=responses,
            choice=0 if selected == "left" else 1,
            order_shown=(0, 1),  # the first stands left
            annotator=_person(annotation),
            seconds=annotation.number("lead_time"),
            created=annotation.name_of("created_at"),
        )


def _selected(annotation: Fields) -> str | None:
    for result in annotation.objects("result"):
        if result.get("type") == "pairwise":
            selected = result.inside("value").text("selected")
            if selected not in ("left", "right"):
                raise Unreadable(f'"{result.path}value.selected" is {selected[:40]!r}, not left or right')
            return selected
    return None


def _person(annotation: Fields) -> str | None:
    who: Any = annotation.get("completed_by")
    if isinstance(who, dict):  # some exports put the whole account here
        account = annotation.inside("completed_by")
        return account.name_of("email") or account.name_of("id")
    return annotation.name_of("completed_by")


LABEL_STUDIO = Importer(convert, "one JSON array of tasks with pairwise results", COLUMNS)
