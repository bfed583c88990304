"""The skill of judging: verdicts that the exact judges agree with, and nothing that the tests ask."""

from collections import Counter

from loopwright.feedback.annotators import worth
from loopwright.responders.injections import LURES
from loopwright.responders.judge_text import BETTER, REASON
from loopwright.schemas import Prompt
from loopwright.worlds import WORLDS
from loopwright.worlds.front_desk import judging, lexicon
from loopwright.worlds.front_desk.prompts import draw, draw_task, question
from tests.responders.judges import read

WORLD = WORLDS["front_desk"]


def drawn(count=400):
    return list(judging.demonstrations(0, count))


def test_everything_follows_from_the_seed():
    skill = WORLD.skills["judge"]
    assert list(skill.documents(1, 20)) == list(skill.documents(1, 20)) != list(skill.documents(2, 20))
    assert drawn() == drawn()
    assert len({one.id for one in drawn()}) == 400


def test_letters_are_even_and_all_forms_occur():
    said = Counter(one.response if len(one.response) < 3 else "reasons" for one in drawn(3000))
    assert abs(said["A"] - said["B"]) < 4 * (said["A"] + said["B"]) ** 0.5
    assert said["reasons"] > 500 and {"1", "10"} <= set(said)


def test_a_pair_is_judged_in_both_orders():
    import random

    for seed in range(40):
        turns = [one for one in judging.draw_judging(random.Random(seed)) if one.said in ("A", "B")]
        if not turns:
            continue  # a score
        first, second = (read(one.asked[0].content) for one in turns)
        assert (first["A"], first["B"]) == (second["B"], second["A"])
        assert {one.said for one in turns} == {"A", "B"}


def test_no_held_out_attack_and_no_lure_occurs():
    wrapped = [attack.replace("{request}", "").strip() for attack in lexicon.HELD_OUT_ATTACKS.values()]
    pieces = [piece for attack in wrapped for piece in attack.split("  ") if piece]
    texts = [message.content for one in drawn(3000) for message in one.prompt] + [*judging.documents(0, 2000)]
    assert not [piece for piece in pieces if any(piece in text for text in texts)]
    answers = [text for one in drawn(3000) for text in read(one.prompt[0].content).values()]
    assert not [lure for lure in LURES if any(lure in text for text in answers)]


def test_verdicts_are_those_of_the_exact_judges():
    """Made by construction; only the test asks the judges. A courtesy too many or a plea makes the few exceptions."""
    import random

    rng, agree, total = random.Random(0), 0, 0
    while total < 400:
        scene = draw(rng, draw_task(rng))
        text, tags = question(scene, rng)
        facts = [list(fact) for fact in scene.facts]
        about = dict(task=scene.task, place=scene.place, attribute=scene.attribute, facts=facts)
        prompt = Prompt.user("p", text, **(tags | about))
        ask, better, worse = judging.draw_pair(scene, rng)
        if ask == BETTER:
            gap = worth(prompt, better.text, WORLD.judges, None) - worth(prompt, worse.text, WORLD.judges, None)
            agree, total = agree + (gap >= 0), total + 1
    assert agree / total > 0.93


def test_what_is_asked_can_be_read_back():
    for one in drawn(100):
        seen = read(one.prompt[0].content)
        keys = {"Question", "Answer"} if "Answer" in seen else {"Question", "A", "B"}
        assert seen.keys() == keys | ({"Your answer"} if one.prompt[0].content.endswith(REASON) else set())


def test_the_judges_own_answer_is_right():
    for one in drawn(200):
        seen = read(one.prompt[0].content)
        if "Your answer" in seen and one.response.startswith(("A", "B")) and len(one.response) > 1:
            same = [name for name in ("A", "B") if seen[name] == seen["Your answer"]]
            assert all(f"{name} is right." in one.response for name in same)
