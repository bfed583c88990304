"""The API's description: complete, and true."""

import time

import pytest

from loopwright.feedback.store import people
from loopwright.feedback.store.people import SCOPES
from loopwright.feedback.web.app import create_app
from loopwright.feedback.web.settings import ServerConfig
from tests.feedback.web.fuzz import fuzz
from tests.feedback.web.world import KEY, Parrot, opened

DESCRIPTION = "/api/v1/openapi.json"


@pytest.fixture(scope="module")
def described(world_app):
    return world_app.openapi()


def test_every_operation_has_a_name_a_tag_and_says_what_it_refuses(described):
    names = set()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert path.startswith("/api/v1/"), "pages are no part of the API"
            assert operation["tags"] and operation["summary"], (method, path)
            problem = operation["responses"]["4XX"]["content"]["application/json"]["schema"]
            assert problem == {"$ref": "#/components/schemas/Problem"}
            assert "422" not in operation["responses"]  # FastAPI's own form of it, which is not ours
            assert ("security" in operation) == (path != "/api/v1/health")
            names.add(operation["operationId"])
    assert len(names) == sum(len(operations) for operations in described["paths"].values())


def test_records_of_requests_forbid_what_they_do_not_know(described):
    for path, operations in described["paths"].items():
        for operation in operations.values():
            content = operation.get("requestBody", {}).get("content", {})
            for schema in (one["schema"] for one in content.values() if "$ref" in one["schema"]):
                name = schema["$ref"].rsplit("/", 1)[1]
                assert described["components"]["schemas"][name]["additionalProperties"] is False, (path, name)


def test_nothing_that_is_sent_breaks_the_server(world, store):
    app = create_app(None, ServerConfig(url="http://testserver", key=KEY), {"parrot": Parrot()})
    with opened(app, store):
        token = app.state.database.write(
            lambda c: people.create_token(c, world.ids["admin"], "all", SCOPES, now=time.time())
        )
        wrong = fuzz(app, token, description=DESCRIPTION, examples=10)
    assert not wrong, "\n\n".join(wrong)
