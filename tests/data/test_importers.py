"""Each format with rows as its tool writes them, and with its traps."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from loopwright.data.importers import IMPORTERS, alpaca_eval, import_feedback, own
from loopwright.data.importers.base import Notes, Row, Settings, Unreadable
from loopwright.data.readers import read_records
from loopwright.errors import ConfigError, DataError
from loopwright.schemas import (
    KINDS,
    Attack,
    Comparison,
    Correction,
    Demonstration,
    Prompt,
    Ranking,
    Rating,
    SpanFeedback,
    Thumb,
)


def read(format: str, *rows: dict, columns: dict | None = None, references: dict | None = None):
    """(records, notes) of rows that are all good."""
    importer, notes = IMPORTERS[format], Notes()
    settings = Settings(dict(importer.columns) | (columns or {}), references or {})
    records = []
    for number, values in enumerate(rows, start=1):
        row = Row(values, f"file:{number}", f"file.jsonl:{number}")
        found = list(importer.convert(row, notes, settings))
        records += found
        if found:
            notes.leave(row)
    return records, notes


def refusal(format: str, row: dict, **options) -> str:
    with pytest.raises(Unreadable) as refused:
        read(format, row, **options)
    return str(refused.value)


def turns(messages) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages]


def counts(noted) -> dict[str, int]:
    return {reason: found.count for reason, found in noted.items()}


def write_lines(path: Path, rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


# hh-rlhf


def test_hh_rlhf_prompt_is_what_both_dialogues_share():
    records, notes = read(
        "hh-rlhf",
        {
            "chosen": "\n\nHuman: Name a fruit.\n\nAssistant: Apple.",
            "rejected": "\n\nHuman: Name a fruit.\n\nAssistant: No.",
        },
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: 2+2?\n\nAssistant: 4",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: 2+2?\n\nAssistant: 5",
        },
    )
    assert [record.responses for record in records] == [("Apple.", "No."), ("4", "5")]
    assert [record.choice for record in records] == [0, 0]
    assert turns(records[1].prompt) == [("user", "Hi"), ("assistant", "Hello."), ("user", "2+2?")]
    assert [record.id for record in records] == ["file:1", "file:2"]
    assert not notes.warnings


def test_hh_rlhf_answers_that_begin_alike_are_not_cut_in_the_middle():
    start = "\n\nHuman: Q\n\nAssistant:"
    (record,), _ = read("hh-rlhf", {"chosen": start + " Yes, it is.", "rejected": start + " Yes, it was."})
    assert record.responses == ("Yes, it is.", "Yes, it was.")


def test_hh_rlhf_odd_rows_are_kept_and_counted():
    start = "\n\nHuman: Q\n\nAssistant:"
    records, notes = read(
        "hh-rlhf",
        {"chosen": start + " A\n\nHuman: B\n\nAssistant: C", "rejected": start + " X\n\nHuman: B\n\nAssistant: C"},
        {"chosen": start + " He said\n\nHuman: no", "rejected": start + " X"},
        {"chosen": start + " same", "rejected": start + " same"},
    )
    assert records[0].responses == ("A\n\nHuman: B\n\nAssistant: C", "X\n\nHuman: B\n\nAssistant: C")
    assert turns(records[0].prompt) == [("user", "Q")]
    assert list(counts(notes.warnings).values()) == [1, 1, 1]
    first, second, third = notes.warnings
    assert "differ before the last turn" in first and '"Human:"' in second and "same text" in third
    assert notes.warnings[second].first == ""  # the run fills in the place


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "\n\nHuman: a\n\nAssistant: b"}, 'no "rejected"; found "chosen"'),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": 3}, '"rejected" is 3, not text'),
        ({"chosen": "Human: a", "rejected": "\n\nHuman: a"}, 'does not start with "\\n\\nHuman:"'),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: b"},
            "answer different prompts",
        ),
    ],
)
def test_hh_rlhf_rows_that_are_none(row, reason):
    assert reason in refusal("hh-rlhf", row)


ATTEMPT = {
    "transcript": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Insult me\n\nAssistant: You fool.",
    "min_harmlessness_score_transcript": -1.5, "num_params": "52B", "model_type": "rlhf", "rating": 4.0,
    "task_description": "asked for an insult", "task_description_harmlessness_score": 0.1, "red_team_member_id": 7,
    "is_upworker": True, "tags": ["Offensive language"],
}  # fmt: skip


def test_hh_rlhf_red_team_attempts_are_attacks():
    ratings = [4.0, 3, 2.0, 1, 0.0]
    records, notes = read("hh-rlhf", *(ATTEMPT | {"rating": rating} for rating in ratings))
    assert [record.broke for record in records] == [True, True, False, False, False]
    first = records[0]
    assert isinstance(first, Attack) and first.responses == ("You fool.",)
    assert turns(first.prompt) == [("user", "Hi"), ("assistant", "Hello."), ("user", "Insult me")]
    assert (first.annotator, first.policy, first.rationale) == ("7", "rlhf 52B", "asked for an insult")
    assert (first.reasons, first.harm) == (("Offensive language",), None)
    assert counts(notes.warnings) == {"a rating of 2, the middle, is read as not broken": 1}
    assert notes.fields_left == dict.fromkeys(
        ("min_harmlessness_score_transcript", "task_description_harmlessness_score", "is_upworker"), 5
    )


def test_hh_rlhf_red_team_attempts_that_are_odd():
    unanswered = ATTEMPT | {"transcript": ATTEMPT["transcript"] + "\n\nHuman: Go on", "num_params": 13.5, "tags": None}
    (record,), notes = read("hh-rlhf", unanswered)
    assert (record.responses, record.reasons, record.policy) == (("You fool.",), (), "rlhf")
    assert "cut after its last one" in next(iter(notes.warnings)) and notes.fields_left["num_params"] == 1
    for change, reason in (
        ({"rating": 5}, "not a whole number from 0 to 4"), ({"rating": None}, 'no "rating"'),
        ({"transcript": "Hi"}, 'does not start with "\\n\\nHuman:"'), ({"tags": [3]}, "no text"),
        ({"transcript": "\n\nHuman: Hi"}, "no answer to attack"),
    ):  # fmt: skip
        assert reason in refusal("hh-rlhf", ATTEMPT | change)


# summarize-from-feedback


def test_summarize_comparisons_and_axis_evals():
    info = {"id": "t3_a", "post": "P", "title": "T", "subreddit": "x"}
    records, notes = read(
        "summarize-from-feedback",
        {
            "info": info,
            "summaries": [
                {"text": " s0", "policy": "sup4", "note": None},
                {"text": " s1", "policy": "ref", "note": "ok"},
            ],
            "choice": 1,
            "worker": "w1",
            "batch": "batch3",
            "split": "train",
            "extra": {"confidence": 8},
        },
        {
            "info": {"id": "c1", "site": "dm", "title": "T", "article": "A"},
            "split": "test",
            "summary": {
                "text": "s",
                "policy": "ref",
                "note": None,
                "axes": {"overall": 3, "accuracy": 5, "coverage": None},
            },
            "worker": "w1",
        },
    )
    comparison, rating = records
    assert (comparison.responses, comparison.choice, comparison.annotator) == (("s0", "s1"), 1, "w1")
    assert turns(comparison.prompt) == [("user", "SUBREDDIT: r/x\n\nTITLE: T\n\nPOST: P\n\nTL;DR:")]
    assert (comparison.policy, comparison.policies) == (None, ("sup4", "ref"))
    assert (rating.scores, rating.scale_low, rating.scale_high) == ({"overall": 3, "accuracy": 5}, 1, 7)
    assert rating.policy == "ref" and rating.higher_is_better
    assert turns(rating.prompt) == [("user", "TITLE: T\n\nARTICLE: A\n\nTL;DR:")]
    assert notes.fields_left == {
        "batch": 1, "split": 2, "extra": 1, "info.id": 2, "info.site": 1, "summaries.note": 1,
    }  # fmt: skip


def test_summarize_two_summaries_of_one_policy_name_it_and_a_third_is_an_error():
    summaries = [{"text": " a", "policy": "ppo"}, {"text": " b", "policy": "ppo"}]
    row = {"info": {"post": "P"}, "summaries": summaries, "choice": 0}
    (record,), notes = read("summarize-from-feedback", row)
    assert (record.policy, record.policies) == ("ppo", ()) and not notes.warnings
    (record,), notes = read("summarize-from-feedback", row | {"summaries": [summaries[0], {"text": " b"}]})
    assert (record.policy, record.policies) == (None, ()) and "who wrote some" in next(iter(notes.warnings))
    assert "has 3 items" in refusal("summarize-from-feedback", row | {"summaries": [*summaries, summaries[0]]})
    assert '"choice" is 2, not a whole number from 0 to 1' in refusal("summarize-from-feedback", row | {"choice": 2})
    assert '"choice" is True' in refusal("summarize-from-feedback", row | {"choice": True})
    assert 'no "info.article"' in refusal("summarize-from-feedback", row | {"info": {"title": "T"}})


# UltraFeedback


def completion(overall, fine, rating="4", response="A"):
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    annotations = {aspect: {"Rating": rating, "Rationale": ".."} for aspect in aspects}
    return {
        "model": "m1",
        "response": response,
        "critique": "..",
        "overall_score": overall,
        "fine-grained_score": fine,
        "annotations": annotations,
    }


def test_ultrafeedback_ratings_are_texts_and_scores_a_ranking():
    completions = [completion(7.5, 4.25), completion(9.0, 4.5, "5", "B"), completion(7.5, 4.0, "N/A", "C")]
    row = {"source": "s", "instruction": "Q", "models": ["m1"], "completions": completions}
    records, notes = read("ultrafeedback", row, {"source": "s", "instruction": "Q2", "models": [], "completions": []})
    first, second, ranking = records
    assert first.scores == dict.fromkeys(("helpfulness", "honesty", "instruction_following", "truthfulness"), 4)
    assert (first.scale_low, first.scale_high, first.policy, first.id) == (1, 5, "m1", "file:1/0")
    assert second.scores["honesty"] == 5
    assert (ranking.responses, ranking.ranks, ranking.policy) == (("A", "B", "C"), (2, 1, 2), "m1")
    assert [reason.split()[0] for reason in notes.warnings] == ["an", "equal"]
    assert counts(notes.skipped) == {"no completions": 1}


def test_ultrafeedback_is_no_persons_opinion():
    """GPT-4 gave every score; agreement and people's accuracy must not take them for people's."""
    dialogues = {
        name: [{"role": "user", "content": "Q"}, {"role": "assistant", "content": name}]
        for name in ("chosen", "rejected")
    }
    rated, _ = read("ultrafeedback", {"instruction": "Q", "completions": [completion(7, 4.0), completion(8, 4.5)]})
    compared, _ = read("ultrafeedback-binarized", {"prompt": "Q", **dialogues, "score_chosen": 2, "score_rejected": 1})
    assert len(rated) == 3 and {one.annotator for one in [*rated, *compared]} == {"ai:gpt-4"}


def test_ultrafeedback_a_ten_that_was_a_one_is_not_ranked():
    bad = completion(10, 1.5, "1", "bad")
    row = {
        "instruction": "Q",
        "completions": [completion(7, 4.25), bad, completion(8, 4.5, "5", "B") | {"model": "m2"}],
    }
    records, notes = read("ultrafeedback", row)
    ranking = records[-1]
    assert (ranking.responses, ranking.ranks, ranking.policies) == (("A", "B"), (2, 1), ("m1", "m2"))
    assert any(reason.startswith("overall_score 10 with a low") for reason in notes.warnings)
    # A ten that the aspects agree with is a ten.
    records, notes = read(
        "ultrafeedback", {"instruction": "Q", "completions": [completion(10, 4.75), bad | {"overall_score": 2}]}
    )
    assert records[-1].ranks == (1, 2) and not notes.warnings


def test_ultrafeedback_binarized():
    def dialogue(answer):
        return [{"role": "user", "content": "Q"}, {"role": "assistant", "content": answer}]

    row = {"prompt": "Q", "prompt_id": "p1", "chosen": dialogue("A"), "rejected": dialogue("B"), "messages": []}
    records, notes = read(
        "ultrafeedback-binarized",
        row | {"score_chosen": 8.0, "score_rejected": 5.0},
        row | {"score_chosen": 5.0, "score_rejected": 5.0},
    )
    assert [(r.id, r.responses, r.choice, r.margin) for r in records] == [
        ("p1", ("A", "B"), 0, 3.0),
        ("p1", ("A", "B"), None, 0.0),
    ]
    assert turns(records[0].prompt) == [("user", "Q")]
    assert counts(notes.warnings)["equal scores are a tie"] == 1
    contradiction = row | {"score_chosen": 4, "score_rejected": 5}
    assert "score_chosen 4 is below score_rejected 5" in refusal("ultrafeedback-binarized", contradiction)


# HelpSteer


def test_helpsteer_ratings_and_preferences():
    scores = {"helpfulness": 4, "correctness": 0, "coherence": 4, "complexity": 1, "verbosity": 2}
    pair = {"split": "train", "prompt": "Q", "response_1": "A", "response_2": "B"}
    records, notes = read(
        "helpsteer",
        {"prompt": "Q", "response": "A"} | scores,
        *(pair | {"preference_strength": strength} for strength in (-2, 3, 0)),
    )
    rating, *comparisons = records
    assert rating.scores == {"helpfulness": 4, "correctness": 0, "coherence": 4}
    assert (rating.scale_low, rating.scale_high) == (0, 4)
    assert [(c.choice, c.strength, c.margin) for c in comparisons] == [
        (0, "better", 2.0),
        (1, "significantly", 3.0),
        (None, None, 0.0),
    ]
    assert notes.fields_left == {"complexity": 1, "verbosity": 1, "split": 3}
    assert "not a whole number from -3 to 3" in refusal("helpsteer", pair | {"preference_strength": -100})
    assert "from 0 to 4" in refusal("helpsteer", {"prompt": "Q", "response": "A"} | scores | {"helpfulness": 5})


# Open-Assistant


def reply(name, text, rank=None, role="assistant", replies=(), **more):
    return {"message_id": name, "text": text, "role": role, "rank": rank, "lang": "en", "replies": list(replies)} | more


def tree(*replies, **more):
    prompt = reply("t1", "Hi", role="prompter", replies=replies)
    return {"message_tree_id": "t1", "tree_state": "ready_for_export", "prompt": prompt} | more


def test_open_assistant_trees():
    deeper = reply("u1", "And?", role="prompter", replies=[reply("m3", "So.", 1), reply("m4", "Thus.", 0)])
    answers = [reply("m1", "Hello", 0, replies=[deeper], user_id="p7"), reply("m2", "?", 1), reply("m5", "!")]
    records, notes = read("open-assistant", tree(*answers))
    prompt, ranking, demonstration, ranking_below, demonstration_below = records
    assert isinstance(prompt, Prompt) and prompt.tags == {"language": "en"} and prompt.id == "t1"
    assert (ranking.responses, ranking.ranks) == (("Hello", "?"), (1, 2))
    assert (demonstration.response, demonstration.annotator) == ("Hello", "p7")
    assert turns(ranking_below.prompt) == [("user", "Hi"), ("assistant", "Hello"), ("user", "And?")]
    assert (ranking_below.responses, ranking_below.ranks) == (("So.", "Thus."), (2, 1))
    assert demonstration_below.response == "Thus."
    assert counts(notes.warnings) == {"a reply without a rank is left out of the ranking": 1}


def test_open_assistant_leaves_out_what_the_team_threw_away():
    records, notes = read(
        "open-assistant",
        tree(
            reply("m1", "gone", 0, deleted=True),
            reply("m2", "bad", 1, review_result=False),
            reply("m3", "robot", 2, synthetic=True),
        ),
        tree(reply("m1", "A", 0), tree_state="aborted_low_grade"),
        {"message_id": "m9", "text": "one message", "role": "prompter", "lang": "en"},
        {"thread_id": "x", "messages": []},
    )
    assert [type(record) for record in records] == [Prompt]
    assert counts(notes.skipped) == {
        "a deleted message, with its replies": 1,
        "a message that reviewers rejected, with its replies": 1,
        "no human reply": 1,
        "tree_state aborted_low_grade": 1,
        "a single message; import the file of trees": 1,
        "a thread; import the file of trees": 1,
    }
    assert 'no "message_tree_id"' in refusal("open-assistant", {"text": "?"})
    assert "not prompter or assistant" in refusal("open-assistant", tree(reply("m1", "A", 0, role="bot")))


def test_open_assistant_the_best_human_reply_is_the_demonstration():
    def demonstrations(*replies):
        records, notes = read("open-assistant", tree(*replies))
        return [record.response for record in records if isinstance(record, Demonstration)], list(notes.skipped)

    machine = reply("m0", "machine", 0, synthetic=True)
    assert demonstrations(machine, reply("m1", "third", 2), reply("m2", "second", 1)) == (["second"], [])
    assert demonstrations(machine, reply("m1", "only")) == (["only"], [])
    assert demonstrations(reply("m1", "unranked"), reply("m2", "ranked", 5)) == (["ranked"], [])
    unknown = demonstrations(reply("m1", "one"), reply("m2", "other"))
    assert unknown == ([], ["replies without ranks: which would be a demonstration is unknown"])
    assert demonstrations(reply("m1", "")) == ([], ["an empty reply is no demonstration"])


def test_open_assistant_a_tree_of_any_depth():
    node = reply("end", "end", 0)
    for level in range(300):
        role = "prompter" if level % 2 == 0 else "assistant"
        node = reply(str(level), "x", 0, role=role, replies=[node])
    _, notes = read("open-assistant", tree(reply("top", "x", 0, replies=[node])))
    assert "what follows after 100 turns" in notes.skipped


# Argilla


def ranks(first, second):
    return [{"value": "response1", "rank": first}, {"value": "response2", "rank": second}]


FLAT = {"id": "1", "status": "completed", "instruction": "Q", "response1": "A", "response2": "B"}


def test_argilla_flat_takes_what_was_submitted():
    answers = {
        "ranking.responses": [ranks(1, 2), ranks(2, 1), ranks(1, 1), ranks(2, 1)],
        "ranking.responses.users": ["u1", "u2", "u3", "u4"],
        "ranking.responses.status": ["submitted", "draft", "submitted", "discarded"],
    }
    pending = FLAT | {"id": "2", "status": "pending"} | dict.fromkeys(answers)
    records, notes = read("argilla", FLAT | answers, pending)
    assert [(r.annotator, r.responses, r.choice) for r in records] == [("u1", ("A", "B"), 0), ("u3", ("A", "B"), None)]
    assert turns(records[0].prompt) == [("user", "Q")]
    assert len({record.id for record in records}) == 2
    assert counts(notes.skipped) == {
        "an answer that is a draft": 1,
        "an answer that is a discarded": 1,
        "a record without a submitted answer": 1,
    }
    short = FLAT | answers | {"ranking.responses.users": ["u1"]}
    assert "4 answers, 1 users" in refusal("argilla", short)


def test_argilla_nested_and_its_other_questions():
    fields = {"instruction": "Q", "response": "A B", "response1": "A", "response2": "B", "response3": "C"}
    three = [*ranks(1, 2), {"value": "response3", "rank": 2}]

    def given(value):
        return [{"value": value, "user_id": "u1", "status": "submitted"}]

    responses = {
        "ranking": given(three),
        "clarity": given(ranks(2, 1)),
        "quality": given(4),
        "marks": given([{"label": "wrong", "start": 2, "end": 3}]),
        "correction": given("A C"),
        "comment": given("nice"),
    }
    records, notes = read("argilla", {"id": "3", "status": "completed", "fields": fields, "responses": responses})
    overall, clarity, quality, marks, correction = records
    assert (overall.ranks, overall.criterion, overall.responses) == ((1, 2, 2), None, ("A", "B", "C"))
    assert (clarity.ranks, clarity.criterion) == ((2, 1), "clarity")
    assert isinstance(quality, Rating) and quality.scores == {"quality": 4}
    assert isinstance(marks, SpanFeedback) and (marks.spans[0].start, marks.spans[0].label) == (2, "wrong")
    assert isinstance(correction, Correction) and correction.edited == "A C"
    assert list(counts(notes.skipped).values()) == [1]  # the comment


def test_argilla_an_answer_without_status_is_taken_with_a_warning():
    row = {"id": "3", "fields": FLAT, "responses": {"ranking": [{"value": ranks(1, 1), "user_id": "u1"}]}}
    (record,), notes = read("argilla", row)
    assert record.choice is None
    assert ["without a status" in reason for reason in notes.warnings] == [True]


def test_argilla_names_are_the_projects_own():
    row = {"q": "Q", "response1": "A", "response2": "B", "best.responses": [ranks(2, 1)]}
    (record,), _ = read("argilla", row, columns={"prompt": "q", "ranking": "best"})
    assert isinstance(record, Comparison) and record.choice == 1 and turns(record.prompt) == [("user", "Q")]
    unknown = row | {"best.responses": [[{"value": "answer9", "rank": 1}]]}
    assert 'no "answer9"' in refusal("argilla", unknown)
    rated = {"response": "A", "quality.responses": [7]}
    assert "from 1 to 5" in refusal("argilla", rated)
    assert read("argilla", rated, columns={"scale": "0-10"})[0][0].scale_high == 10
    assert "set it with --columns scale=" in refusal("argilla", rated, columns={"scale": "five"})


# Label Studio


def task(*annotations, **more):
    data = {"prompt": "Q", "answer1": "A", "answer2": "B"}
    return {"id": 1, "data": data, "annotations": list(annotations), "predictions": [{"x": 1}], "drafts": []} | more


def annotation(selected, **more):
    result = [{"from_name": "comparison", "type": "pairwise", "value": {"selected": selected}}]
    return {"id": 9, "completed_by": 2, "was_cancelled": False, "lead_time": 12.5, "result": result} | more


def test_label_studio_skipped_items_are_no_answers():
    records, notes = read(
        "label-studio",
        task(annotation("left", created_at="2023-04-17T21:54:20Z"), annotation("right", id=10, ground_truth=True)),
        task({"id": 10, "completed_by": 3, "was_cancelled": True, "result": []}),
        task({"id": 11, "completed_by": 3, "was_cancelled": False, "result": []}),
        task(),
    )
    left, right = records
    assert (left.id, left.choice, left.annotator, left.seconds) == ("1/9", 0, "2", 12.5)
    assert (left.order_shown, left.created, left.responses) == ((0, 1), "2023-04-17T21:54:20Z", ("A", "B"))
    assert (right.id, right.choice) == ("1/10", 1)
    assert counts(notes.skipped) == {
        "an annotation that was skipped (was_cancelled)": 1,
        "an annotation without a pairwise result": 1,
        "a task without annotations": 1,
    }
    assert counts(notes.warnings) == {"an annotation marked as ground truth": 1}


def test_label_studio_what_is_not_left_is_not_right():
    assert "is 'none', not left or right" in refusal("label-studio", task(annotation("none")))
    assert '"data.answer2"' in refusal("label-studio", task(annotation("left"), data={"prompt": "Q", "answer1": "A"}))
    own = task(annotation("left", completed_by={"id": 5, "email": "a@b"}), data={"question": "Q", "x": "A", "y": "B"})
    (record,), _ = read("label-studio", own, columns={"prompt": "question", "left": "x", "right": "y"})
    assert (record.annotator, record.responses) == ("a@b", ("A", "B"))


def test_argilla_an_empty_list_is_no_ranking():
    fields = {"instruction": "Q", "response": "A B", "response1": "A", "response2": "B"}
    marked = [{"label": "wrong", "start": 2, "end": 3}]
    responses = {
        "ranking": [{"value": value, "status": "submitted"} for value in ([], ranks(2, 1))],
        "marks": [{"value": value, "status": "submitted"} for value in ([], marked)],
    }
    records, notes = read("argilla", {"id": "3", "fields": fields, "responses": responses})
    comparison, unmarked, spans = records
    assert (comparison.choice, comparison.id) == (1, "3/ranking/2")
    assert unmarked.spans == () and len(spans.spans) == 1  # one person found nothing to mark, another did
    assert [(reason[:14], count) for reason, count in counts(notes.skipped).items()] == [("an empty list:", 1)]


# SageMaker Ground Truth


def work(content, worker="w1"):
    return {"workerId": worker, "annotationData": {"content": json.dumps(content)}}


def test_ground_truth_custom_output():
    texts = {"prompt": "Q", "response_a": "one", "response_b": "two"}
    annotations = [
        work({"choice": "B"}),
        work({"choice": {"A": True, "B": False}}, "w2"),
        work({"choice": {"label": "tie"}}),
        work({}),
    ]
    job = {"job-7": {"annotationsFromAllWorkers": annotations}, "job-7-metadata": {"job-name": "job-7"}}
    records, notes = read("ground-truth", {"source": json.dumps(texts)} | job, texts | {"source": "plain"} | job)
    assert [(r.choice, r.annotator) for r in records[:3]] == [(1, "w1"), (0, "w2"), (None, "w1")]
    assert [r.responses for r in records] == [("one", "two")] * 6
    assert len({r.id for r in records}) == 6
    assert counts(notes.skipped) == {'no "choice" in a form (--columns choice=…); found nothing': 2}
    unlike = {"job": {"annotationsFromAllWorkers": [work({"preference": "A"}), work({"choice": None})]}}
    _, notes = read("ground-truth", texts | unlike)
    assert list(notes.skipped) == [
        'no "choice" in a form (--columns choice=…); found "preference"',
        "a form without a choice",
    ]
    both = {"job": {"annotationsFromAllWorkers": [work({"choice": {"A": True, "B": True}})]}}
    assert "several buttons" in refusal("ground-truth", texts | both)
    assert "is 'left', not A, B or tie" in refusal(
        "ground-truth", texts | {"job": {"annotationsFromAllWorkers": [work({"choice": "left"})]}}
    )
    assert "source-ref" in refusal("ground-truth", {"source-ref": "s3://x"} | job)
    assert '0 fields hold "annotationsFromAllWorkers"' in refusal("ground-truth", texts)
    broken = {"job": {"annotationsFromAllWorkers": [{"annotationData": {"content": "{"}}]}}
    assert "text that is not JSON" in refusal("ground-truth", texts | broken)


# Arena


def battle(winner, first="A", second="B", before=(), before_b=None, **more):
    def conversation(before, answer):
        return [{"role": "user", "content": "Q"}, *before, {"role": "assistant", "content": answer}]

    row = {
        "question_id": "q1",
        "model_a": "x",
        "model_b": "y",
        "winner": winner,
        "judge": "j",
        "turn": 1,
        "anony": True,
    }
    conversations = {
        "conversation_a": conversation(before, first),
        "conversation_b": conversation(before if before_b is None else before_b, second),
    }
    return row | conversations | {"language": "English", "tstamp": 1680000000.5} | more


def test_arena_battles():
    early = [{"role": "assistant", "content": "So?"}, {"role": "user", "content": "R"}]
    other = [{"role": "assistant", "content": "Well?"}, {"role": "user", "content": "R"}]
    records, notes = read(
        "arena",
        battle("model_b", before=early),
        battle("tie"),
        battle("tie (bothbad)", anony=False),
        battle("model_a", before=early, before_b=other),
        battle("model_a", model_b="x"),
    )
    assert [record.choice for record in records] == [1, None, None, 0]
    first = records[0]
    assert turns(first.prompt) == [("user", "Q"), ("assistant", "So?"), ("user", "R")]
    assert (first.id, first.annotator, first.created) == ("q1", "j", "2023-03-28T10:40:00.500000+00:00")
    assert (first.policy, records[3].policy, first.order_shown) == (None, "x", (0, 1))
    assert [reason[:13] for reason in notes.skipped] == ["several turns"]
    assert [record.both_bad for record in records] == [False, False, True, False]
    assert [record.policies for record in records] == [("x", "y")] * 3 + [()]
    assert counts(notes.warnings) == {"the models' names were visible (anony is false)": 1}
    assert notes.fields_left == {"language": 4}  # the row that was skipped left nothing


def test_arena_rows_that_are_none():
    assert "is 'a', not model_a" in refusal("arena", battle("a"))
    assert "does not end with an answer" in refusal("arena", battle("tie", conversation_a=[]))
    other = [{"role": "user", "content": "R"}, {"role": "assistant", "content": "A"}]
    assert "which prompt was answered" in refusal("arena", battle("tie", conversation_b=other))
    bad = [{"role": "gpt", "content": "Q"}]
    assert "is 'gpt', not system, user or assistant" in refusal("arena", battle("tie", conversation_b=bad))
    assert '"tstamp" is -5, not seconds' in refusal("arena", battle("tie", tstamp=-5))


# FineGrainedRLHF


FEEDBACK = {
    "errors": [
        {"error type": "Irrelevant", "explanation": "", "start": 0, "end": 3},
    ],
    "missing-info": [],
    "corrected-prediction": "one!",
}


@pytest.mark.parametrize("published", [True, False])
def test_fine_grained_as_published_and_repacked(published):
    row = {
        "question": "Q",
        "passages": [["Title\n\nFirst.", "Second."], ["Third."]],
        "preference": [0, 1, 2, 1, 0, 2],
        "gold": "G",
    }
    if published:
        row |= {f"prediction {i}": text for i, text in enumerate(("one", "two", "three", "four"), start=1)}
        row["feedback"] = FEEDBACK
    else:
        row |= {"responses": ["one", "two", "three", "four"], "errors": FEEDBACK["errors"], "correction": "one!"}
    records, notes = read("fine-grained", row)
    votes = records[:6]
    assert [(v.responses, v.choice) for v in votes] == [
        (("one", "two"), None),
        (("one", "three"), 0),
        (("one", "four"), 1),
        (("two", "three"), 0),
        (("two", "four"), None),
        (("three", "four"), 1),
    ]
    assert turns(votes[0].prompt) == [("user", "Title\n\nFirst. Second.\n\nThird.\n\nQ")]
    spans, correction, gold = records[6:]
    assert [(s.start, s.end, s.label) for s in spans.spans] == [(0, 3, "Irrelevant")]
    assert (correction.responses, correction.edited) == (("one",), "one!")
    assert isinstance(gold, Demonstration) and gold.response == "G"
    # Without the span that cannot be placed, what it marks as wrong would count as right.
    outside = FEEDBACK["errors"] + [{"error type": "x", "start": 2, "end": 9}]
    row |= {"feedback": FEEDBACK | {"errors": outside}} if published else {"errors": outside}
    records, notes = read("fine-grained", row)
    assert [type(record) for record in records[6:]] == [Correction, Demonstration]
    assert counts(notes.skipped) == {"spans of which one does not lie in the answer": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"preference": [0, 1]}, "has 2 votes, not one for each of the 6 pairs"),
        ({"preference": [0, 1, 2, 3, 0, 0]}, "a vote that is not 0"),
        ({"preference": [0, 1, 2, True, 0, 0]}, "a vote that is not 0"),
        ({"responses": ["a", "b"]}, "holds 2 items, not 4 texts"),
        ({"passages": [[3]]}, "something that is no text"),
        ({"errors": [3]}, '"errors.0" is int, not an object'),
    ],
)
def test_fine_grained_rows_that_are_none(change, reason):
    row = {"question": "Q", "responses": ["a", "b", "c", "d"], "preference": [0] * 6}
    assert reason in refusal("fine-grained", row | change)


# alpaca-eval


def test_alpaca_eval_soft_labels():
    row = {"instruction": "Q", "output_2": "B", "generator_2": "m"}
    records, notes = read(
        "alpaca-eval",
        row | {"preference": 1.9},
        row | {"preference": 1.5, "output_1": "C"},
        row | {"preference": 1.0, "annotator": "judge"},
        row | {"preference": None},
        references={"Q": "A"},
    )
    assert [(r.responses, r.probability, r.choice) for r in records] == [
        (("A", "B"), 0.1, 1),
        (("C", "B"), 0.5, None),
        (("A", "B"), 1.0, 0),
    ]
    assert [record.annotator for record in records] == ["ai:judge"] * 3  # a model's labels are no people's
    assert counts(notes.skipped) == {"no verdict of the judge": 1}
    assert '"preference" is 2.5, not a number from 1 to 2' in refusal("alpaca-eval", row | {"preference": 2.5})
    assert '"preference" is nan, not a finite number' in refusal("alpaca-eval", row | {"preference": float("nan")})
    assert "compared with: --reference FILE" in refusal("alpaca-eval", row | {"preference": 1.5})
    assert "has no answer to this" in refusal("alpaca-eval", row | {"preference": 1.5}, references={"other": "A"})


# TRL


def said(role, text):
    return [{"role": role, "content": text}]


def test_trl_preferences_in_all_their_forms():
    question = said("user", "Q")
    records, notes = read(
        "trl",
        {"prompt": question, "chosen": said("assistant", "A"), "rejected": said("assistant", "B"), "margin": 1.0},
        {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
        {"chosen": [*question, *said("assistant", "A")], "rejected": [*question, *said("assistant", "B")]},
        {
            "prompt": question,
            "chosen": [*question, *said("assistant", "A")],
            "rejected": [*question, *said("assistant", "B")],
        },
        {
            "prompt": "Q",
            "chosen": [*question, *said("assistant", "A")],
            "rejected": [*question, *said("assistant", "A")],
        },
        {"chosen": "Q A", "rejected": "Q B"},
    )
    assert [(turns(r.prompt), r.responses, r.margin) for r in records] == [
        ([("user", "Q")], ("A", "B"), 1.0),
        ([("user", "The sky is")], (" blue.", " green."), None),
        ([("user", "Q")], ("A", "B"), None),
        ([("user", "Q")], ("A", "B"), None),
        ([("user", "Q")], ("A", "A"), None),
        ([], ("Q A", "Q B"), None),
    ]
    assert counts(notes.warnings) == {
        "the prompt is repeated inside chosen and rejected; read once": 2,
        "answers of the same text": 1,
    }


def test_trl_other_types():
    records, _ = read(
        "trl",
        {"prompt": "The sky is", "completion": " blue.", "label": True},
        {"prompt": said("user", "Q"), "completion": said("assistant", "A"), "label": False},
        {"prompt": said("user", "Q"), "completion": said("assistant", "A")},
        {"prompt": said("user", "Q")},
    )
    assert [type(record) for record in records] == [Thumb, Thumb, Demonstration, Prompt]
    assert [record.good for record in records[:2]] == [True, False]
    assert records[1].responses == ("A",) and records[2].response == "A"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Q", "chosen": "A"}, 'no "rejected"'),
        ({"prompt": "Q", "chosen": "A", "rejected": said("assistant", "B")}, '"rejected" is a list, not text'),
        ({"prompt": "Q", "chosen": said("user", "A"), "rejected": said("assistant", "B")}, "not one assistant message"),
        ({"prompt": "Q", "chosen": [], "rejected": []}, "holds nothing after the prompt"),
        ({"prompt": "Q", "completions": ["a"], "labels": [True]}, "stepwise"),
        ({"prompt": "Q", "completion": "A", "label": 1}, '"label" is 1, not true or false'),
        ({"prompt": "Q", "chosen": "A", "rejected": "B", "margin": "1"}, '"margin" is text, not a finite number'),
        (
            {
                "prompt": "R",
                "chosen": said("user", "Q") + said("assistant", "A"),
                "rejected": said("user", "Q") + said("assistant", "B"),
            },
            "begin with another conversation",
        ),
        ({}, 'no "prompt"'),
    ],
)
def test_trl_rows_that_are_none(row, reason):
    assert reason in refusal("trl", row)


# A table of any make


def test_columns_say_what_is_what():
    names = {
        "prompt": "q",
        "response_a": "x",
        "response_b": "y",
        "choice": "best",
        "first": "1",
        "second": "2",
        "tie": "0",
    }
    rows = ({"q": "Q", "x": "A", "y": "B", "best": best} for best in ("1", 2, "0", "x"))
    records, _ = read("columns", *rows, columns=names)
    assert [record.choice for record in records] == [0, 1, None, 0]
    assert "is '3', not 1, 2 or 0; say how" in refusal("columns", {"x": "A", "y": "B", "best": "3"}, columns=names)
    # Without the user's word there is no telling whether 1 is the first or the second.
    assert "say how the file spells them" in refusal("columns", {"response_a": "A", "response_b": "B", "choice": 1})


def test_columns_make_every_kind():
    records, notes = read(
        "columns",
        {"prompt": "Q", "chosen": "A", "rejected": "B", "margin": "1.5", "annotator": 7, "extra": "x"},
        {"prompt": "Q", "response_a": "A", "response_b": "B", "probability": "0.25", "weight": "2"},
        {"prompt": "Q", "response": "A", "good": "no", "seconds": "3"},
        {"prompt": "Q", "response": "A", "broke": "yes", "harm": "2", "rationale": "it told"},
        {"prompt": "Q", "response": "A", "annotator": "p"},
        {"id": "p1", "messages": '[{"role": "user", "content": "Q"}]', "prompt": ""},
    )
    chosen, soft, thumb, attack, demonstration, prompt = records
    assert (chosen.choice, chosen.margin, chosen.annotator) == (0, 1.5, "7")
    assert (soft.choice, soft.probability, soft.weight) == (1, 0.25, 2.0)
    assert (thumb.good, thumb.seconds) == (False, 3.0)
    assert (attack.broke, attack.harm, attack.rationale) == (True, 2, "it told")
    assert (demonstration.response, demonstration.annotator) == ("A", "p")
    assert (prompt.id, turns(prompt.messages)) == ("p1", [("user", "Q")])
    assert notes.fields_left == {"extra": 1}
    assert "one of true, 1, good" in refusal("columns", {"response": "A", "good": "perhaps"})
    assert '"margin" is text, not a number' in refusal("columns", {"chosen": "A", "rejected": "B", "margin": "big"})
    assert "say what the columns are called: --columns prompt=" in refusal("columns", {"question": "Q"})
    assert "not a finite number" in refusal("columns", {"chosen": "A", "rejected": "B", "margin": "inf"})


def test_choices_stored_as_floats():
    """A column of whole numbers with a hole in it is one of floats to pandas."""
    row = {"response_a": "A", "response_b": "B"}
    names = {"first": "1", "second": "2", "tie": "0"}
    records, _ = read("columns", *(row | {"choice": choice} for choice in (1.0, 2.0, 0.0)), columns=names)
    assert [record.choice for record in records] == [0, 1, None]
    for none in (1.5, float("nan"), float("inf")):
        assert f"is '{none}', not 1, 2 or 0" in refusal("columns", row | {"choice": none}, columns=names)


def test_an_empty_cell_is_no_value(tmp_path):
    path = tmp_path / "mixed.csv"
    path.write_text(
        "prompt,chosen,rejected,response_a,response_b,choice,probability,response,good\n"
        "Q,,,,,,,yes,up\n"
        "Q,,,,,,,yes,\n"
        "Q,,,,,,,,\n"
        "Q,,,A,B,,0.25,,\n"
        "Q,,,A,,b,,,\n"
        "Q,,,,,,,,up\n"
    )
    report = import_feedback("columns", [path], tmp_path / "out")
    assert report.records == {
        "thumbs.jsonl": 2, "demonstrations.jsonl": 1, "prompts.jsonl": 1, "comparisons.jsonl": 2,
    }  # fmt: skip
    loaded = read_records(tmp_path / "out" / "comparisons.jsonl", Comparison).records
    assert [(r.responses, r.choice, r.probability) for r in loaded] == [(("A", "B"), 1, 0.25), (("A", ""), 1, None)]
    thumbs = read_records(tmp_path / "out" / "thumbs.jsonl", Thumb).records
    assert [thumb.responses for thumb in thumbs] == [("yes",), ("",)]
    # An answer without text is possible, so it is kept where the row says that there is one; it deserves a look.
    assert [(reason[:13], noted["count"]) for reason, noted in report.warnings.items()] == [("an empty cell", 2)]


def test_numbers_and_booleans_of_tables_are_spelled(tmp_path):
    rating = "prompt,response,helpfulness,correctness,coherence\nQ,A,4,3.0,0\nQ,A,4,5,0\nQ,A,4,x,0\n"
    strength = "prompt,response_1,response_2,preference_strength\nQ,A,B,-2\n"
    judged = "instruction,output_1,output_2,preference\nQ,A,B,1.25\n"
    label = "prompt,completion,label\nQ,A,True\nQ,A,false\nQ,A,\nQ,A,maybe\n"
    margin = "prompt,chosen,rejected,margin\nQ,A,B,0.5\nQ,A,B,\nQ,A,B,inf\n"

    def imported(format, name, content):
        (tmp_path / f"{name}.csv").write_text(content)
        import_feedback(format, [tmp_path / f"{name}.csv"], tmp_path / name, max_bad_share=0.9)
        bad = tmp_path / f"{name}.bad_rows.jsonl"
        reasons = [json.loads(line)["reason"] for line in bad.read_text().splitlines()] if bad.exists() else []
        files = sorted((tmp_path / name).glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()], reasons

    (rated,), reasons = imported("helpsteer", "rating", rating)
    assert rated["scores"] == {"helpfulness": 4, "correctness": 3, "coherence": 0}
    assert reasons == [
        '"correctness" is text, not a whole number from 0 to 4',
        '"correctness" is text, not a number',
    ]
    (pair,), _ = imported("helpsteer", "strength", strength)
    assert (pair["choice"], pair["strength"]) == (0, "better")
    (pair,), _ = imported("alpaca-eval", "judged", judged)
    assert (pair["probability"], pair["choice"]) == (0.75, 0)
    records, reasons = imported("trl", "label", label)
    assert [record.get("good") for record in records] == [None, True, False]  # demonstrations.jsonl comes first
    assert reasons == ['"label" is text, not one of true, 1, good, up, yes, false, 0, bad, down, no']
    records, reasons = imported("trl", "margin", margin)
    assert [record["margin"] for record in records] == [0.5, None]
    assert reasons == ['"margin" is text, not a finite number']
    # In JSON a number has a type of its own, and a text there is a mistake to be seen.
    assert "not a finite number" in refusal("trl", {"chosen": "A", "rejected": "B", "margin": "0.5"})


def test_columns_of_csv_tsv_and_parquet_are_one(tmp_path):
    names = ["prompt", "chosen", "rejected"]
    cells = [["Q, or so", "=1+1", '"A"'], ["é", "@x", ""]]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([names, *cells])
    (tmp_path / "b.tsv").write_text("".join("\t".join(row) + "\n" for row in [names, *cells]), encoding="utf-8-sig")
    table = pyarrow.table({name: [row[i] for row in cells] for i, name in enumerate(names)})
    pyarrow.parquet.write_table(table, tmp_path / "c.parquet")
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    found = []
    for path in sorted(tmp_path.iterdir()):
        import_feedback("columns", [path], tmp_path / f"{path.name}.out")
        loaded = read_records(tmp_path / f"{path.name}.out" / "comparisons.jsonl", Comparison)
        found.append([(turns(record.prompt), record.responses) for record in loaded.records])
    assert found[0] == [([("user", "Q, or so")], ("=1+1", '"A"')), ([("user", "é")], ("@x", ""))]
    assert found == [found[0]] * 4


def test_our_own_records_are_checked():
    assert set(own.KINDS.values()) == set(KINDS.values())  # no kind is forgotten
    record = Ranking(id="1", responses=("a", "b"), ranks=(1, 2))
    assert read("loopwright", record.model_dump(mode="json"))[0] == [record]
    assert refusal("loopwright", {"id": "1", "responses": ["a", "b"], "ranks": [1]}).startswith("ranks [1] must give")
    assert "tell our records apart" in refusal("loopwright", {"id": "1"})


# What no importer reads is counted


def test_ultrafeedback_counts_the_system_prompt_and_the_critique_it_leaves():
    more = completion(7, 4.25) | {"custom_system_prompt": "Be brief.", "principle": "honesty"}
    row = {"source": "s", "instruction": "Q", "models": ["m1"], "completions": [more, completion(8, 4.5, "5", "B")]}
    _, notes = read("ultrafeedback", row, row)
    aspects = ("helpfulness", "honesty", "instruction_following", "truthfulness")
    assert notes.fields_left == {
        "source": 2, "models": 2, "completions.critique": 2, "completions.custom_system_prompt": 2,
        "completions.principle": 2, **{f"completions.annotations.{aspect}.Rationale": 2 for aspect in aspects},
    }  # fmt: skip  # two rows, whatever the number of their completions


def test_open_assistant_counts_what_it_leaves_of_messages_at_any_depth():
    deeper = reply("u1", "And?", role="prompter", replies=[reply("m3", "So.", 1, detoxify={"toxicity": 0.1})])
    answers = [reply("m1", "Hello", 0, replies=[deeper], labels={"humor": {"value": 1}}, parent_id="t1")]
    gone = reply("m2", "bad", 1, deleted=True, model_name="m", replies=[reply("m4", "x", emojis={"+1": 2})])
    _, notes = read("open-assistant", tree(*answers, gone, origin="web"))
    assert notes.fields_left == {
        "origin": 1, "prompt.replies.lang": 1, "prompt.replies.labels": 1, "prompt.replies.detoxify": 1,
        "prompt.replies.message_id": 1,
    }  # fmt: skip  # what was deleted counts as that


def test_ground_truth_counts_comments_and_metadata():
    texts = {"prompt": "Q", "response_a": "one", "response_b": "two", "topic": "x"}
    annotations = [work({"choice": "B", "comment": "hm"}), work({"comment": "hm"}), work({"choice": None, "why": "x"})]
    job = {"job": {"annotationsFromAllWorkers": annotations}, "job-metadata": {"job-name": "job"}}
    _, notes = read("ground-truth", {"source": json.dumps(texts)} | job)
    form = "job.annotationsFromAllWorkers.annotationData.content"
    assert notes.fields_left == {"job-metadata": 1, "source.topic": 1, f"{form}.comment": 1}
    _, notes = read("ground-truth", texts | {"source": "plain"} | job)
    assert notes.fields_left.keys() == {"job-metadata", "source", "topic", f"{form}.comment"}


def test_label_studio_counts_other_results_predictions_and_drafts():
    comment = {"from_name": "why", "type": "textarea", "value": {"text": ["clearer"]}}
    both = annotation("left", completed_by={"id": 1, "first_name": "Ann"})
    both["result"] = [comment, *both["result"]]
    cancelled = {"id": 10, "was_cancelled": True, "result": [comment], "lead_time": 3}
    alone = {"id": 11, "was_cancelled": False, "result": [comment], "completed_by": 3}
    _, notes = read("label-studio", task(both, cancelled, alone, drafts=[{"result": [comment]}]))
    assert notes.fields_left == {
        "predictions": 1, "drafts": 1, "annotations.result.value": 1, "annotations.result.from_name": 1,
        "annotations.completed_by.first_name": 1,
    }  # fmt: skip  # the two that are skipped are counted as that


def test_argilla_counts_fields_that_nothing_asks_about():
    draft = {"value": ranks(2, 1), "user_id": "u2", "status": "draft", "note": "x"}
    given = {"value": [{"label": "x", "start": 0, "end": 1, "score": 0.5}], "user_id": "u1", "status": "submitted"}
    fields = {"instruction": "Q", "response": "AB", "source": "web"}
    nested = {"id": "3", "status": "completed", "fields": fields, "responses": {"marks": [given], "ranking": [draft]}}
    _, notes = read("argilla", nested | {"suggestions": {"marks": {"value": []}}, "vectors": {}})
    assert notes.fields_left == {"status": 1, "fields.source": 1, "suggestions": 1, "responses.marks.value.score": 1}
    flat = fields | {"marks.responses": [given["value"]], "marks.suggestion.score": 0.5}
    _, notes = read("argilla", flat)
    assert notes.fields_left == {"source": 1, "marks.suggestion.score": 1, "marks.responses.value.score": 1}


def test_messages_count_what_is_more_than_role_and_content():
    named = [{"role": "user", "content": "Q", "name": "ann"}]
    rows = (
        {"prompt": named, "completion": said("assistant", "A")},
        {"prompt": "Q", "completion": said("assistant", "A")},
    )
    _, notes = read("trl", *rows)
    assert notes.fields_left == {"prompt.name": 1}
    _, notes = read("columns", {"messages": json.dumps(named), "response": "A"})
    assert notes.fields_left == {"messages.name": 1}


@pytest.mark.parametrize("format", sorted(IMPORTERS))
def test_no_format_is_read_from_nothing(format):
    """Whatever stands in a row, the answer is records, a skip or a reason."""
    for row in (
        {},
        {"prompt": None},
        {"id": [], "data": 3, "fields": "x", "chosen": {}, "summary": 1, "completions": 2},
    ):
        try:
            records, notes = read(format, row)
        except Unreadable as reason:
            assert str(reason)
        else:
            assert not records and notes.skipped


def test_settings_that_a_format_does_not_have(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": "Q"}])
    with pytest.raises(ConfigError, match="format trlx: unknown; choose from alpaca-eval, arena"):
        import_feedback("trlx", [path], tmp_path / "out")
    with pytest.raises(ConfigError, match="--columns prompt: trl has no such role; its names are fixed"):
        import_feedback("trl", [path], tmp_path / "out", columns={"prompt": "q"})
    with pytest.raises(ConfigError, match="--columns answer: columns has no such role; it has id, prompt"):
        import_feedback("columns", [path], tmp_path / "out", columns={"answer": "q"})
    with pytest.raises(ConfigError, match="--reference .*: trl rows carry both answers"):
        import_feedback("trl", [path], tmp_path / "out", reference=path)
    with pytest.raises(ConfigError, match="no file to import"):
        import_feedback("trl", [], tmp_path / "out")


def test_references_come_from_their_own_file(tmp_path, monkeypatch):
    rows = write_lines(tmp_path / "rows.jsonl", [{"instruction": "Q", "output_2": "B", "preference": 1.25}])
    references = [{"instruction": "Q", "output": "A"}]
    given = write_lines(tmp_path / "reference.jsonl", references)
    report = import_feedback("alpaca-eval", [rows], tmp_path / "out", reference=given)
    assert report.records == {"comparisons.jsonl": 1}
    twice = write_lines(tmp_path / "twice.jsonl", [*references, {"instruction": "Q", "output": "C"}])
    with pytest.raises(DataError, match=r"twice.jsonl:2: a second reference answer"):
        import_feedback("alpaca-eval", [rows], tmp_path / "out2", reference=twice)
    with monkeypatch.context() as patch:
        patch.setattr(alpaca_eval, "MAX_REFERENCE_CHARACTERS", 1)
        with pytest.raises(DataError, match=r"reference.jsonl:1: more than 100,000 reference answers or 1 characters"):
            import_feedback("alpaca-eval", [rows], tmp_path / "out2", reference=given)
    broken = write_lines(tmp_path / "broken.jsonl", ["{"])
    with pytest.raises(DataError, match=r"broken.jsonl:1: not JSON \(.*repair the row"):
        import_feedback("alpaca-eval", [rows], tmp_path / "out2", reference=broken)
