"""Whether the server answers, for whoever watches over it."""

from typing import Literal

from fastapi import APIRouter, Request
from sqlalchemy import select

from loopwright.feedback.web.admission import Anybody, database_of
from loopwright.schemas import Record

router = APIRouter(prefix="/api/v1", tags=["server"])


class Health(Record):
    status: Literal["ok"] = "ok"


@router.get("/health")
def health(request: Request, caller: Anybody) -> Health:
    """The server answers, and so does its database."""
    database_of(request).read(lambda connection: connection.execute(select(1)))
    return Health()
