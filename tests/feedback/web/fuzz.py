"""Requests made from the API's own description, fitting ones and broken ones, against an app in this process."""

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.errors import FailureGroup
from schemathesis.python.asgi import shutdown_lifespans

CONFIG = {
    # Literals of the app's source would be tried too: three seconds more, and other requests after every edit.
    "analysis": {"constants": {"enabled": False}},
    # A pydantic model may ask for more than JSON Schema can say, that two fields fit each other for instance: what fits
    # the description may be refused.
    "checks": {"positive_data_acceptance": {"enabled": False}},
}


@schemathesis.serializer("application/x-ndjson")
def json_lines(context, value) -> bytes:
    """What a description says of such a body is that it is text."""
    return str(value).encode("utf-8", "surrogatepass")


def fuzz(app, token: str, *, description: str = "/openapi.json", examples: int = 20) -> list[str]:
    """What the app got wrong, each once for an operation, with the request that shows it; empty if nothing.

    Every operation in the description gets up to `examples` requests that fit its description and as many that do not,
    the same ones in every run. An answer must have a status, a type and a body as described and never be a 5xx; what
    does not fit must be refused; an operation that declares authentication must refuse requests without it. An
    exception in the app is raised here.
    """
    bounded = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # an app remembers: the same request need not fail twice, so nothing is shrunk
        suppress_health_check=list(HealthCheck),
    )
    wrong: dict[tuple[str, str], str] = {}

    def send(case: schemathesis.Case) -> None:
        try:
            response = case.call_and_validate(headers={"Authorization": f"Bearer {token}"})
        except FailureGroup as group:
            for failure in group.exceptions:
                wrong.setdefault((failure.operation, failure.title), f"{failure.operation}: {failure.title}\n{group}")
        else:
            label = case.operation.label
            if response.status_code == 401 and case.meta.generation.mode.is_positive:
                wrong.setdefault((label, "401"), f"{label}: refused the token, so nothing behind it was tried")

    try:
        config = schemathesis.Config.from_dict(CONFIG)
        schema = schemathesis.openapi.from_asgi(description, app, config=config)
        for operation in schema.get_all_operations():
            for mode in schemathesis.GenerationMode:
                try:
                    bounded(given(operation.ok().as_strategy(mode))(send))()
                except Unsatisfiable:
                    if mode.is_positive:
                        raise  # else the operation takes nothing that could be wrong
    finally:
        shutdown_lifespans()
    return list(wrong.values())
