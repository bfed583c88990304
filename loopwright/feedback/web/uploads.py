"""Items from a file: read as it comes, published in portions, bad lines put aside. Memory stays bounded."""

import json
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import NamedTuple

from pydantic import ValidationError
from sqlalchemy.exc import StatementError
from starlette.concurrency import run_in_threadpool

from loopwright.errors import DataError
from loopwright.feedback.store import administration
from loopwright.feedback.store.database import Database
from loopwright.feedback.store.items import Item, Published
from loopwright.feedback.store.projects import Project
from loopwright.schemas import Record

LONGEST_LINE = 2 * 2**20  # bytes
AT_ONCE = 500  # items
BAD_TOLD = 1_000  # bad lines that the report lists; all are counted

# by the project; or by the database, which takes no zero character
REFUSED = (DataError, ValueError, StatementError)


class BadLine(Record):
    line: int  # from 1
    reason: str


class Uploaded(Record):
    """What became of a file. What was good is published, whatever else was in the file."""

    new: int
    known: int  # were there before, under the same key
    bad: int
    bad_lines: tuple[BadLine, ...]  # the first of them


class _Line(NamedTuple):
    number: int
    item: Item


class Upload:
    """One file on its way into a project."""

    def __init__(
        self, database: Database, project: Project, by: str, *, batch: str | None, overlap: int | None = None
    ) -> None:
        self._database = database
        self._project = project
        self._by = by
        self._batch, self._overlap = batch, overlap
        self._new = self._known = self._bad = 0
        self._told: list[BadLine] = []

    async def read(self, chunks: AsyncIterator[bytes]) -> Uploaded:
        """Publish what the chunks of a JSON-lines file hold."""
        portion: list[_Line] = []
        number = 0
        async for line in _lines(chunks):
            number += 1
            item = self._item(number, line)
            if item is not None:
                portion.append(_Line(number, item))
            if len(portion) == AT_ONCE:
                await run_in_threadpool(self._publish, portion)
                portion = []
        if portion:
            await run_in_threadpool(self._publish, portion)
        return Uploaded(new=self._new, known=self._known, bad=self._bad, bad_lines=tuple(self._told))

    def _item(self, number: int, line: bytes | None) -> Item | None:
        try:
            if line is not None:
                return Item.model_validate(json.loads(line.decode("utf-8"))) if line.strip() else None
            reason = f"is longer than {LONGEST_LINE} bytes"
        except UnicodeDecodeError as error:
            reason = f"is not UTF-8 ({error.reason} at byte {error.start})"
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            reason = f"{place}: {first['msg']}".removeprefix(": ")
        except (ValueError, RecursionError) as error:
            reason = f"is no JSON ({str(error)[:200]})"
        self._refuse(number, reason)
        return None

    def _publish(self, portion: Sequence[_Line]) -> None:
        """All of them; where some do not fit the project, the others."""
        try:
            self._count(self._write([line.item for line in portion]))
        except REFUSED:
            for line in portion:
                try:
                    self._count(self._write([line.item]))
                except REFUSED as error:
                    self._refuse(line.number, _sentence(error))

    def _write(self, items: Sequence[Item]) -> Published:
        return self._database.write(
            partial(
                administration.publish, by=self._by, project=self._project, new=items, batch=self._batch,
                overlap=self._overlap, now=time.time(),
            )
        )  # fmt: skip

    def _count(self, done: Published) -> None:
        self._new += done.new
        self._known += done.known

    def _refuse(self, number: int, reason: str) -> None:
        self._bad += 1
        if len(self._told) < BAD_TOLD:
            self._told.append(BadLine(line=number, reason=reason))


def _sentence(error: Exception) -> str:
    if isinstance(error, StatementError):
        return "holds what the database cannot store, such as a zero character"
    return str(error).removeprefix("items[0] ")


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes | None]:
    """None for a line that is too long, of which nothing is kept."""
    rest, too_long = bytearray(), False
    async for chunk in chunks:
        *ended, last = chunk.split(b"\n")
        for part in ended:
            rest += part
            yield None if too_long or len(rest) > LONGEST_LINE else bytes(rest)
            rest, too_long = bytearray(), False
        rest += last
        if len(rest) > LONGEST_LINE:
            rest, too_long = bytearray(), True
    if rest or too_long:
        yield None if too_long else bytes(rest)
