"""The accessibility checker sees the page, under the strictest policy a page can have, and is the file we asked for."""

import tarfile
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Route

from tests.feedback.web import axe as checker
from tests.feedback.web.axe import axe
from tests.feedback.web.serving import served

STRICT = {"Content-Security-Policy": "default-src 'none'; img-src data:; require-trusted-types-for 'script'"}
PAGE = (
    "<!doctype html><html lang='en'><head><title>Judge</title><link rel='icon' href='data:,'></head>"
    "<body><main><h1>Judge</h1><form><label for='why'>Why</label>{field}</form></main></body></html>"
)


@pytest.fixture
def shown(page):
    """A page with this field, open in the browser."""

    def show(field):
        answer = HTMLResponse(PAGE.format(field=field), headers=STRICT)
        with served(Starlette(routes=[Route("/", lambda request: answer)])) as url:
            page.goto(url)
        return page

    return show


def test_a_labelled_field_breaks_no_rule_and_one_without_a_label_does(shown):
    assert axe(shown("<input id='why'>")) == []
    (found,) = axe(shown("<input id='because'>"))
    assert found.startswith("label: ")
    assert found.endswith('<input id="because">')


def test_another_script_than_the_one_asked_for_is_not_kept(monkeypatch, tmp_path):
    def pack(command, **options):
        script = tmp_path / "axe.min.js"
        script.write_text("steal()")
        with tarfile.open(Path(command[-1]) / f"axe-core-{checker.VERSION}.tgz", "w:gz") as archive:
            archive.add(script, "package/axe.min.js")

    monkeypatch.setattr(checker.shutil, "which", lambda name: name)
    monkeypatch.setattr(checker.subprocess, "run", pack)
    monkeypatch.setattr(checker, "SCRIPT", tmp_path / "kept" / "axe.min.js")
    with pytest.raises(SystemExit, match="has the SHA-256 .*it was not kept"):
        checker.fetch()
    assert not checker.SCRIPT.exists()
