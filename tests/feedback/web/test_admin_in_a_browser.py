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
from tests.feedback.web.hands import HANDS
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


def main(page):
    return page.get_by_role("main").inner_text()


def make_a_project(hands, watch):
    """Chosen, filled in, refused, mended."""
    hands.follow("Administration")
    hands.follow("New project")
    hands.follow("comparison", exact=False)
    hands.write("Name", "Helpful answers")
    hands.write("People for each item", "many")
    hands.write("Criteria", "honest: It is true.")
    hands.send("Make the project")
    watch.forgive("422")
    page = hands.page
    assert page.get_by_label("People for each item").evaluate("field => field.ariaInvalid") == "true"
    assert "“many” is no whole number" in main(page)
    assert page.get_by_label("Criteria").input_value() == "honest: It is true."  # what was right is still there
    hands.write("People for each item", "2")
    hands.write("Share of gold items", "0")
    hands.send("Make the project")
    assert page.url.endswith("/items?said=made")


def write_a_guideline(hands):
    tabs = hands.within(".tabs")
    tabs.follow("Guidelines")
    hands.write("Guideline, in Markdown", "Prefer what is **true**.")
    hands.send("Publish version 1")
    assert "Prefer what is **true**." in main(hands.page)
    tabs.follow("Items")


def upload(hands, file):
    hands.hand_in("File", file)
    hands.write("Batch, a name to find them by", "round 1")
    hands.send("Upload")
    told = hands.page.get_by_role("status").inner_text()
    assert "6 new items" in told and "1 bad line" in told and "has 1 responses" in told


def invite(hands, role, skills):
    """The link for one person."""
    hands.open("Invite somebody")
    hands.choose("As", role)
    hands.write("Skills, with commas", skills)
    hands.send("Make a link")
    return hands.page.get_by_label("The invitation's link").input_value()


def set_skills(hands):
    """Grace learns law; q5 is for those who know it."""
    hands.within(".places").follow("People")
    grace = hands.within("form.account:has(h2:text-is('Grace'))")
    grace.write("Skills, with commas", "law, medicine")
    grace.send("Save Grace")
    assert hands.page.get_by_role("status").inner_text() == "Saved."
    hands.within(".places").follow("Projects")
    hands.follow("Helpful answers", exact=False)
    hands.within(".tabs").follow("Items")
    hands.follow("q5")
    hands.write("Only people with the skill", "law")
    hands.within("form:has([name=skill])").send("Save")
    assert "needs law" in main(hands.page)


def look_at_figures(hands):
    hands.within(".tabs").follow("Dashboard")
    page = hands.page
    assert "11 of 12 labels" in main(page)  # one person knows the law
    for name in ("Labels a day", "How often each annotator is right", "What draws people"):
        page.get_by_role("img", name=name).wait_for()  # the page looks again while figures are computed


def settle_a_disagreement(hands):
    hands.follow("5 items that people disagree on")
    page = hands.page
    assert "1 × the first is better" in page.inner_text("table")
    hands.follow("q0")
    assert "A, the first answer" in main(page) or "B, the first answer" in main(page)
    hands.send("The first")
    assert "The gold answer is set." in main(page)


def annotators(hands):
    """Of the labels in the file that a reward model is trained on, which the dashboard hands out."""
    hands.within(".tabs").follow("Dashboard")
    records = [json.loads(line) for line in hands.download("comparisons.jsonl").splitlines()]
    assert "Question 0" not in {one["prompt"][-1]["content"] for one in records}  # the gold item trains nothing
    return sorted(one["annotator"] for one in records)


@pytest.mark.parametrize("by", HANDS)
def test_a_full_day_of_an_administrator(site, watch, tmp_path, by):
    """By keyboard: nothing but the invitation's link is an address, and the mouse is never moved."""
    _, database, link = site
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in ITEMS))
    page = watch.open(accept_downloads=True)
    hands = HANDS[by](page)
    tabs = hands.within(".tabs")
    page.goto(link)
    hands.write("Name", "Ada")
    hands.write("Password", PASSWORD, exact=False)
    hands.send("Begin")
    make_a_project(hands, watch)
    write_a_guideline(hands)
    upload(hands, file)
    tabs.follow("People")
    links = [invite(hands, "annotator", "law"), invite(hands, "annotator", ""), invite(hands, "manager", "")]
    for name, invitation in zip(("Grace", "Linus"), links, strict=False):
        enter(watch.open(), invitation, name)
    hands.open("Invite somebody")
    hands.send("Revoke the invitation as manager", exact=False)  # nobody used it yet
    assert "its link works no more" in main(page)
    set_skills(hands)
    label_all(database)
    look_at_figures(hands)
    settle_a_disagreement(hands)
    tabs.follow("People")
    hands.send("Leave out the labels of Linus")
    assert "All labels of Linus" in main(page)
    assert annotators(hands) == ["Grace"] * 5
    tabs.follow("Lineage")
    hands.send("Let them count again")
    assert "All labels count." in main(page)
    assert annotators(hands) == ["Grace"] * 5 + ["Linus"] * 4
    hands.follow("Audit log")
    hands.send("Check that every row is as it was written")
    assert "chain of their hashes is whole" in main(page)
    for action in ("project made", "guideline", "items published", "invited", "gold set", "excluded", "labels read"):
        assert action in main(page)
    hands.send("Log out")
    assert page.url.endswith("/login")


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
