"""Every key of the map is pressed, and every button's key presses that button; what a button means stands beside it."""

import pytest

from loopwright.feedback.projects import HHH
from loopwright.feedback.web.pages.work import SKIPS
from tests.feedback.web.hands import press, saved
from tests.feedback.web.labeling import KINDS, RESPONSES, item, labeling_ground


@pytest.fixture
def ground(tmp_path):
    with labeling_ground(tmp_path) as ground:
        yield ground


def panel(name):
    return lambda page: page.wait_for_selector(f"dialog#{name}[open]") and press(page, "Escape")


def is_pressed(action):
    return lambda page: (
        page.wait_for_selector(f".views [data-do={action}][aria-pressed=true]")
        and press(page, page.locator(f".views [data-do={action}] kbd").get_attribute("data-key"))
    )


def has_focus(selector):
    return lambda page: page.wait_for_function("css => document.activeElement.matches(css)", arg=selector)


def reads(text):
    return lambda page: page.get_by_text(text).first.wait_for()


EXPECTED = {  # action -> what is pressed before its key, and what is seen after it
    "submit": (("2",), reads("Submitted.")),
    "skip": ((), panel("skip")),
    "flag": ((), panel("flag")),
    "undo": (
        ("3", "Enter"),
        lambda page: page.wait_for_selector('[aria-label="A is slightly better"][aria-pressed=true]'),
    ),
    "previous": (("2", "Enter"), lambda page: page.wait_for_selector("#past")),
    "next": (("2", "Enter", "ArrowLeft"), lambda page: page.wait_for_selector("#past", state="detached")),
    "down": ((), has_focus(".several, .several *")),
    "up": (("ArrowDown",), has_focus(".scale, .scale *")),
    "reason": ((), has_focus("#reason-place textarea")),
    "edit": (("2",), has_focus("#questions .editor textarea")),
    "diff": ((), lambda page: page.wait_for_selector("#answers ins") and press(page, "d")),
    "raw": ((), is_pressed("raw")),
    "lock": ((), is_pressed("lock")),
    "guideline": ((), panel("guideline")),
    "history": ((), panel("history")),
    "keys": ((), panel("keys")),
    "mark": ((), has_focus(".markable")),
    "blur": ((), lambda page: page.wait_for_selector("#blurred", state="hidden")),
}
ELSEWHERE = {"mark": "spans", "blur": "blurred"}  # what a comparison has no use for


def test_each_action_of_the_list_is_done_by_its_key(ground, page):
    ground.project("comparison", reasons=("wrong fact",), items=[item(f"c{n}", 2) for n in range(9)])
    ground.project("spans")
    ground.project("blurred")
    ground.person("ada")
    ground.open(page, "ada", "comparison")
    actions = dict(
        page.evaluate("async () => (await import('/static/work/keys.js')).ACTIONS.map(one => one.slice(0, 2))")
    )
    assert set(actions) == set(EXPECTED), "an action has no test, or one is gone"
    for action, key in sorted(actions.items(), key=lambda one: one[0] in ELSEWHERE):
        if action in ELSEWHERE:
            ground.open(page, "ada", ELSEWHERE[action])
        before, seen = EXPECTED[action]
        for one in before:
            press(page, one)
            if one == "ArrowLeft":
                page.wait_for_selector("#past")
        press(page, key)
        seen(page)
        saved(page)
        for button in page.locator(f"[data-do={action}]").all():
            shown = {"Enter": "⏎"}.get(key, key)
            assert button.locator("kbd").get_attribute("data-key") == shown, action
        press(page, "Escape")  # out of texts


@pytest.mark.parametrize("kind", KINDS)
def test_the_key_on_each_button_is_the_one_that_presses_it(ground, page, kind):
    reasons = {} if kind == "demonstration" else {"reasons": ("wrong fact", "too long", "rude")}
    ground.project(kind, items=[item(kind, min(RESPONSES[KINDS[kind]["kind"]], 2))], **reasons)
    ground.person("ada")
    ground.open(page, "ada", kind)
    if KINDS[kind].get("blur"):
        press(page, "v")
    buttons = page.locator(".row .choice:has(kbd)")
    assert buttons.count() > 0 or kind == "demonstration"
    for button in buttons.all():
        key, row = (
            button.locator("kbd").get_attribute("data-key"),
            button.locator("xpath=ancestor::*[contains(@class, 'row')][1]"),
        )
        assert button.get_attribute("aria-keyshortcuts") == key
        row.evaluate("row => row.focus()")
        was = button.get_attribute("aria-pressed")
        press(page, key)
        assert button.get_attribute("aria-pressed") == "true" or was == "true"
        if "several" not in row.get_attribute("class"):
            assert row.locator("[aria-pressed=true]").count() == 1
    if kind == "spans":
        for number, button in enumerate(page.locator(".labels .choice").all()):
            press(
                page,
                "h",
                *["ArrowRight"] * 2,
                *["Shift+ArrowRight"] * 2,
                button.locator("kbd").get_attribute("data-key"),
            )
            assert page.locator(".found-list li").count() == number + 1
            names = page.locator(".found-list .tag").all_inner_texts()
            assert button.locator(".label").inner_text() in names


def test_all_ten_digits_of_a_comparison_are_stored_as_what_they_say(ground, page):
    ground.project("comparison", items=[item(f"c{number}", 2) for number in range(10)], gold_share=0.0)
    ground.person("ada")
    ground.open(page, "ada", "comparison")
    for digit in "1234567890":
        page.wait_for_selector("#task:visible .scale:not(.answered)")
        press(page, digit, "Enter")
        saved(page)
    strengths = ("significantly", "better", "slightly", "negligibly")
    given = [(event.type, event.answer) for event in ground.events()]
    *nine, skip = given
    verdicts = [
        (type, answer["choice"], answer.get("strength"), answer.get("both_bad", False)) for type, answer in nine
    ]
    assert verdicts == [
        *(("label", 0, strength, False) for strength in strengths),
        *(("label", 1, strength, False) for strength in reversed(strengths)),
        ("label", None, None, True),
    ]
    assert skip == ("skip", {"reason": "cannot_judge", "note": None})


def test_each_digit_of_a_skip_gives_the_reason_that_its_button_says(ground, page):
    ground.project("comparison", items=[item(f"c{number}", 2) for number in range(len(SKIPS))])
    ground.person("ada")
    ground.open(page, "ada", "comparison")
    for number, sentence in enumerate(SKIPS.values(), start=1):
        page.wait_for_selector("#task:visible")  # skipping is quicker than tasks come
        press(page, "s")
        button = page.get_by_role("button", name=sentence)
        key = button.locator("kbd").get_attribute("data-key")
        assert key == str(number)
        press(page, key)
        page.wait_for_selector("dialog#skip", state="hidden")
    saved(page)
    assert [event.answer["reason"] for event in ground.events()] == list(SKIPS)


def test_a_changed_key_is_printed_on_its_button_at_once(ground, page):
    ground.project("comparison")
    ground.person("ada")
    ground.open(page, "ada", "comparison")
    press(page, "?")
    page.get_by_role("button", name="Change the key for: Submit").click()
    with page.expect_response("**/preferences"):
        press(page, "x")
    press(page, "Escape")
    submit = page.get_by_role("button", name="Submit")
    assert submit.locator("kbd").get_attribute("data-key") == "x" == submit.get_attribute("aria-keyshortcuts")
    press(page, "2", "x")
    reads("Submitted.")(page)


# What a button means, and where it is


def test_the_definition_of_a_criterion_is_on_its_buttons_and_in_sight(ground, page):
    """Everybody sees it beside the buttons; screen readers say it of each."""
    ground.project("rating")
    ground.person("ada")
    ground.open(page, "ada", "rating")
    for name, definition in HHH:
        row = page.get_by_role("group", name=name)
        assert row.get_by_text(definition).first.is_visible()
        buttons = row.get_by_role("button")
        assert buttons.count() == 3
        for button in buttons.all():
            described = button.get_attribute("aria-describedby")
            assert page.locator(f"#{described}").text_content() == definition
            button.focus()
            assert definition in page.locator("#hint").inner_text()


def test_the_words_on_the_buttons_go_in_the_direction_of_their_criterion(ground, page):
    low = {"name": "rude", "definition": "It insults somebody.", "higher_is_better": False}
    ground.project("rating", criteria=[{"name": "helpful", "definition": "It helps."}, low])
    ground.person("ada")
    ground.open(page, "ada", "rating")
    for name, words in (("helpful", ["not", "partly", "fully"]), ("rude", ["good", "middling", "bad"])):
        buttons = page.get_by_role("group", name=name).get_by_role("button").all()
        said = [button.inner_text() for button in buttons]
        assert all(word in text for word, text in zip(words, said, strict=True)), said


@pytest.mark.parametrize("width", [1024, 1280, 1920])
def test_two_answers_have_panes_of_one_size_side_by_side(ground, watch, width):
    short_and_long = ("No.", "A much longer answer. " * 200)
    ground.project("comparison", items=[item("c", 2, responses=short_and_long)])
    ground.person("ada")
    page = ground.open(watch.open(viewport={"width": width, "height": 800}), "ada", "comparison")
    a, b = (pane.bounding_box() for pane in page.locator("#answers .pane").all())
    assert a["width"] == pytest.approx(b["width"], abs=1) and a["height"] == pytest.approx(b["height"], abs=1)
    assert a["y"] == pytest.approx(b["y"], abs=1) and a["x"] + a["width"] < b["x"]
    assert a["width"] > 0.4 * width
