"""The pages that are neither a task nor a manager's: for assistive technology, on a phone, with hostile texts."""

import json
import time
from pathlib import Path

import pytest

from loopwright.feedback.store import labels, people, queue
from loopwright.feedback.web.text import TAGS
from tests.feedback.web.axe import axe
from tests.feedback.web.labeling import item, labeling_ground
from tests.feedback.web.world import Parrot

PAYLOADS = json.loads((Path(__file__).parent / "payloads.json").read_text())
HOSTILE = "\n\n".join(text for text in PAYLOADS.values() if text.encode("utf-8", "ignore").decode() == text)
EVENTS = "mouseover mouseenter focus focusin load error toggle animationstart start pointerover".split()


@pytest.fixture
def ground(tmp_path):
    with labeling_ground(tmp_path, {"bird": Parrot()}) as ground:
        yield ground


@pytest.fixture
def invitation(ground):
    """The path of a link for an administrator."""
    now = time.time()
    secret = ground.database.write(
        lambda c: people.invite(c, by=people.COMMAND_LINE, project=None, role="admin", expires=now + 600, now=now)
    )
    return f"/invitation/{secret}"


def sign_in(ground, page, name):
    page.context.add_cookies([{"name": "session", "value": ground.cookies[name], "url": ground.url}])


def ask(page, question):
    page.get_by_label("Your message").fill(question)
    page.keyboard.press("Control+Enter")
    page.get_by_text("The model has answered.").wait_for()


# Everybody's eyes, and a phone


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_rule_of_accessibility_is_broken_on_the_way_in_or_in_a_conversation(ground, invitation, watch, scheme):
    """At a phone's width, where nothing may overflow either."""
    for kind in ("chat", "red team"):
        ground.project(kind, guideline="Be **fair**. Do not `sudo`.\n\n| a | b |\n|---|---|\n| 1 | 2 |")
    ground.project("thumb", question="Would you send it?")
    ground.person("ada", password_hash=None)
    page = watch.open(color_scheme=scheme, viewport={"width": 360, "height": 740})
    found = {}

    def look(name):
        found[name] = axe(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is wider than a phone"

    page.goto(f"{ground.url}/login")
    look("log-in")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("not this one")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("alert").wait_for()
    look("refused log-in")
    watch.forgive("401")
    page.goto(ground.url + invitation)
    look("invitation")
    sign_in(ground, page, "ada")
    page.goto(ground.url)
    look("home of an annotator")
    page.goto(f"{ground.url}/nowhere-that-anybody-knows-of")
    look("not found")
    watch.forgive("404")
    page.goto(f"{ground.url}/admin/audit")
    look("refused")
    watch.forgive("403")
    page.goto(f"{ground.url}/account")
    look("account of an annotator")
    for kind in ("chat", "red team"):
        page.goto(f"{ground.url}/projects/{ground.projects[kind].id}/chat")
        ask(
            page, "A `long_word_that_does_not_break_" + "x" * 90 + "`\n\n| a | b |\n|---|---|\n| 1 | " + "y" * 90 + " |"
        )
        page.get_by_text("Guidelines").click()
        page.get_by_role("button", name={"chat": "Good", "red team": "It broke"}[kind]).click()
        page.get_by_text("saved", exact=True).wait_for()
        look(kind)
    assert {where: broken for where, broken in found.items() if broken} == {}


def test_an_answers_list_is_a_list_and_the_buttons_that_judge_it_are_in_sight(ground, watch):
    """On a low window, under a long answer."""
    ground.project("chat")
    ground.person("ada")
    page = watch.open(viewport={"width": 1024, "height": 600})
    sign_in(ground, page, "ada")
    page.goto(f"{ground.url}/projects/{ground.projects['chat'].id}/chat")
    ask(page, "\n".join(f"- point {number}" for number in range(40)))
    assert page.locator(".prose li").first.evaluate("one => getComputedStyle(one).borderTopStyle") == "none"
    asked, good = page.locator("#ask").bounding_box(), page.get_by_role("button", name="Good").bounding_box()
    assert good["y"] > 0 and good["y"] + good["height"] < asked["y"]


# Hostile texts. `watch` fails on a request to another host, and on what the policy had to stop.


@pytest.fixture
def alert(page):
    """A page on which nothing may speak up."""
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    return page


def provoke(page, url):
    """Send every event to every element of hostile text; nothing may run, load or lead away."""
    page.evaluate(
        """(events) => {
            for (const element of document.querySelectorAll('.prose *, .writing *, .text *, td *, td, nav *'))
                for (const event of events) element.dispatchEvent(new Event(event, {bubbles: true, cancelable: true}))
        }""",
        EVENTS,
    )
    page.wait_for_timeout(150)  # for what a refresh or a timer starts
    assert page.evaluate("window.__xss") is None
    assert page.url == url
    tags = set(
        page.evaluate("[...new Set([...document.querySelectorAll('.prose *, .text *')].map(one => one.localName))]")
    )
    assert tags <= TAGS | {"ins", "span"}


def test_hostile_text_in_a_conversation_runs_nothing(ground, alert):
    """As it is streamed, rendered, listed, and shown again; in the guideline beside it and in its panel."""
    page = alert
    ground.project("chat", guideline=HOSTILE, question="<img src=x onerror=alert(1)>")
    ground.project("thumb", guideline=HOSTILE)
    ground.person("<b>ada</b>")
    sign_in(ground, page, "<b>ada</b>")
    url = f"{ground.url}/projects/{ground.projects['chat'].id}/chat"
    page.goto(url)
    page.get_by_text("Guidelines").click()
    page.evaluate(  # what is written while it comes
        """() => new MutationObserver(() => {
            const found = document.querySelector('.writing');
            if (found?.childElementCount) window.__xss = found.innerHTML;
            window.written ||= Boolean(found?.textContent.includes('<script>'));
        }).observe(document.getElementById('turns'), {childList: true, subtree: true, characterData: true})"""
    )
    ask(page, HOSTILE)
    assert page.evaluate("window.written")
    assert "alert(1)" in page.locator(".assistant .prose").inner_text()
    assert "alert(1)" in page.locator(".chat-side .prose").inner_text()
    provoke(page, url)
    page.reload()
    page.locator("#recent button").first.click()
    page.locator(".assistant .prose").wait_for()
    provoke(page, url)
    ground.open(page, "<b>ada</b>", "thumb")
    assert "alert(1)" in page.locator("#guideline-text").inner_text()
    provoke(page, page.url)


def test_hostile_text_on_managers_pages_runs_nothing(ground, alert):
    """An item with labels and a flag, the list of items, what people disagree on, guidelines, people, the log."""
    page, now = alert, time.time()
    ground.person("boss", role="admin")
    for name in ("<script>window.__xss=1</script>", "<img src=x onerror=alert(1)>"):
        ground.person(name)
    hostile = item("hostile", 2, responses=(HOSTILE, HOSTILE[::-1]), prompt=({"role": "user", "content": HOSTILE},))
    settings = {"overlap": 2, "reasons": ("<svg onload=window.__xss=1>",), "question": "<img src=x onerror=alert(1)>"}
    project = ground.project("comparison", items=[hostile], guideline=HOSTILE, **settings)

    def judge(connection):
        for place, name in enumerate(list(ground.accounts)[1:]):
            (task,) = queue.claim(connection, project.id, ground.accounts[name], now=now)
            by = ground.accounts[name]
            labels.flag(connection, task.ticket, by, uid=f"flag-of-{place}", note=HOSTILE[:1_900], now=now)
            answer = {"choice": task.asked.order.index(place), "strength": "better", "reason": HOSTILE}
            labels.submit(connection, task.ticket, by, uid=f"label-of-{place}", answer=answer, seconds=9.0, now=now)

    ground.database.write(judge)
    sign_in(ground, page, "boss")
    admin = f"{ground.url}/admin/projects/{project.id}"
    shown = {
        "/items/1": "window.__xss=1",
        "/items": "<script>",
        "/disagreements": "1 × the first",
        "/guidelines": "alert(1)",
        "/people": "<img src=x",
        "": "<img src=x",
        "/lineage": "<img src=x",
        "/settings": "Pause",
    }
    for path, text in shown.items():
        page.goto(admin + path)
        if path == "/disagreements":
            page.get_by_text("1 × the first is better").wait_for()
        assert text in page.locator("main").inner_text(), path
        provoke(page, admin + path)
    page.goto(f"{ground.url}/admin/audit")
    provoke(page, f"{ground.url}/admin/audit")
