"""The fuzzer finds what it is there for, and nothing in an app that is right."""

from contextlib import asynccontextmanager
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBearer
from pydantic import BaseModel, Field

from tests.feedback.web.fuzz import fuzz

TOKEN = "a-token-that-nobody-guesses"

bearer = HTTPBearer(auto_error=False)


class Rating(BaseModel):
    text: Annotated[str, Field(max_length=20)]
    score: Annotated[int, Field(ge=1, le=7)]


def app_of(answer, *, guarded=True):
    """An app with one operation behind a token; `heard` is what reached it."""
    app = FastAPI()
    app.state.heard = []

    def signed_in(credentials: Annotated[object, Depends(bearer)]) -> None:
        if guarded and (credentials is None or credentials.credentials != TOKEN):
            raise HTTPException(401)

    # a body that is not even text is refused with 400
    described = {400: {}, 401: {}}

    @app.post("/ratings", dependencies=[Depends(signed_in)], responses=described)
    def rate(rating: Rating) -> Rating:
        app.state.heard.append(rating)
        return answer(rating)

    return app


def test_an_app_as_described_has_nothing_wrong_and_hears_the_same_every_time():
    first, second = app_of(lambda rating: rating), app_of(lambda rating: rating)
    assert fuzz(first, TOKEN) == []
    assert fuzz(second, TOKEN) == []
    assert len(first.state.heard) > 5
    assert first.state.heard == second.state.heard


def test_an_exception_in_the_app_is_raised():
    with pytest.raises(ZeroDivisionError):
        fuzz(app_of(lambda rating: rating.score // 0), TOKEN)


def test_an_operation_that_forgets_its_token_is_found():
    found, *_ = fuzz(app_of(lambda rating: rating, guarded=False), TOKEN)
    assert found.startswith("POST /ratings: API accepts requests without authentication")
    assert TOKEN not in found


def test_a_token_that_is_refused_is_no_success():
    (found,) = fuzz(app_of(lambda rating: rating), "another")
    assert found == "POST /ratings: refused the token, so nothing behind it was tried"


def test_a_status_that_is_not_described_is_found():
    def teapot(rating):
        raise HTTPException(418)

    (found,) = fuzz(app_of(teapot), TOKEN)
    assert found.startswith("POST /ratings: Undocumented status code")
    assert "Received: 418" in found


def test_the_lifespan_of_the_app_is_over_afterwards():
    events = []

    @asynccontextmanager
    async def lifespan(app):
        events.append("start")
        yield
        events.append("end")

    assert fuzz(FastAPI(lifespan=lifespan), TOKEN) == []
    assert events == ["start", "end"]
