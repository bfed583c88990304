"""An administrator's day in a browser; by keyboard alone too; what assistive technology finds."""

import json
import time

import pytest

from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import administration, labels, people, queue
from loopwright.feedback.store.items import Item
from loopwright.feedback.store.migrate import migrate, open_store
from loopwright.feedback.store.projects import list_projects
from loopwright.feedback.store.reports import list_members
from loopwright.feedback.web.app import create_app
from loopwright.feedback.web.settings import ServerConfig
from tests.feedback.web.axe import axe
from tests.feedback.web.serving import a_socket, address_of, served
from tests.feedback.web.world import KEY

PASSWORD = "correct horse battery"
ITEMS = [
    {
        "key": f"q{n}",
        "prompt": [{"role": "user", "content": f"Question {n}"}],
        "responses": ["Short.", "A longer answer."],
    }
    for n in range(6)
] + [{"key": "broken", "responses": ["only one"]}]


@pytest.fixture
def site(tmp_path, quick_hashes):
    """The address of an app on an empty store, its database, and the link for its first administrator."""
    url = f"sqlite:///{tmp_path / 'feedback.db'}"
    migrate(url)
    with open_store(url) as database, a_socket() as listening:
        address = address_of(listening)
        app = create_app(database, ServerConfig(url=address, key=KEY))
        now = time.time()
        secret = database.write(
            lambda c: people.invite(c, by=people.COMMAND_LINE, project=None, role="admin", expires=now + 600, now=now)
        )
        with served(app, listening):
            yield address, database, f"{address}/invitation/{secret}"


def enter(page, link, name):
    page.goto(link)
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Begin").click()
    page.wait_for_url("**/")


def label_all(database):
    """Everybody in the project answers all that they are asked, the first of them otherwise than the others."""
    (project,) = database.read(list_projects)
    now = time.time()

    def job(connection):
        for place, member in enumerate(list_members(connection, project.id)):
            while tasks := queue.claim(connection, project.id, member.account, now=now):
                task = tasks[0]
                answer = {"choice": task.asked.order.index(min(place, 1)), "strength": "better"}
                uid = f"uid-{task.ticket}"
                labels.submit(connection, task.ticket, member.account, uid=uid, answer=answer, seconds=9.0, now=now)

    database.write(job)


def test_a_full_day_of_an_administrator(site, watch, tmp_path):  # noqa: PLR0915 -- a day is long
    address, database, link = site
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in ITEMS))
    page = watch.open(accept_downloads=True)
    enter(page, link, "Ada")

    page.goto(f"{address}/admin")
    page.get_by_role("link", name="New project").click()
    page.get_by_role("link", name="comparison").click()
    page.get_by_label("Name").fill("Helpful answers")
    page.get_by_label("People for each item").fill("many")
    page.get_by_label("Criteria").fill("honest: It is true.")
    page.get_by_role("button", name="Make the project").click()
    watch.forgive("422")
    assert page.get_by_label("People for each item").evaluate("field => field.ariaInvalid") == "true"
    assert "“many” is no whole number" in page.inner_text("main")
    assert page.get_by_label("Criteria").input_value() == "honest: It is true."  # what was right is still there
    page.get_by_label("People for each item").fill("2")
    page.get_by_label("Share of gold items").fill("0")
    page.get_by_role("button", name="Make the project").click()
    page.wait_for_url("**/items?said=made")

    page.get_by_label("File").set_input_files(file)
    page.get_by_label("Batch").fill("round 1")
    page.get_by_role("button", name="Upload").click()
    told = page.get_by_role("status").inner_text()
    assert "6 new items" in told and "1 bad line" in told and "has 1 responses" in told

    page.get_by_role("link", name="People").last.click()
    links = []
    for _ in range(2):
        if not page.get_by_role("button", name="Make a link").is_visible():
            page.get_by_text("Invite somebody").click()
        page.get_by_role("button", name="Make a link").click()
        links.append(page.get_by_label("The invitation's link").input_value())
    for name, invitation in zip(("Grace", "Linus"), links, strict=True):
        enter(watch.open(), invitation, name)

    label_all(database)
    page.get_by_role("link", name="Dashboard").click()
    main = page.get_by_role("main")
    assert "12 of 12 labels" in main.inner_text() and "All labels are there" in main.inner_text()
    for name in ("Labels a day", "How often each annotator is right", "What draws people"):
        assert page.get_by_role("img", name=name).is_visible()
    page.get_by_role("link", name="6 items that people disagree on").click()
    assert "1 × the first is better" in page.inner_text("table")
    page.get_by_role("link", name="q0").click()
    assert "A, the first answer" in main.inner_text() or "B, the first answer" in main.inner_text()
    page.get_by_role("button", name="The first", exact=True).click()
    assert "The gold answer is set." in page.inner_text("main")

    page.get_by_role("link", name="People").last.click()
    page.get_by_role("button", name="Leave out the labels of Linus").click()
    assert "All labels of Linus" in page.inner_text("main")
    page.get_by_role("link", name="Dashboard").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="comparisons.jsonl").click()
    records = [json.loads(line) for line in download.value.path().read_text(encoding="utf-8").splitlines()]
    assert {one["annotator"] for one in records} == {"Grace"} and len(records) == 5  # not of the gold item

    page.get_by_role("link", name="Audit log").click()
    page.get_by_role("button", name="Check that every row is as it was written").click()
    page.get_by_text("chain of their hashes is whole").wait_for()
    log = page.inner_text("main")
    for action in ("project made", "items published", "invited", "gold set", "labels excluded", "labels read"):
        assert action in log
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")


def press_until(page, matches, key="Tab", most=80):
    for _ in range(most):
        page.keyboard.press(key)
        if page.evaluate(f"(() => {{ const here = document.activeElement; return {matches}; }})()"):
            return
    raise AssertionError(f"{matches} is not reached by {key}")


def test_a_project_is_made_and_people_are_invited_by_keyboard_alone(site, page):
    address, database, link = site
    enter(page, link, "Ada")
    page.goto(f"{address}/admin")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip-link"
    press_until(page, "here.textContent === 'New project'")
    page.keyboard.press("Enter")
    page.wait_for_url("**/admin/new")
    press_until(page, "here.textContent.startsWith('thumb')")
    page.keyboard.press("Enter")
    page.wait_for_url("**/admin/new?kind=thumb")
    press_until(page, "here.name === 'name'")
    page.keyboard.type("Thumbs")
    press_until(page, "here.textContent === 'Make the project'")
    page.keyboard.press("Enter")
    page.wait_for_url("**/items?said=made")
    press_until(page, "here.closest('.tabs') && here.textContent === 'People'")
    page.keyboard.press("Enter")
    page.wait_for_url("**/people")
    press_until(page, "here.tagName === 'SUMMARY' || here.name === 'role'")
    if page.evaluate("document.activeElement.tagName") == "SUMMARY" and not page.locator("details[open]").count():
        page.keyboard.press("Enter")
    press_until(page, "here.textContent === 'Make a link'")
    page.keyboard.press("Enter")
    assert "/invitation/" in page.get_by_label("The invitation's link").input_value()


def test_what_can_be_reached_by_keyboard_shows_that_it_was(site, page):
    address, _, link = site
    enter(page, link, "Ada")
    page.goto(f"{address}/admin/new?kind=rating")
    page.keyboard.press("Tab")
    while page.evaluate("document.activeElement !== document.body"):  # until the last, behind which the page ends
        shown = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert shown != "none", page.evaluate("document.activeElement.outerHTML")
        page.keyboard.press("Tab")


PAGES = (
    "", "/admin", "/admin/new", "/admin/new?kind=rating", "/admin/people", "/admin/audit", "/account",
    *(f"/admin/projects/{{project}}{tab}" for tab in (
        "", "/items", "/items/1", "/people", "/disagreements", "/guidelines", "/lineage", "/settings",
    )),
)  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wrong_for_assistive_technology_and_nothing_overflows_a_phone(site, watch, scheme):
    address, database, link = site
    page = watch.open(color_scheme=scheme, viewport={"width": 390, "height": 800})
    enter(page, link, "Ada")
    project = fill(database)
    for path in PAGES:
        page.goto(address + path.format(project=project))
        assert not axe(page), path
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path


def fill(database):
    """A project with labels, an artifact, an exclusion; its id."""
    now = time.time()

    def job(connection):
        by = people.find_account(connection, "Ada").id
        config = ProjectConfig(kind="comparison", overlap=2, gold_share=0.0)
        made = administration.make_project(connection, by, "P", config, guideline="Be fair.", now=now)
        new = [Item.model_validate(one) for one in ITEMS[:-1]]
        administration.publish(connection, by, made, new, now=now)
        for name in ("Grace", "Linus"):
            account = people.create_account(connection, name, now=now).id
            administration.set_member(connection, by, made.id, account, "annotator", now=now)
        administration.invite(connection, by, made.id, "annotator", expires=now + 600, now=now)
        administration.exclude(connection, by, made.id, {"day": "2020-02-29"}, uid="excluded-1", now=now)
        parents = {"base": "sft-1"}
        administration.register_artifact(
            connection, by, made.id, "rm-1", "reward_model", parents=parents, made_from=[], where=None, now=now
        )
        return made.id

    project = database.write(job)
    label_all(database)
    return project
