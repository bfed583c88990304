"""The labeling screen in a browser: nothing is lost, nothing is done twice, and everybody can use it."""

import json
import time
from pathlib import Path

import pytest

from loopwright.feedback.store.labels import submit
from loopwright.feedback.store.queue import claim
from loopwright.feedback.web.text import TAGS
from tests.feedback.web.axe import axe
from tests.feedback.web.hands import label, press, saved
from tests.feedback.web.labeling import ANSWERS, KINDS, RESPONSES, item, labeling_ground

PAYLOADS = json.loads((Path(__file__).parent / "payloads.json").read_text())


@pytest.fixture
def ground(tmp_path):
    with labeling_ground(tmp_path) as ground:
        yield ground


def answers(ground):
    ground.database.write(lambda connection: None)  # whatever was on its way is there
    return [event.answer for event in ground.events() if event.type == "label"]


# Nothing is lost


@pytest.fixture
def comparing(ground, page):
    """A person at a comparison, the first of five."""
    ground.project("comparison", items=[item(f"c{number}", 2) for number in range(5)])
    ground.person("ada")
    # The browser looks at requests from the first on: begun later, the one just then on its way may pass unseen
    page.context.route("**/asked-by-nobody", lambda route: route.abort())
    return ground.open(page, "ada", "comparison")


def chosen(page):
    return page.locator(".scale [aria-pressed=true]").get_attribute("aria-label")


def test_a_reload_keeps_the_draft(ground, comparing):
    press(comparing, "3", "r")
    comparing.keyboard.type("not sure")
    comparing.reload()
    comparing.wait_for_selector("#task:visible")
    assert chosen(comparing) == "A is slightly better"
    assert comparing.get_by_label("Reason", exact=True).input_value() == "not sure"
    saved(comparing)
    assert answers(ground) == []


def test_what_is_done_offline_is_sent_later_even_after_a_reload(ground, comparing, watch):
    comparing.context.set_offline(True)
    press(comparing, "2", "Enter", "7")
    comparing.wait_for_function("() => document.querySelector('#saved').textContent.includes('1 answer kept here')")
    assert answers(ground) == []
    comparing.context.set_offline(False)
    comparing.reload()
    comparing.wait_for_selector("#task:visible")
    saved(comparing)
    assert [answer["strength"] for answer in answers(ground)] == ["better"]
    assert chosen(comparing) == "B is better"
    watch.forgive("ERR_INTERNET_DISCONNECTED")


def test_a_reply_that_is_lost_is_asked_for_again_and_stored_once(ground, comparing, watch):
    lost, uids = [], []

    def lose_the_first(route):
        uids.append(route.request.post_data_json["uid"])
        if not lost:
            lost.append(route.fetch())  # the server has it
            route.abort()
        else:
            route.continue_()

    comparing.route("**/label", lose_the_first)
    press(comparing, "2", "Enter")
    saved(comparing)
    assert len(answers(ground)) == 1 and lost[0].status == 200
    assert len(uids) == 2 and uids[0] == uids[1]
    watch.forgive("ERR_FAILED")


def test_two_clicks_and_two_enters_are_one_label(ground, comparing):
    press(comparing, "1")
    comparing.get_by_role("button", name="Submit").dblclick()
    press(comparing, "8", "Enter", "Enter")
    saved(comparing)
    assert [answer["choice"] for answer in answers(ground)] == [0, 1]


def test_the_next_task_is_there_without_the_network(ground, comparing, watch):
    first = comparing.locator("#answers").inner_html()
    comparing.context.set_offline(True)
    press(comparing, "1", "Enter")
    assert (
        comparing.locator("#answers").inner_html() != first
        or comparing.locator(".scale [aria-pressed=true]").count() == 0
    )
    assert comparing.locator("#task").is_visible()
    assert comparing.evaluate("document.activeElement.closest('.scale') !== null")
    assert "Next task" in comparing.locator("#said").inner_text()
    comparing.context.set_offline(False)
    saved(comparing)
    watch.forgive("ERR_INTERNET_DISCONNECTED")


def test_what_the_server_refuses_comes_back(ground, comparing, watch):
    comparing.route("**/label", lambda route: route.fulfill(status=409, json={"error": "the item is gone"}))
    press(comparing, "4", "Enter")
    comparing.wait_for_function("() => document.querySelector('#banner').textContent.includes('the item is gone')")
    assert chosen(comparing) == "A is negligibly better"
    assert comparing.locator("#progress").inner_text().startswith("0 today")
    watch.forgive("409")


def test_who_is_logged_out_loses_nothing(ground, comparing, watch):
    cookies = comparing.context.cookies()
    comparing.context.clear_cookies()
    press(comparing, "2", "Enter")
    comparing.wait_for_function("() => document.querySelector('#saved').textContent.includes('logged out')")
    comparing.context.add_cookies(cookies)
    saved(comparing)
    assert len(answers(ground)) == 1
    watch.forgive("401")


def test_a_label_waits_for_its_labeler_while_somebody_else_is_logged_in(ground, comparing, watch):
    mine = comparing.context.cookies()
    ground.person("bob")
    comparing.context.add_cookies([{"name": "session", "value": ground.cookies["bob"], "url": ground.url}])
    press(comparing, "2", "Enter")
    comparing.wait_for_function("() => document.querySelector('#saved').textContent.includes('logged out')")
    assert answers(ground) == []
    comparing.context.add_cookies(mine)
    saved(comparing)
    assert len(answers(ground)) == 1 and ground.events()[-1].account == ground.accounts["ada"]
    watch.forgive("401")


def test_a_second_tab_does_not_send_what_the_first_has_replaced(ground, comparing, watch):
    away = lambda route: route.abort()  # noqa: E731
    comparing.route("**/draft", away)
    press(comparing, "3")
    comparing.wait_for_function("() => document.querySelector('#saved').textContent.includes('kept here')")
    second = comparing.context.new_page()
    second.route("**/draft", away)
    ground.open(second, "ada", "comparison")
    second.wait_for_function("() => document.querySelector('#saved').textContent.includes('kept here')")
    comparing.unroute("**/draft")
    press(comparing, "7")
    saved(comparing)
    second.unroute("**/draft")
    second.evaluate("dispatchEvent(new Event('online'))")
    second.wait_for_function("() => document.querySelector('#saved').textContent.startsWith('saved')")
    comparing.reload()
    comparing.wait_for_selector("#task:visible")
    assert chosen(comparing) == "B is better"
    watch.forgive("ERR_FAILED")


# Taking back, skipping, reporting


def test_undo_by_its_key_brings_the_answer_back(ground, comparing):
    press(comparing, "2", "Enter")
    saved(comparing)
    press(comparing, "u")
    saved(comparing)
    assert chosen(comparing) == "A is better"
    press(comparing, "7", "Enter")
    saved(comparing)
    assert [(event.type, (event.answer or {}).get("choice")) for event in ground.events()] == [
        ("label", 0), ("undo", None), ("label", 1),
    ]  # fmt: skip
    assert comparing.locator("#progress").inner_text().startswith("1 today")


def test_a_task_that_others_did_meanwhile_says_so_while_it_is_worked_on(ground, comparing):
    ground.person("bob")
    project, bob = ground.projects["comparison"].id, ground.accounts["bob"]

    def elsewhere(connection):
        hour = time.time() + 3_600
        for number in range(5):
            task = claim(connection, project, bob, now=hour)[0]
            answer = {"choice": None}
            submit(connection, task.ticket, bob, uid=f"of-bob-000{number}", answer=answer, seconds=1, now=hour)

    ground.database.write(elsewhere)
    press(comparing, "2")
    comparing.get_by_text("an answer may not count").first.wait_for()


def test_an_earlier_answer_can_be_changed_and_the_open_task_stays(ground, comparing):
    press(comparing, "2", "Enter", "3")
    saved(comparing)
    press(comparing, "ArrowLeft")
    comparing.wait_for_selector("#past")
    assert chosen(comparing) == "A is better"
    press(comparing, "8", "Enter")
    saved(comparing)
    assert chosen(comparing) == "A is slightly better"  # of the open task
    first, second = ground.events()
    assert (first.answer["choice"], second.answer["choice"], second.supersedes) == (0, 1, first.id)
    press(comparing, "y")
    comparing.get_by_role("button", name="Change", exact=True).click()
    comparing.wait_for_selector("#past")
    assert chosen(comparing) == "B is significantly better"
    press(comparing, "Escape")
    assert chosen(comparing) == "A is slightly better"


def test_skip_and_report(ground, comparing):
    press(comparing, "f")
    comparing.keyboard.type("A is cut off")
    press(comparing, "Control+Enter", "s", "2", "0", "Enter")
    saved(comparing)
    assert [(event.type, event.answer) for event in ground.events()] == [
        ("flag", {"note": "A is cut off"}),
        ("skip", {"reason": "needs_expert", "note": None}),
        ("skip", {"reason": "cannot_judge", "note": None}),
    ]


def test_a_skip_is_taken_back_by_the_key_of_undo_with_what_was_begun(ground, comparing):
    press(comparing, "3", "s", "3")
    saved(comparing)
    comparing.get_by_text("Skipped.").first.wait_for()
    press(comparing, "u")
    saved(comparing)
    assert chosen(comparing) == "A is slightly better"
    press(comparing, "Enter")
    saved(comparing)
    assert [event.type for event in ground.events()] == ["skip", "undo", "label"]
    assert comparing.locator("#progress").inner_text().startswith("1 today")


def test_short_reasons_are_pressed_by_keys_and_by_mouse_and_survive_a_reload(ground, page):
    ground.project("comparison", reasons=("wrong fact", "too long", "rude"), reason_when_significant=True)
    ground.person("ada")
    ground.open(page, "ada", "comparison")
    press(page, "1", "Enter")
    page.get_by_text("Say why one answer is significantly better.").first.wait_for()
    press(page, "1", "3", "3")  # the reasons have the focus now; pressed twice, one is off again
    label(page, "too long").click()
    saved(page)
    page.reload()
    page.wait_for_selector("#task:visible")
    assert page.locator(".several [aria-pressed=true]").all_inner_texts() == ["wrong fact", "too long"]
    press(page, "Enter")
    saved(page)
    (answer,) = answers(ground)
    assert (answer["strength"], answer["reasons"]) == ("significantly", ["wrong fact", "too long"])


def test_blurred_texts_are_shown_by_key_or_click_before_they_are_judged(ground, page):
    ground.project("spans", blur=True)
    ground.project("comparison", blur=True)
    ground.person("ada")
    ground.open(page, "ada", "comparison")
    texts = page.locator("#texts .text")
    assert texts.evaluate_all("all => all.every(one => one.inert)")
    press(page, "2", "Enter")
    page.get_by_text("The texts are blurred; show them first.").first.wait_for()
    assert page.evaluate("document.activeElement.dataset.do") == "blur"
    press(page, "v")
    assert texts.evaluate_all("all => !all.some(one => one.inert)")
    press(page, "Enter", "u")  # taken back, it is not blurred again
    saved(page)
    assert chosen(page) == "A is better"
    assert texts.evaluate_all("all => !all.some(one => one.inert)")
    page.get_by_role("button", name="Blur", exact=True).click()
    page.get_by_role("button", name="Show them").click()
    press(page, "Enter")
    saved(page)
    page.wait_for_function(
        "() => [...document.querySelectorAll('#texts .text')].every(one => one.inert)"
    )  # the next task
    assert [event.type for event in ground.events()] == ["label", "undo", "label"]
    ground.open(page, "ada", "spans")
    page.get_by_role("button", name="Show them").click()
    press(page, "h", *["Shift+ArrowRight"] * 4, "b", "Escape", "Enter")
    saved(page)
    assert answers(ground)[-1]["spans"]


def test_nothing_is_left(ground, page):
    ground.project("thumb", items=[item("only", 1)])
    ground.person("ada")
    ground.open(page, "ada", "thumb")
    press(page, "1", "Enter")
    page.wait_for_selector("#empty:visible")
    assert [event.type for event in ground.events()] == ["label"]


def test_a_changed_guideline_comes_first(ground, page):
    project = ground.project("thumb", guideline="# Be fair\n\nFirst **version**.")
    ground.person("ada")
    ground.open(page, "ada", "thumb")
    assert page.locator("#guideline strong").first.inner_text() == "version"
    press(page, "Escape")
    assert page.locator("#guideline").is_visible() and not page.locator("#task").is_visible()
    page.get_by_role("button", name="I have read it").click()
    page.wait_for_selector("#task:visible")
    ground.guideline(project, "Second.")
    press(page, "1", "Enter")
    page.wait_for_selector("#guideline:visible")
    assert "version 2" in page.locator("#guideline").inner_text()
    press(page, "Enter")  # the button has the focus
    page.wait_for_selector("#guideline", state="hidden")
    press(page, "2", "Enter")
    saved(page)
    assert [event.guideline for event in ground.events()] == [1, 2]


# Keys


def test_without_a_choice_nothing_is_submitted(ground, comparing):
    press(comparing, "Enter", "Backspace", "Delete", "Control+Enter")
    assert "Choose first" in comparing.locator("#banner").inner_text()
    saved(comparing)
    assert ground.events() == []


def test_letters_in_a_text_are_letters(ground, comparing):
    press(comparing, "1", "r")
    comparing.keyboard.type("so fussy? 9 times, 0 gain")
    press(comparing, "Backspace", "Enter")
    assert comparing.locator("dialog[open]").count() == 0
    assert chosen(comparing) == "A is significantly better"
    press(comparing, "Escape", "Enter")
    saved(comparing)
    assert answers(ground)[0]["reason"] == "so fussy? 9 times, 0 gai"


def test_a_key_that_is_held_acts_once(ground, comparing):
    for _ in range(4):
        comparing.keyboard.down("m")  # the second and later are repeats
    comparing.keyboard.up("m")
    assert comparing.locator("#answers .text.raw").count() == 2
    label(comparing, "A is better").click()  # and has the focus: Enter would press it natively
    for _ in range(4):
        comparing.keyboard.down("Enter")
    comparing.keyboard.up("Enter")
    saved(comparing)
    assert len(answers(ground)) == 1
    assert comparing.locator(".scale [aria-pressed=true]").count() == 0


def test_keys_and_theme_are_the_accounts(ground, comparing, watch):
    press(comparing, "?")
    comparing.get_by_role("button", name="Change the key for: Submit").click()
    press(comparing, "x")
    press(comparing, "Escape", "2", "x")
    saved(comparing)
    assert len(answers(ground)) == 1
    with comparing.expect_response(lambda reply: '"dark"' in (reply.request.post_data or "")):
        comparing.get_by_role("button", name="Theme").click()
        comparing.get_by_role("button", name="Theme").click()
    elsewhere = ground.open(watch.open(), "ada", "comparison")
    assert elsewhere.locator("html").get_attribute("data-theme") == "dark"
    press(elsewhere, "7", "x")
    saved(elsewhere)
    assert len(answers(ground)) == 2


# What is measured


def test_time_at_the_task_counts_and_time_away_does_not(ground, page):
    """Reading 30 s, a coffee of an hour, 5 s more: 30 + 60 (the bound between two signs of life) + 5."""
    page.clock.install()
    ground.project("thumb")
    ground.person("ada")
    ground.open(page, "ada", "thumb")
    page.clock.run_for(30_000)
    press(page, "Shift")
    page.clock.run_for(3_600_000)
    press(page, "Shift")
    page.clock.run_for(5_000)
    press(page, "1", "Enter")
    page.clock.run_for(1_000)
    saved(page)
    assert answers(ground) and ground.events()[-1].seconds == pytest.approx(95, abs=2)


TRICKY = "👩‍🚀 one\r\ntwo 🍞🍞 \u200bthree سلام \U0001f600!"


@pytest.mark.parametrize(
    ("passage", "keys"),
    [
        ("👩‍🚀 one", ["Shift+ArrowRight"] * 5),
        ("👩‍🚀 one\r\ntwo", ["Shift+ArrowDown", "Shift+ArrowLeft", "Shift+Control+ArrowRight"]),
    ],
)
def test_passages_are_counted_in_code_points_by_keyboard(ground, page, passage, keys):
    ground.project("spans", items=[item("tricky", 1, responses=(TRICKY,))])
    ground.person("ada")
    ground.open(page, "ada", "spans")
    press(page, "h", *keys, "a", "Escape", "Enter")
    saved(page)
    (span,) = answers(ground)[0]["spans"]
    assert TRICKY[span["start"] : span["end"]].strip().startswith("👩‍🚀 one")
    assert span["start"] == 0


def test_passages_are_counted_in_code_points_wherever_they_are(ground, page):
    """Every pair of places in a text with emoji, CR LF, hidden characters and Arabic, as the browser selects it."""
    ground.project("spans", items=[item("tricky", 1, responses=(TRICKY,))])
    ground.person("ada")
    ground.open(page, "ada", "spans")
    script = """async (text) => {
        const { Shown, select } = await import("/static/work/places.js");
        const root = document.querySelector(".markable");
        const places = new Shown(text);
        const wrong = [];
        const characters = [...text];
        for (let start = 0; start < characters.length; start += 1) {
            for (let end = start + 1; end <= characters.length; end += 1) {
                const splits = (place) => characters[place - 1] === "\\r" && characters[place] === "\\n";
                if (splits(start) || splits(end)) continue;
                select(root, places.toShown[start], places.toShown[end]);
                const found = places.rawOf(root, document.getSelection().getRangeAt(0));
                const first = characters[start] === "\\r" ? start + 1 : start;
                if (found?.start !== first || found?.end !== end) wrong.push([start, end, found]);
            }
        }
        return wrong;
    }"""
    assert page.evaluate(script, TRICKY) == []


def test_marked_passages_come_back_and_can_be_taken_away(ground, page):
    ground.project("spans", items=[item("tricky", 1, responses=(TRICKY,))])
    ground.person("ada")
    ground.open(page, "ada", "spans")
    press(page, "h", *["Shift+ArrowRight"] * 5, "a", *["Shift+ArrowRight"] * 3, "c", "Escape")
    assert page.locator(".found-list li").count() == 2
    page.reload()
    page.wait_for_selector(".found-list li")
    assert page.locator(".found-list li").count() == 2
    assert page.locator(".markable").inner_text().startswith("👩‍🚀 one\ntwo")
    page.get_by_role("button", name="Remove").first.click()
    press(page, "Control+Enter")
    saved(page)
    assert [span["label"] for span in answers(ground)[0]["spans"]] == ["unverifiable"]


# Hostile text, and everybody's eyes


@pytest.mark.parametrize("kind", ["comparison", "spans", "correction"])
def test_hostile_text_runs_nothing_and_leaves_nowhere(ground, page, kind):
    """The payloads as question and as answers, in each view. The page fixture fails on any request to another host."""
    texts = [text for text in PAYLOADS.values() if text.encode("utf-8", "ignore").decode() == text]
    whole = "\n\n".join(texts)
    count = RESPONSES[kind]
    asked = ({"role": "system", "content": whole}, {"role": "user", "content": whole})
    hostile = item("hostile", count, responses=(whole, whole[::-1]), prompt=asked)
    ground.project(kind, items=[hostile], question="<img src=x onerror=alert(1)>")
    ground.person("<b>ada</b>")
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    ground.open(page, "<b>ada</b>", kind)
    if kind == "spans":
        press(page, "h", *["Shift+ArrowRight"] * 3, "a", "Escape")
    else:
        press(page, "m")
        page.wait_for_selector("#answers .text.raw")
        press(page, "d")
        page.wait_for_selector("#answers del")
    page.wait_for_timeout(300)
    assert page.evaluate("window.__xss") is None
    assert page.url.startswith(ground.url)
    tags = page.evaluate("[...new Set([...document.querySelectorAll('.text *')].map((one) => one.localName))]")
    assert set(tags) <= TAGS | {"ins", "span"}


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_no_rule_of_accessibility_is_broken(ground, watch, scheme):
    for kind in KINDS:
        ground.project(kind, guideline="Be **fair**.", items=[item(kind, RESPONSES[KINDS[kind]["kind"]])])
    ground.person("ada")
    found = {}
    page = watch.open(color_scheme=scheme)
    for kind in KINDS:
        ground.open(page, "ada", kind)
        if kind == "comparison":
            found["guideline"] = axe(page)
        page.get_by_role("button", name="I have read it").click()
        page.wait_for_selector("#task:visible")
        if KINDS[kind].get("blur"):
            found["blurred"] = axe(page)
            press(page, "v")
        press(page, "1")
        found[kind] = axe(page)
    for key, panel in (("s", "skip"), ("f", "flag"), ("?", "keys"), ("y", "history"), ("g", "guideline")):
        page.get_by_role("button", name="Skip").focus()
        press(page, key)
        page.wait_for_selector(f"#{panel}[open]")
        found[panel] = axe(page)
        press(page, "Escape")
    assert {where: broken for where, broken in found.items() if broken} == {}


def test_a_phone_shows_all_of_it(ground, watch):
    for kind in KINDS:
        ground.project(kind)
    ground.person("ada")
    page = watch.open(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    for kind in KINDS:
        ground.open(page, "ada", kind)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), kind
        assert page.get_by_role("button", name="Submit").is_visible()
    ground.open(page, "ada", "comparison")
    label(page, "B is slightly better").tap()  # nothing moves away under the finger
    assert chosen(page) == "B is slightly better"


def test_text_is_read_from_its_own_side(ground, page):
    arabic = "مرحبا، كيف حالك؟ العجين لا يرتفع في الشتاء."
    ground.project("comparison", items=[item("rtl", 2, responses=(arabic, ANSWERS[0]))])
    ground.person("ada")
    ground.open(page, "ada", "comparison")
    sides = page.evaluate(
        """() => [...document.querySelectorAll("#answers .text")].map((text) =>
            [text.textContent.includes("العجين"), getComputedStyle(text.querySelector("p") ?? text).direction])"""
    )
    assert sorted(sides) == [[False, "ltr"], [True, "rtl"]]


def test_views_of_two_answers(ground, page):
    """As written, where they differ, one above the other, scrolled together; the account keeps the choice."""
    texts = tuple(f"**one** {word}\n\n" + "A line.\n\n" * 60 for word in ("two", "three"))
    ground.project("comparison", items=[item("long", 2, responses=texts)])
    ground.person("ada")
    ground.open(page, "ada", "comparison")
    first = page.locator("#answers .text").first
    assert first.locator("strong").inner_text() == "one"
    press(page, "m")
    assert "**one**" in first.inner_text()
    press(page, "d")
    page.wait_for_selector("#answers ins")
    assert {page.locator("#answers del").first.inner_text(), page.locator("#answers ins").first.inner_text()} == {
        "two", "three",
    }  # fmt: skip
    press(page, "d", "m", "l")
    scrolled = page.evaluate(
        """async () => {
            const [a, b] = document.querySelectorAll("#answers .body");
            a.scrollTop = (a.scrollHeight - a.clientHeight) / 2;
            await new Promise((done) => setTimeout(done, 200));
            return b.scrollTop / (b.scrollHeight - b.clientHeight);
        }"""
    )
    assert scrolled == pytest.approx(0.5, abs=0.02)
    with page.expect_response(lambda reply: '"layout":"rows"' in (reply.request.post_data or "")):
        page.get_by_role("button", name="One above the other").click()
    page.reload()
    page.wait_for_selector("#task:visible")
    boxes = [pane.bounding_box() for pane in page.locator("#answers .pane").all()]
    assert boxes[0]["x"] == boxes[1]["x"] and boxes[0]["y"] < boxes[1]["y"]


def test_with_the_seconds_over_nothing_is_taken_back(ground, page):
    page.clock.install()
    ground.project("thumb", items=[item(f"t{number}", 1) for number in range(3)])
    ground.person("ada")
    ground.open(page, "ada", "thumb")
    press(page, "1", "Enter")
    page.clock.run_for(1_000)
    saved(page)
    assert page.locator("#toast").is_visible()
    page.clock.run_for(11_000)
    press(page, "u")
    page.clock.run_for(1_000)
    saved(page)
    assert not page.locator("#toast").is_visible()
    assert [event.type for event in ground.events()] == ["label"]
