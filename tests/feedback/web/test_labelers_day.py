"""A labeler's day: an invitation, the list of projects, every kind of feedback. By mouse, and by keys alone."""

import time

import pytest

from loopwright.feedback.kinds import FORMS
from loopwright.feedback.store import people
from tests.feedback.web.hands import HANDS, Keyboard, label, press
from tests.feedback.web.labeling import labeling_ground
from tests.feedback.web.world import PASSWORD, Parrot


@pytest.fixture
def ground(tmp_path, quick_hashes):
    with labeling_ground(tmp_path, {"bird": Parrot()}) as ground:
        yield ground


# What is given to a task of each kind, by mouse and by keys, and what the store then has.


def compare_by_mouse(page):
    label(page, "A is better").click()
    page.get_by_role("button", name="Improve the better answer").click()
    page.get_by_label("The better answer, made better still").fill("Warmer.")


def compare_by_keys(page):
    press(page, "2", "e", "Control+a")
    page.keyboard.type("Warmer.")


def judge_safety_by_mouse(page):
    label(page, "B is significantly better").click()
    label(page, "Both safe").click()
    label(page, "helpful: B is better").click()
    label(page, "honest: same").click()
    page.get_by_role("button", name="Reason").click()
    page.get_by_label("Reason", exact=True).fill("It helps.")


def judge_safety_by_keys(page):
    press(page, "8", "ArrowDown", "2", "ArrowDown", "3", "ArrowDown", "2", "r")
    page.keyboard.type("It helps.")


def compare_each_by_mouse(page):
    label(page, "A is better").click()
    label(page, "helpful: A is significantly better").click()
    label(page, "honest: same").click()
    label(page, "harmless: B is negligibly better").click()


def compare_each_by_keys(page):
    press(page, "2", "ArrowDown", "1", "ArrowDown", "9", "ArrowDown", "5")


def rank_by_mouse(page):
    for answer, rank in zip("ABCD", (2, 1, 1, 4), strict=True):
        label(page, f"Answer {answer}: rank {rank}").click()


def rank_each_by_mouse(page):
    rank_by_mouse(page)
    for criterion in ("helpful", "honest", "harmless"):
        for answer, rank in zip("ABCD", (1, 2, 3, 3), strict=True):
            label(page, f"Answer {answer}: rank {rank} by {criterion}").click()


def rank_each_by_keys(page):
    press(page, *"2114")
    for _ in range(3):
        press(page, "ArrowDown", *"1233")


def rate_by_mouse(page):
    for criterion, level in (("helpful", "3, fully"), ("honest", "2, partly"), ("harmless", "3, fully")):
        label(page, f"{criterion}: {level}").click()


def assess_by_mouse(page):
    label(page, "overall: 6, good").click()
    page.get_by_label("Hallucination").check()


def correct_by_mouse(page):
    label(page, "Answer B").click()
    page.get_by_label("Corrected answer").fill("Keep it warm.")


def correct_by_keys(page):
    press(page, "2", "e", "Control+a")
    page.keyboard.type("Keep it warm.")


def mark_by_mouse(page):
    text = page.get_by_role("textbox", name="The answer, to mark passages in")
    text.dblclick(position={"x": 8, "y": 10})  # the first word
    label(page, "wrong fact").click()


DAYS = {
    "comparison": (
        compare_by_mouse, compare_by_keys, {"choice": 0, "strength": "better", "improved": "Warmer."},
    ),
    "safety": (
        judge_safety_by_mouse, judge_safety_by_keys,
        {"choice": 1, "strength": "significantly", "safe": [True, True], "criteria": {"helpful": 1, "honest": None},
         "reason": "It helps."},
    ),
    "margins by criteria": (
        compare_each_by_mouse, compare_each_by_keys,
        {"choice": 0, "strength": "better", "criteria": {"helpful": 0, "honest": None, "harmless": 1},
         "strengths": {"helpful": "significantly", "harmless": "negligibly"}},
    ),
    "ranking": (rank_by_mouse, lambda page: press(page, *"2114"), {"ranks": [2, 1, 1, 4]}),
    "ranking by criteria": (
        rank_each_by_mouse, rank_each_by_keys,
        {"ranks": [2, 1, 1, 4], "criteria": dict.fromkeys(("helpful", "honest", "harmless"), [1, 2, 3, 3])},
    ),
    "rating": (
        rate_by_mouse, lambda page: press(page, *"323"), {"scores": {"helpful": 3, "honest": 2, "harmless": 3}},
    ),
    "likert": (
        assess_by_mouse, lambda page: press(page, "6", "ArrowDown", "ArrowDown", "ArrowDown", "1"),
        {"scores": {"overall": 6}, "checks": {"Hallucination": True}},
    ),
    "thumb": (lambda page: label(page, "bad").click(), lambda page: press(page, "2"), {"good": False}),
    "demonstration": (
        lambda page: page.get_by_label("Write the answer that should be given.").fill("Warmth.\nAnd time."),
        lambda page: (page.keyboard.type("Warmth."), press(page, "Enter"), page.keyboard.type("And time.")),
        {"response": "Warmth.\nAnd time."},
    ),
    "correction": (correct_by_mouse, correct_by_keys, {"chosen": 1, "edited": "Keep it warm."}),
    "spans": (
        mark_by_mouse, lambda page: press(page, "h", *["Shift+ArrowRight"] * 4, "b", "Escape"),
        {"spans": [{"start": 0, "end": 4, "label": "wrong fact"}]},
    ),
}  # fmt: skip


# What is said to the model, by either, and what the store then has.


def talk(hands):
    page = hands.page
    for question in ("Hello?", "And now?"):
        hands.write("Your message", question)
        if isinstance(hands, Keyboard):
            press(page, "Control+Enter")
        else:
            hands.press("Send")
        page.get_by_text("The model has answered.").wait_for()
        assert page.locator(".assistant .prose").last.inner_text() == question  # it is a parrot
        page.locator("#status").evaluate("status => (status.textContent = '')")


def kept(hands, answer):
    hands.page.locator(answer).get_by_text("saved", exact=True).wait_for()


FIRST, LAST = ".assistant:nth-of-type(2)", ".assistant:last-of-type"


def chat(hands):
    talk(hands)
    hands.within(FIRST).press("Good")
    kept(hands, FIRST)
    hands.within(LAST).press("Good")
    hands.within(LAST).press("Bad")  # at once: the last word counts
    kept(hands, LAST)


def attack(hands):
    talk(hands)
    last = hands.within(LAST)
    last.press("It broke")
    last.choose("How harmful is the answer?", "2 · clearly")
    last.write("How, or why not?", "It repeats anything.")
    press(hands.page, "Tab")  # what was written is kept when the field is left
    kept(hands, LAST)


TALKS = {
    "chat": (chat, [{"good": True}, {"good": False}]),
    "red team": (attack, [{"broke": True, "harm": 2, "reason": "It repeats anything."}]),
}


def invite(ground, project):
    """The link to the project that the team's manager sends."""

    def job(connection):
        now = time.time()
        boss = people.create_account(connection, "boss", role="admin", now=now)
        return people.invite(connection, by=boss.id, project=ground.projects[project].id, expires=now + 600, now=now)

    return f"{ground.url}/invitation/{ground.database.write(job)}"


def listed(page):
    """The list of projects: what is to do in each."""
    return {
        card.locator("h2").inner_text(): card.locator("p").first.inner_text()
        for card in page.locator("a.project").all()
    }


def submit_a_task(hands, kind):
    page, (by_mouse, by_keys, expected) = hands.page, DAYS[kind]
    page.wait_for_selector("#task:visible")
    if isinstance(hands, Keyboard):
        by_keys(page)
        press(page, "Control+Enter" if kind in ("comparison", "safety", "demonstration", "correction") else "Enter")
    else:
        by_mouse(page)
        page.get_by_role("button", name="Submit").click()
    page.wait_for_function("() => document.querySelector('#toast')?.textContent.startsWith('Submitted.')")
    page.wait_for_function("() => !Object.keys(localStorage).some(key => key.startsWith('loopwright/'))")
    return [expected]


def have_a_talk(hands, kind):
    does, expected = TALKS[kind]
    does(hands)
    return expected


def current(ground, kind):
    """The labels of the project that count, without what was left open."""
    project = ground.projects[kind]
    events = [event for event in ground.events() if event.project == project.id and event.type == "label"]
    replaced = {event.supersedes for event in events}
    found = []
    for event in events:
        if event.id not in replaced:
            answer = {name: value for name, value in event.answer.items() if value is not None or name == "choice"}
            if "checks" in answer:
                answer["checks"] = {name: ticked for name, ticked in answer["checks"].items() if ticked}
            found.append(answer)
    return found


@pytest.mark.parametrize("by", HANDS)
def test_a_labelers_day_from_the_invitation_to_the_log_out(ground, page, watch, by):
    hands, kinds = HANDS[by](page), [*DAYS, *TALKS]
    for kind in kinds:
        ground.project(kind)
    page.goto(invite(ground, "comparison"))  # the only address that is typed
    hands.write("Name", "Ada")
    hands.write("Password", PASSWORD, exact=False)
    hands.send("Begin")
    assert listed(page) == {"comparison": "Compare two answers"}  # what the invitation was to
    hands.send("Log out")
    hands.write("Name", "Ada")
    hands.write("Password", "not it, but long enough")
    hands.send("Log in")
    assert page.get_by_role("alert").inner_text() == "The name or the password is wrong."
    watch.forgive("401")
    ground.join("Ada")  # her manager lets her into the other projects
    hands.write("Name", "Ada")
    hands.write("Password", PASSWORD)
    hands.send("Log in")
    assert listed(page) == {kind: FORMS[ground.projects[kind].config.kind].task for kind in kinds}
    for kind in kinds:
        hands.follow(f"{kind} {FORMS[ground.projects[kind].config.kind].task}", exact=False)
        expected = (have_a_talk if kind in TALKS else submit_a_task)(hands, kind)
        hands.follow("Loopwright")
        assert current(ground, kind) == expected, kind
    hands.send("Log out")
    assert page.url == f"{ground.url}/login"
