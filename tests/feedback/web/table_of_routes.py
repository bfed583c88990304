"""Every route, who may use it, and a request that works. A route that is not here fails the tests: add its row."""

from collections.abc import Callable
from typing import Any, NamedTuple

from tests.feedback.web.world import ANSWER, PASSWORD, World

OK = 0  # stands for the status of the row
SESSIONS = ("annotator", "annotator B", "manager", "manager B", "admin")
SCOPES = ("label", "read", "publish", "manage", "admin")
TOKENS = tuple(f"{name}+{scope}" for name in ("manager", "admin") for scope in SCOPES)
CALLERS = ("nobody", *SESSIONS, *TOKENS)


def _with(scope: str, *, of: str = "") -> dict[str, int]:
    """Tokens: those with the scope may, the others may not."""
    return {token: OK if token.endswith(f"{of}+{scope}") else 403 for token in TOKENS}


def _in_project(scope: str) -> dict[str, int]:
    """Managers of the project and administrators. To others' people it is not there."""
    mine = {"nobody": 401, "annotator": 403, "annotator B": 404, "manager": OK, "manager B": 404, "admin": OK}
    return {**mine, **_with(scope)}


POLICIES: dict[str, dict[str, int]] = {
    "anybody": dict.fromkeys(CALLERS, OK),
    "somebody": {**dict.fromkeys(CALLERS, OK), "nobody": 401},
    "in person": {"nobody": 401, **dict.fromkeys(SESSIONS, OK), **dict.fromkeys(TOKENS, 403)},
    "reader": {"nobody": 401, **dict.fromkeys(SESSIONS, OK), **_with("read")},
    "admin": {"nobody": 401, **dict.fromkeys(SESSIONS, 403), **_with("admin", of="admin"), "admin": OK},
    "admin in person": {"nobody": 401, **dict.fromkeys((*SESSIONS, *TOKENS), 403), "admin": OK},
    "labels in project": {
        "nobody": 401, "annotator": OK, "annotator B": 404, "manager": OK, "manager B": 404, "admin": OK,
        **_with("label"),
    },
    "labels": {"nobody": 401, **dict.fromkeys(SESSIONS, OK), **_with("label")},
    # somebody else's task or label is not there, whoever asks
    "own task": {
        "nobody": 401, **dict.fromkeys(SESSIONS, 409), "annotator": OK,
        **{token: 409 if token.endswith("+label") else 403 for token in TOKENS},
    },
    "reads project": _in_project("read"),
    "publishes in project": _in_project("publish"),
    "manages project": _in_project("manage"),
}  # fmt: skip


class Row(NamedTuple):
    policy: str
    status: int
    path: dict[str, Callable[[World], Any]] = {}  # beside the project's and what all rows have
    send: Callable[[World], dict[str, Any]] = lambda world: {}  # arguments of the request
    instead: dict[str, int] = {}  # callers whom the policy does not fit
    audited: bool = False  # a reading that is noted: the only state that it changes

    def address(self, route: str, world: World) -> str:
        values = {"project": world.project, "item": world.item, "account": world.ids["spare"], **{
            name: value(world) for name, value in self.path.items()
        }}  # fmt: skip
        return route.format(**values)

    def expected(self, caller: str) -> int:
        code = self.instead.get(caller, POLICIES[self.policy][caller])
        return code or self.status


def _json(value: Any) -> Callable[[World], dict[str, Any]]:
    return lambda world: {"json": value(world) if callable(value) else value}


def _form(**fields: str) -> Callable[[World], dict[str, Any]]:
    return lambda world: {
        "data": {name: getattr(world, value[1:]) if value.startswith("$") else value for name, value in fields.items()}
    }


PAGE = 200
BACK = 303  # a form's answer leads back to a page
TICKET = {"ticket": lambda world: world.tickets["annotator"]}
INVITATION = {"invitation": lambda world: world.open_invitations["annotator"]}
ADMIN_INVITATION = {"invitation": lambda world: world.open_invitations["admin"]}
SECRET = {"secret": lambda world: world.invitation}
TALK = {"project": lambda world: world.chat, "conversation": lambda world: world.conversation}
CONFIG = {"kind": "comparison", "overlap": 3}
LINE = b'{"key": "new", "prompt": [{"role": "user", "content": "Hi"}], "responses": ["a", "b"]}\n'
UID = "a-uid-of-this-test"
OWN_TOKEN = {"annotator": 404, "annotator B": 404, "manager B": 404, "admin": 404}  # it is the manager's


def _token_of(name: str) -> dict[str, Callable[[World], Any]]:
    return {"token": lambda world: world.token_ids[name]}


_ROUTES: dict[tuple[str, str], Row] = {
    # the way in and out
    ("GET", "/login"): Row("anybody", PAGE, instead=dict.fromkeys(SESSIONS, BACK)),
    ("POST", "/login"): Row("anybody", BACK, send=_form(name="annotator", password=PASSWORD)),
    ("POST", "/logout"): Row("somebody", BACK),
    ("GET", "/invitation/{secret}"): Row("anybody", PAGE, SECRET),
    ("POST", "/invitation/{secret}"): Row("anybody", BACK, SECRET, _form(name="newcomer", password=PASSWORD)),
    ("GET", "/account"): Row("in person", PAGE),
    ("POST", "/account/password"): Row("in person", BACK, send=_form(old=PASSWORD, new="another long password")),
    ("POST", "/account/tokens"): Row("in person", PAGE, send=_form(name="mine", scope_label="yes", days="9")),
    ("POST", "/account/tokens/{token}/revoke"): Row("in person", BACK, _token_of("manager+read"), instead=OWN_TOKEN),
    # labeling
    ("GET", "/"): Row("somebody", PAGE),
    ("GET", "/projects/{project}/work"): Row("labels in project", PAGE),
    ("POST", "/api/v1/projects/{project}/tasks"): Row("labels in project", 200, send=_json({})),
    ("PUT", "/api/v1/tasks/{ticket}/draft"): Row("own task", 200, TICKET, _json({"draft": {"choice": 1}})),
    ("POST", "/api/v1/tasks/{ticket}/label"): Row("own task", 200, TICKET, _json({"uid": UID, "answer": ANSWER})),
    ("POST", "/api/v1/tasks/{ticket}/skip/undo"): Row("own task", 409, TICKET, _json({"uid": UID})),  # not skipped
    ("POST", "/api/v1/tasks/{ticket}/skip"): Row("own task", 200, TICKET, _json({"uid": UID, "reason": "upsetting"})),
    ("POST", "/api/v1/tasks/{ticket}/flag"): Row("own task", 200, TICKET, _json({"uid": UID, "note": "cut off"})),
    ("POST", "/api/v1/labels/{label}/undo"): Row(
        "own task", 200, {"label": lambda world: "label-0001"}, _json({"uid": UID}), {"annotator": 409}
    ),  # it is another's
    ("GET", "/api/v1/projects/{project}/history"): Row("labels in project", 200),
    ("POST", "/api/v1/projects/{project}/guideline/seen"): Row("labels in project", 200, send=_json({"version": 1})),
    ("GET", "/api/v1/tasks/{ticket}"): Row("own task", 200, TICKET),
    ("GET", "/api/v1/tasks/{ticket}/difference"): Row("own task", 200, TICKET),
    ("GET", "/api/v1/projects/{project}/guideline"): Row("labels in project", 200),
    ("GET", "/api/v1/projects/{project}/progress"): Row(
        "labels in project", 200, send=lambda world: {"params": {"since": 0}}
    ),
    ("GET", "/api/v1/preferences"): Row("labels", 200),
    ("PUT", "/api/v1/preferences"): Row("labels", 200, send=_json({"theme": "dark"})),
    # talking with a model
    ("GET", "/projects/{project}/chat"): Row("labels in project", PAGE, TALK),
    ("POST", "/api/v1/projects/{project}/conversations"): Row("labels in project", 200, TALK),
    ("GET", "/api/v1/projects/{project}/conversations"): Row("labels in project", 200, TALK),
    ("GET", "/api/v1/conversations/{conversation}"): Row("own task", 200, TALK),
    ("POST", "/api/v1/conversations/{conversation}/messages"): Row("own task", 200, TALK, _json({"content": "Hi"})),
    # webhooks
    ("POST", "/api/v1/projects/{project}/webhooks"): Row(
        "manages project", 200, send=_json({"url": "http://127.0.0.1:9/hook"})
    ),
    ("GET", "/api/v1/projects/{project}/webhooks"): Row("manages project", 200),
    ("DELETE", "/api/v1/projects/{project}/webhooks/{webhook}"): Row(
        "manages project", 200, {"webhook": lambda world: world.webhook}
    ),
    # projects
    ("GET", "/api/v1/projects"): Row("reader", 200),
    ("POST", "/api/v1/projects"): Row("admin", 201, send=_json({"name": "C", "config": CONFIG})),
    ("GET", "/api/v1/projects/{project}"): Row("reads project", 200),
    ("PATCH", "/api/v1/projects/{project}"): Row(
        "manages project", 200, send=_json({"state": "paused", "config": CONFIG})
    ),
    ("GET", "/api/v1/projects/{project}/counts"): Row("reads project", 200),
    ("GET", "/api/v1/projects/{project}/guidelines"): Row("reads project", 200),
    ("POST", "/api/v1/projects/{project}/guidelines"): Row("manages project", 201, send=_json({"text": "Be kind."})),
    ("GET", "/api/v1/projects/{project}/members"): Row("reads project", 200),
    ("PUT", "/api/v1/projects/{project}/members/{account}"): Row(
        "manages project", 200, send=_json({"role": "annotator"})
    ),
    ("DELETE", "/api/v1/projects/{project}/members/{account}"): Row("manages project", 200),
    # items
    ("GET", "/api/v1/projects/{project}/items"): Row("reads project", 200),
    ("POST", "/api/v1/projects/{project}/items"): Row(
        "publishes in project", 201, send=_json({"items": [{"key": "n1", "responses": ["a", "b"]}], "batch": "second"})
    ),
    ("POST", "/api/v1/uploads/{project}/items"): Row("publishes in project", 200, send=lambda world: {"content": LINE}),
    ("POST", "/api/v1/projects/{project}/items/withdraw"): Row("manages project", 200, send=_json({"keys": ["q0"]})),
    ("PUT", "/api/v1/projects/{project}/skill"): Row("manages project", 200, send=_json({"key": "q0", "skill": "law"})),
    ("PUT", "/api/v1/projects/{project}/gold"): Row("manages project", 200, send=_json({"key": "q0", "gold": ANSWER})),
    ("PUT", "/api/v1/projects/{project}/scores"): Row(
        "publishes in project",
        200,
        send=_json({"reward_model": "rm", "scores": {"q0": [{"mean": 1.0}, {"mean": 0.0}]}}),
    ),
    ("GET", "/api/v1/projects/{project}/batches/{batch}"): Row("reads project", 200, {"batch": lambda world: "first"}),
    # results
    ("GET", "/api/v1/projects/{project}/labels"): Row("reads project", 200, audited=True),
    ("GET", "/api/v1/projects/{project}/records/{kind}"): Row(
        "reads project", 200, {"kind": lambda world: "comparisons"}, audited=True
    ),
    ("GET", "/api/v1/projects/{project}/exclusions"): Row("reads project", 200),
    ("POST", "/api/v1/projects/{project}/exclusions"): Row(
        "manages project", 201, send=_json(lambda world: {"uid": UID, "exclude": {"annotator": world.ids["spare"]}})
    ),
    ("POST", "/api/v1/projects/{project}/exclusions/{exclusion}/restore"): Row(
        "manages project", 200, {"exclusion": lambda world: "exclusion-1"}, _json({"uid": UID})
    ),
    ("GET", "/api/v1/projects/{project}/artifacts"): Row("reads project", 200),
    ("POST", "/api/v1/projects/{project}/artifacts"): Row(
        "publishes in project", 201, send=_json({"id": "rm-1", "kind": "reward_model", "labels": ["label-0001"]})
    ),
    ("GET", "/api/v1/projects/{project}/sources"): Row(
        "reads project", 200, send=lambda world: {"params": {"artifact": "rm-1"}}
    ),
    ("GET", "/api/v1/projects/{project}/labels/{label}/artifacts"): Row(
        "reads project", 200, {"label": lambda world: "label-0001"}
    ),
    ("GET", "/api/v1/projects/{project}/stats"): Row("reads project", 200),
    # people
    ("GET", "/api/v1/health"): Row("anybody", 200),
    ("GET", "/api/v1/openapi.json"): Row("anybody", 200),
    ("GET", "/api/v1/accounts"): Row("admin", 200),
    ("POST", "/api/v1/accounts"): Row("admin", 201, send=_json({"name": "robot"})),
    ("PATCH", "/api/v1/accounts/{account}"): Row("admin", 200, send=_json({"disabled": True, "skills": ["law"]})),
    ("GET", "/api/v1/projects/{project}/invitations"): Row("reads project", 200),
    ("POST", "/api/v1/projects/{project}/invitations"): Row("manages project", 201, send=_json({"role": "annotator"})),
    ("DELETE", "/api/v1/projects/{project}/invitations/{invitation}"): Row("manages project", 200, INVITATION),
    ("GET", "/api/v1/invitations"): Row("admin", 200),
    ("POST", "/api/v1/invitations"): Row("admin in person", 201),
    ("DELETE", "/api/v1/invitations/{invitation}"): Row("admin", 200, ADMIN_INVITATION),
    ("GET", "/api/v1/tokens"): Row("in person", 200),
    ("POST", "/api/v1/tokens"): Row("in person", 201, send=_json({"name": "mine", "scopes": ["label"]})),
    ("DELETE", "/api/v1/tokens/{token}"): Row("in person", 200, _token_of("manager+read"), instead=OWN_TOKEN),
    ("GET", "/api/v1/accounts/{account}/tokens"): Row("admin", 200),
    ("POST", "/api/v1/accounts/{account}/tokens"): Row(
        "admin in person", 201, send=_json({"name": "x", "scopes": ["label"]})
    ),
    ("DELETE", "/api/v1/accounts/{account}/tokens/{token}"): Row(
        "admin", 200, {**_token_of("manager+read"), "account": lambda world: world.ids["manager"]}
    ),
    ("GET", "/api/v1/audits"): Row("admin", 200),
    ("GET", "/api/v1/audits/verified"): Row("admin", 200),
    ("GET", "/api/v1/projects/{project}/audits"): Row("reads project", 200),
    # managers' pages
    ("GET", "/admin"): Row("reader", PAGE),
    ("GET", "/admin/new"): Row("admin", PAGE, send=lambda world: {"params": {"kind": "comparison"}}),
    ("POST", "/admin/new"): Row("admin", BACK, send=lambda world: {"params": {"kind": "thumb"}, "data": {"name": "D"}}),
    ("GET", "/admin/projects/{project}"): Row("reads project", PAGE),
    ("GET", "/admin/projects/{project}/settings"): Row("reads project", PAGE),
    ("POST", "/admin/projects/{project}/settings"): Row("manages project", BACK, send=_form(overlap="3")),
    ("POST", "/admin/projects/{project}/state"): Row("manages project", BACK, send=_form(state="paused")),
    ("GET", "/admin/projects/{project}/guidelines"): Row("reads project", PAGE),
    ("POST", "/admin/projects/{project}/guidelines"): Row("manages project", BACK, send=_form(text="Be kind.")),
    ("GET", "/admin/projects/{project}/lineage"): Row("reads project", PAGE),
    ("POST", "/admin/projects/{project}/exclusions"): Row("manages project", BACK, send=_form(day="2026-01-31")),
    ("POST", "/admin/projects/{project}/restore"): Row("manages project", BACK, send=_form(exclusion="exclusion-1")),
    ("GET", "/admin/projects/{project}/items"): Row("reads project", PAGE),
    ("POST", "/uploads/{project}/items"): Row(
        "publishes in project", PAGE, send=lambda world: {"files": {"file": ("items.jsonl", LINE)}}
    ),
    ("GET", "/admin/projects/{project}/items/{item}"): Row("reads project", PAGE, audited=True),
    ("POST", "/admin/projects/{project}/items/{item}/gold"): Row(
        "manages project", BACK, send=_form(gold='{"choice": 1, "strength": "slightly"}')
    ),
    ("POST", "/admin/projects/{project}/items/{item}/skill"): Row("manages project", BACK, send=_form(skill="law")),
    ("POST", "/admin/projects/{project}/items/{item}/withdraw"): Row("manages project", BACK),
    ("GET", "/admin/projects/{project}/disagreements"): Row("reads project", PAGE),
    ("GET", "/admin/projects/{project}/people"): Row("reads project", PAGE),
    ("POST", "/admin/projects/{project}/people/invite"): Row("manages project", PAGE, send=_form(role="annotator")),
    ("POST", "/admin/projects/{project}/people/invitations/{invitation}/revoke"): Row(
        "manages project", BACK, INVITATION
    ),
    ("POST", "/admin/projects/{project}/people/{account}/remove"): Row("manages project", BACK),
    ("GET", "/admin/people"): Row("admin", PAGE),
    ("POST", "/admin/people/invite"): Row("admin", PAGE),
    ("POST", "/admin/people/invitations/{invitation}/revoke"): Row("admin", BACK, ADMIN_INVITATION),
    ("POST", "/admin/people/{account}"): Row("admin", BACK, send=_form(role="annotator", skills="law, medicine")),
    ("GET", "/admin/audit"): Row("admin", PAGE),
}

ROUTES = {  # pages are for browsers
    (method, path): row if path.startswith("/api/") else row._replace(instead=row.instead | dict.fromkeys(TOKENS, 403))
    for (method, path), row in _ROUTES.items()
}
