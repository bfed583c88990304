"""Round trips, and what an export says that it loses."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loopwright.data.exporters import EXPORTERS, export_feedback
from loopwright.data.importers import IMPORTERS, import_feedback
from loopwright.data.readers import read_records, write_records
from loopwright.errors import ConfigError, DataError
from loopwright.schemas import (
    KINDS,
    Attack,
    Comparison,
    Correction,
    Demonstration,
    Judgement,
    Message,
    Prompt,
    Ranking,
    Rating,
    Span,
    SpanFeedback,
    Thumb,
)

ASKED = (Message(role="user", content="Q"),)
FULL = Comparison(
    id="c1", prompt=ASKED, responses=("A", "B"), choice=1, strength="better", margin=0.5, probability=0.25, weight=2.0,
    safe=(True, False), criteria={"kind": None}, annotator="ann", order_shown=(1, 0), seconds=3.5, guideline="g2",
    policy="p", policies=("p", "q"), off_topic=(1,), reward_model="r", selection_probability=0.1, created="2026-01-01",
    rationale="B says why, A doesn't", reasons=("clearer",),
)  # fmt: skip
BOTH_BAD = Comparison(id="c9", prompt=ASKED, responses=("A", "B"), choice=None, both_bad=True)
ONE_OF_EACH = (
    FULL,
    Ranking(id="r", prompt=ASKED, responses=("A", "B", "C"), ranks=(2, 1, 2), criterion="kind"),
    Rating(
        id="s", prompt=ASKED, responses=("A",), scores={"kind": 2}, higher_is_better=False, directions={"kind": True}
    ),
    Thumb(id="t", prompt=ASKED, responses=("A",), good=True, annotator="ann"),
    Attack(id="a", prompt=ASKED, responses=("A",), broke=True, harm=2),
    Correction(id="e", prompt=ASKED, responses=("A", "B"), chosen=1, edited="C"),
    SpanFeedback(id="m", prompt=ASKED, responses=("AB",), spans=(Span(start=0, end=1, label="x"),)),
    Prompt(id="p", messages=ASKED, tags={"task": "x"}),
    Demonstration(id="d", prompt=ASKED, response="A", annotator="ann"),
)

OF_KIND = {type(record): record for record in ONE_OF_EACH}


def exported(tmp_path: Path, format: str, *records, ending: str = "jsonl"):
    """(path, account) of an export."""
    source, out = tmp_path / "records.jsonl", tmp_path / f"exported.{ending}"
    write_records(source, records)
    out.unlink(missing_ok=True)
    return out, export_feedback(format, source, out).account


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def imported(tmp_path: Path, format: str, path: Path, kind, **options):
    folder = tmp_path / f"again-{len(list(tmp_path.glob('again-*')))}"
    import_feedback(format, [path], folder, max_bad_share=0.0, **options)
    (name,) = (name for name, its_kind in KINDS.items() if its_kind is kind)
    return read_records(folder / f"{name}.jsonl", kind).records


# What is lost


def test_a_preference_export_names_what_it_loses(tmp_path):
    tie = Comparison(id="c2", prompt=ASKED, responses=("A", "B"), choice=None, margin=0.0, annotator="x")
    path, account = exported(tmp_path, "trl-preference", FULL, tie)
    assert rows_of(path) == [
        {"prompt": [{"role": "user", "content": "Q"}], "chosen": [{"role": "assistant", "content": "B"}],
         "rejected": [{"role": "assistant", "content": "A"}], "margin": 0.5},
    ]  # fmt: skip
    assert (account.records, account.rows, account.left_out) == (2, 1, {"a tie": 1})
    assert account.lost == {
        "id": 2, "annotator": 2, "order_shown": 1, "seconds": 1, "guideline": 1, "policy": 1, "policies": 1,
        "off_topic": 1, "reward_model": 1, "selection_probability": 1, "created": 1, "rationale": 1, "reasons": 1,
        "strength": 1, "probability": 1, "weight": 1, "safe": 1, "criteria": 1,
    }  # fmt: skip


def test_a_margin_that_some_rows_lack_is_lost_and_counted(tmp_path):
    plain = Comparison(id="c2", prompt=ASKED, responses=("A", "B"), choice=0)
    path, account = exported(tmp_path, "trl-preference", FULL, plain)
    assert [sorted(row) for row in rows_of(path)] == [["chosen", "prompt", "rejected"]] * 2
    assert account.lost["margin"] == 1


def test_rankings_and_corrections_become_pairs(tmp_path):
    ranking, correction = OF_KIND[Ranking], OF_KIND[Correction]
    path, account = exported(tmp_path, "trl-preference", ranking, correction)
    found = {(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows_of(path)}
    assert found == {("B", "A"), ("B", "C"), ("C", "B"), ("B", "A")}  # of the correction: C > B > A
    assert (account.rows, account.left_out, account.lost) == (4, {"a tie": 1}, {"id": 2, "criterion": 1})


def test_hh_rlhf_leaves_out_what_it_would_misread(tmp_path):
    def asked(*messages):
        return tuple(Message(role=role, content=text) for role, text in messages)

    system = asked(("system", "be kind"), ("user", "Q"))
    records = [
        Comparison(id="1", prompt=ASKED, responses=("A", "B"), choice=0),
        Comparison(id="2", responses=("A", "B"), choice=0),
        Comparison(id="3", prompt=(*ASKED, *system), responses=("A", "B"), choice=0),
        Comparison(id="4", prompt=ASKED, responses=("A\n\nHuman: me too", "B"), choice=0),
    ]
    path, account = exported(tmp_path, "hh-rlhf", *records)
    assert rows_of(path) == [{"chosen": "\n\nHuman: Q\n\nAssistant: A", "rejected": "\n\nHuman: Q\n\nAssistant: B"}]
    assert sorted(account.left_out.values()) == [1, 1, 1]


def test_formulas_in_a_csv_file_are_defused_and_counted(tmp_path):
    hostile = ["=cmd|'/c calc'!A1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "＝1"]
    records = [Thumb(id=text, prompt=ASKED, responses=(text,), good=False, annotator="a=b") for text in hostile]
    path, account = exported(tmp_path, "csv", *records, ending="csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["response"] for row in rows] == ["'" + text for text in hostile]
    assert all(row["id"].startswith("'") and row["annotator"] == "a=b" for row in rows)
    assert account.changed == {"a cell that looks like a formula got an apostrophe in front": 2 * len(hostile)}


# Refusals


def test_the_docs_say_of_each_format_whether_it_can_be_written():
    page = (Path(__file__).parents[2] / "docs" / "import.md").read_text(encoding="utf-8")
    table = page[page.index("| FORMAT | a row becomes") :].partition("\n\n")[0].splitlines()[2:]
    cells = {row.split("|")[1].strip(" `"): row.split("|")[-2].strip() for row in table}
    assert cells.keys() == IMPORTERS.keys()
    written_as = {"columns": "csv", "trl": "trl-preference"}
    for format, cell in cells.items():
        assert cell and cell.startswith("import only: ") != (written_as.get(format, format) in EXPORTERS), format
    page = page[page.index("## Export") :]
    assert not [format for format in EXPORTERS if f"`{format}`" not in page]


def test_there_is_one_of_each_kind():
    assert OF_KIND.keys() == set(KINDS.values())


MERITS = {"helpfulness": 4, "correctness": 0, "coherence": 3}
POST = (Message(role="user", content="SUBREDDIT: r/x\n\nTITLE: T\n\nPOST: P\n\nTL;DR:"),)


def rating(scores, low, high, **about):
    given = {"id": "s", "prompt": ASKED, "responses": ("A",)} | about
    return Rating(scores=scores, scale_low=low, scale_high=high, higher_is_better=True, **given)


FITTING = {  # what some formats hold of a kind
    "alpaca-eval": (FULL.model_copy(update={"annotator": "ai:judge"}),),
    "helpsteer": (rating(MERITS, 0, 4),),
    "summarize-from-feedback": (
        rating({"overall": 7}, 1, 7, prompt=POST),
        FULL.model_copy(update={"prompt": POST}),
    ),
    "ultrafeedback": (rating({"honesty": 5}, 1, 5),),
}


@pytest.mark.parametrize("format", sorted(EXPORTERS))
def test_each_kind_is_exported_or_refused_by_name(tmp_path, format):
    exporter = EXPORTERS[format]
    for record in (OF_KIND | {type(record): record for record in FITTING.get(format, ())}).values():
        ending = exporter.container
        if type(record) in exporter.keeps:
            path, account = exported(tmp_path, format, record, ending=ending)
            assert account.rows >= 1 and path.stat().st_size
        else:
            with pytest.raises(DataError, match=f"records.jsonl:1: a {type(record).__name__}, but this format holds"):
                exported(tmp_path, format, record, ending=ending)
            assert not (tmp_path / f"exported.{ending}").exists()


def test_mistakes_of_an_export(tmp_path):
    with pytest.raises(ConfigError, match="format docx: unknown; choose from alpaca-eval, arena, csv, helpsteer"):
        exported(tmp_path, "docx", FULL)
    with pytest.raises(ConfigError, match=r"--out .*exported.csv: parquet is written to .parquet"):
        exported(tmp_path, "parquet", FULL, ending="csv")
    with pytest.raises(DataError, match=r"records.jsonl:2: a Thumb among Comparison records"):
        exported(tmp_path, "csv", FULL, OF_KIND[Thumb], ending="csv")
    tie = Comparison(id="1", responses=("A", "B"), choice=None)
    with pytest.raises(DataError, match=r"nothing to export \(2 × a tie\)"):
        exported(tmp_path, "trl-preference", tie, tie)
    (tmp_path / "broken.jsonl").write_text(FULL.model_dump_json() + '\n{"id": "1", "choice": 3}\n')
    with pytest.raises(DataError, match=r"broken.jsonl:2: .* loopwright data check"):
        export_feedback("trl-preference", tmp_path / "broken.jsonl", tmp_path / "x.jsonl")
    with pytest.raises(DataError, match="is there already; name a new file"):
        export_feedback("loopwright", tmp_path / "broken.jsonl", tmp_path / "broken.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.jsonl", "records.jsonl"]


# Round trips

LETTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(LETTERS, max_size=20)
PROMPT = st.one_of(
    st.just(()),
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXT), max_size=3).map(
        lambda turns: (*(Message(role=role, content=text) for role, text in turns), Message(role="user", content="Q"))
    ),
)
ABOUT = {
    "annotator": st.none() | TEXT,
    "seconds": st.none() | st.floats(0, 1e6),
    "order_shown": st.sampled_from([None, (0, 1), (1, 0)]),
    "strength": st.sampled_from([None, "significantly", "slightly"]),
    "safe": st.sampled_from([None, (True, False)]),
    "criteria": st.dictionaries(TEXT, st.sampled_from([0, 1, None]), max_size=2),
}
COMPARISONS = st.builds(
    Comparison,
    id=TEXT,
    prompt=PROMPT,
    responses=st.tuples(TEXT, TEXT),
    choice=st.sampled_from([0, 1, None]),
    margin=st.none() | st.floats(0, 100),
    **ABOUT,
)
many = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(records=st.lists(COMPARISONS, min_size=1, max_size=4))
def test_our_own_records_come_back_as_they_were(tmp_path, records):
    records = [*records, *ONE_OF_EACH[:1]]
    path, account = exported(tmp_path, "loopwright", *records, ending="jsonl.gz")
    assert not (account.lost or account.left_out or account.changed)
    assert imported(tmp_path, "loopwright", path, Comparison) == records
    assert path.read_bytes()[4:8] == bytes(4)  # no time stamp: same records, same bytes
    assert gzip.decompress(path.read_bytes()).count(b"\n") == len(records)


@many
@given(records=st.lists(COMPARISONS, min_size=1, max_size=4))
def test_trl_preferences_come_back(tmp_path, records):
    records = [*records, FULL]
    path, _ = exported(tmp_path, "trl-preference", *records)
    strict = [record for record in records if record.choice is not None]
    margins = all(record.margin is not None for record in records)
    again = imported(tmp_path, "trl", path, Comparison)
    assert [(r.prompt, r.responses, r.choice, r.margin) for r in again] == [
        (r.prompt, (r.responses if r.choice == 0 else r.swap().responses), 0, r.margin if margins else None)
        for r in strict
    ]


@many
@given(prompt=PROMPT.filter(bool), text=TEXT, good=st.booleans())
def test_other_trl_types_come_back(tmp_path, prompt, text, good):
    cases = (
        ("trl-unpaired", Thumb(id="exported:1", prompt=prompt, responses=(text,), good=good)),
        ("trl-prompt-completion", Demonstration(id="exported:1", prompt=prompt, response=text)),
        ("trl-prompt-only", Prompt(id="exported:1", messages=prompt)),
    )
    for format, record in cases:
        path, account = exported(tmp_path, format, record)
        assert account.lost == {"id": 1}
        assert imported(tmp_path, "trl", path, type(record)) == [record]


@many
@given(turns=st.lists(TEXT, max_size=3), responses=st.tuples(TEXT, TEXT))
def test_hh_rlhf_dialogues_come_back(tmp_path, turns, responses):
    roles = ["user", "assistant"] * 2
    prompt = (*(Message(role=role, content=text) for role, text in zip(roles, turns, strict=False)), *ASKED)
    record = Comparison(id="exported:1", prompt=(*ASKED, *prompt), responses=responses, choice=0)
    path, _ = exported(tmp_path, "hh-rlhf", record)
    assert imported(tmp_path, "hh-rlhf", path, Comparison) == [record]


SHOWN = "nobody knows which answer was shown first; it is read back as the one that is stored first"
TEXTS = st.tuples(TEXT, TEXT)
WHO = st.none() | st.sampled_from(["ann", "7", "007", "²", "a@b"])
ORDER = st.sampled_from([None, (0, 1), (1, 0)])


def as_shown(record):
    """What a format that stores answers as they were shown reads back of a comparison."""
    if record.order_shown != (1, 0):
        return record.model_copy(update={"order_shown": (0, 1)})
    return record.swap()


@many
@given(responses=TEXTS, choice=st.sampled_from([0, 1]), who=WHO, order=ORDER, seconds=st.none() | st.floats(0, 1e6))
def test_label_studio_tasks_come_back(tmp_path, responses, choice, who, order, seconds):
    about = {"annotator": who, "order_shown": order, "seconds": seconds, "created": "2026-01-01T00:00:00Z"}
    record = Comparison(id="exported:1/0", prompt=ASKED, responses=responses, choice=choice, **about)
    path, account = exported(tmp_path, "label-studio", record, ending="json")
    assert (account.lost, account.changed) == ({"id": 1}, {SHOWN: 1} if order is None else {})
    assert imported(tmp_path, "label-studio", path, Comparison) == [as_shown(record)]


def test_label_studio_reads_one_array_and_leaves_out_ties_and_conversations(tmp_path):
    long = FULL.model_copy(update={"prompt": (Message(role="system", content="S"), *ASKED)})
    path, account = exported(tmp_path, "label-studio", FULL, BOTH_BAD, long, FULL, ending="json")
    tasks = json.loads(path.read_text(encoding="utf-8"))
    assert [task["data"] for task in tasks] == [{"prompt": "Q", "answer1": "B", "answer2": "A"}] * 2  # B stood left
    assert [task["annotations"][0]["result"][0]["value"] for task in tasks] == [{"selected": "left"}] * 2
    assert account.left_out == {"a tie": 1, "a prompt that is not one text of a user": 1}
    assert {"margin", "strength", "rationale", "policies"} < account.lost.keys()


@many
@given(
    prompt=PROMPT.filter(bool), responses=TEXTS, choice=st.sampled_from([0, 1, None]), who=WHO, order=ORDER,
    wrote=st.sampled_from([{}, {"policy": "p"}, {"policies": ("p", "q")}]), bad=st.booleans(),
)  # fmt: skip
def test_arena_battles_come_back(tmp_path, prompt, responses, choice, who, order, wrote, bad):
    about = {"annotator": who, "order_shown": order, "both_bad": bad and choice is None}
    about |= {"created": "2026-01-01T00:00:00.500000+00:00"} | wrote
    record = Comparison(id="b", prompt=prompt, responses=responses, choice=choice, **about)
    path, account = exported(tmp_path, "arena", record)
    assert (account.lost, account.changed) == ({}, {SHOWN: 1} if order is None else {})
    assert imported(tmp_path, "arena", path, Comparison) == [as_shown(record)]


def test_arena_says_what_it_cannot_tell(tmp_path):
    odd, old = (FULL.model_copy(update={"created": created}) for created in ("last week", "0001-01-01"))
    path, account = exported(tmp_path, "arena", odd, old, FULL.model_copy(update={"prompt": ()}), FULL)
    assert [row["tstamp"] for row in rows_of(path)] == [None, None, 1767225600.0]  # a date is its first second, UTC
    assert account.left_out == {"a record without a prompt": 1}
    assert account.changed == {
        "a time that is none, or not of these days, is left out": 2,
        "which of several policies is the newest is not told": 3,
    }  # fmt: skip


@many
@given(responses=TEXTS, probability=st.integers(0, 1000).map(lambda n: n / 1000))
def test_alpaca_eval_verdicts_come_back_and_peoples_stay(tmp_path, responses, probability):
    about = {"probability": probability, "choice": None if probability == 0.5 else int(probability < 0.5)}
    record = Comparison(id="exported:1", prompt=ASKED, responses=responses, annotator="ai:j", **about)
    path, account = exported(tmp_path, "alpaca-eval", record, FULL, record.model_copy(update={"probability": None}))
    assert (account.rows, list(account.left_out.values())) == (1, [2])
    assert imported(tmp_path, "alpaca-eval", path, Comparison) == [record]


@many
@given(responses=TEXTS, strength=st.sampled_from([-3, -2, -1, 0, 1, 2, 3]))
def test_helpsteer_preferences_and_ratings_come_back(tmp_path, responses, strength):
    name = {0: None, 1: "slightly", 2: "better", 3: "significantly"}[abs(strength)]
    about = {"strength": name, "margin": float(abs(strength)), "choice": None if not strength else int(strength > 0)}
    record = Comparison(id="exported:1", prompt=ASKED, responses=responses, **about)
    path, account = exported(tmp_path, "helpsteer", record)
    assert (account.lost, account.changed) == ({"id": 1}, {})
    assert imported(tmp_path, "helpsteer", path, Comparison) == [record]
    rated = rating(MERITS, 0, 4, id="exported:1", responses=responses[:1])
    path, account = exported(tmp_path, "helpsteer", rated)
    assert imported(tmp_path, "helpsteer", path, Rating) == [rated] and account.lost == {"id": 1}


def test_helpsteer_leaves_out_what_has_no_number(tmp_path):
    def preferred(**about):
        return Comparison(id="1", prompt=ASKED, responses=("A", "B"), **about)

    path, account = exported(
        tmp_path, "helpsteer", preferred(choice=0), preferred(choice=0, strength="negligibly"), BOTH_BAD,
        preferred(choice=1, strength="better", margin=0.5), preferred(choice=None, strength="negligibly"),
        rating(MERITS | {"correctness": 1}, 1, 5), rating(MERITS | {"verbosity": 1}, 0, 4),
        rating({"helpfulness": 1}, 0, 4),
        rating(MERITS, 0, 4).model_copy(update={"higher_is_better": False}),
        rating(MERITS, 0, 4).model_copy(update={"directions": {"coherence": False}}),
    )  # fmt: skip
    assert [row["preference_strength"] for row in rows_of(path)] == [0, 2, 0]
    assert list(account.left_out.values()) == [2, 5]
    assert account.lost == {"id": 10, "both_bad": 1, "directions": 1}
    assert list(account.changed.values()) == [1, 1]


@many
@given(
    title=st.none() | TEXT, where=st.none() | TEXT, text=TEXT, article=st.booleans(), responses=TEXTS, who=WHO,
    wrote=st.sampled_from([{}, {"policy": "p"}, {"policies": ("p", "q")}]),
)  # fmt: skip
def test_summaries_come_back(tmp_path, title, where, text, article, responses, who, wrote):
    parts = [f"SUBREDDIT: r/{where}"] * (where is not None) + [f"TITLE: {title}"] * (title is not None)
    parts += [f"{'ARTICLE' if article else 'POST'}: {text}", "TL;DR:"]
    prompt = (Message(role="user", content="\n\n".join(parts)),)
    record = Comparison(id="exported:1", prompt=prompt, responses=responses, choice=1, annotator=who, **wrote)
    rated = rating({"overall": 7, "accuracy": 1}, 1, 7, id="exported:1", prompt=prompt, responses=responses[:1])
    for one in (record, rated):
        path, account = exported(tmp_path, "summarize-from-feedback", one)
        assert (account.lost, account.changed) == ({"id": 1}, {})
        assert imported(tmp_path, "summarize-from-feedback", path, type(one)) == [one]


def test_summaries_leave_out_what_is_none(tmp_path):
    posted = FULL.model_copy(update={"prompt": POST})
    tie = BOTH_BAD.model_copy(update={"prompt": POST})
    path, account = exported(
        tmp_path, "summarize-from-feedback", posted, FULL, tie, rating(MERITS, 0, 4, prompt=POST)
    )  # fmt: skip
    assert rows_of(path)[0]["info"] == {"subreddit": "x", "title": "T", "post": "P"}
    assert list(account.left_out.values()) == [1, 1, 1]


def test_ultrafeedback_ratings_come_back_in_rows_of_their_own(tmp_path):
    records = [
        rating({"honesty": 5, "truthfulness": 1}, 1, 5, id="exported:1/0", policy="m"),
        rating({"helpfulness": 3}, 1, 5, id="exported:2/0", responses=("",)),
    ]
    others = rating({"honesty": 3, "wit": 3}, 1, 5), rating({"honesty": 3}, 0, 5)
    path, account = exported(tmp_path, "ultrafeedback", *records, *others)
    assert (account.lost, list(account.left_out.values())) == ({"id": 4}, [2])
    judged_by_a_model = [one.model_copy(update={"annotator": "ai:gpt-4"}) for one in records]
    assert imported(tmp_path, "ultrafeedback", path, Rating) == judged_by_a_model


def cells(record):
    """What `columns` reads back of a record: all but lists and objects, the prompt and the answers aside."""
    kind = type(record)
    lists = [name for name, value in record.model_dump(mode="json").items() if isinstance(value, (list, dict))]
    dropped = set(lists) - {"prompt", "messages", "responses"}
    return record.model_copy(update={name: kind.model_fields[name].get_default() for name in dropped})


ABOUT_ALL = {name: getattr(FULL, name) for name in Judgement.model_fields if name not in ("policies", "order_shown")}
ABOUT_ALL |= {"responses": ("A",), "off_topic": ()}
FILLED = {  # all fields that a cell can hold
    Comparison: (FULL, BOTH_BAD),
    Thumb: (Thumb(**ABOUT_ALL, good=True),),
    Attack: (Attack(**ABOUT_ALL, broke=True, harm=2),),
    Prompt: (OF_KIND[Prompt],),
    Demonstration: (OF_KIND[Demonstration].model_copy(update={"created": "2026-01-01"}),),
}


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("kind", FILLED)
def test_every_field_that_a_cell_holds_comes_back(tmp_path, kind, ending):
    """A field that is added to a record is filled here, and read back, or is a list and named as lost."""
    records = FILLED[kind]
    for name, about in kind.model_fields.items():
        assert about.is_required() or any(getattr(record, name) != about.get_default() for record in records) or (
            isinstance(about.get_default(), (tuple, dict)) or name == "order_shown"
        ), f"{kind.__name__}.{name} is nowhere filled"  # fmt: skip
    path, account = exported(tmp_path, ending, *records, ending=ending)
    assert not (account.lost or account.left_out)
    assert imported(tmp_path, "columns", path, kind) == [cells(record) for record in records]


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_tables_come_back_but_for_lists(tmp_path, ending):
    long = (Message(role="system", content="S"), *ASKED)
    records = [
        FULL,
        Comparison(id="c2", prompt=long, responses=('two\nlines, "quoted"', ""), choice=None),
        Comparison(id="c3", responses=("A", "B"), choice=0, annotator="é"),
    ]
    path, account = exported(tmp_path, ending.split(".")[0], *records, ending=ending)
    assert not account.lost
    assert imported(tmp_path, "columns", path, Comparison) == [cells(record) for record in records]


def test_a_formula_comes_back_from_csv_with_its_apostrophe_and_from_parquet_without(tmp_path):
    record = Comparison(id="1", prompt=ASKED, responses=("=1+1", "- no"), choice=0)
    for ending, responses in (("csv", ("'=1+1", "'- no")), ("parquet", ("=1+1", "- no"))):
        path, _ = exported(tmp_path, ending, record, ending=ending)
        assert [found.responses for found in imported(tmp_path, "columns", path, Comparison)] == [responses]


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.tuples(st.sampled_from(["", "'", *FORMULA]), TEXT).map("".join), st.sampled_from(["", *FORMULA]))
def test_no_cell_of_a_csv_file_is_a_formula_and_each_comes_back_by_the_rule(tmp_path, response, annotator):
    """An apostrophe in front of what begins like a formula; everything else as it is."""
    record = Thumb(id="t", prompt=ASKED, responses=(response,), good=True, annotator=f"{annotator}ann")
    path, _ = exported(tmp_path, "csv", record, ending="csv")
    with path.open(newline="", encoding="utf-8") as file:
        assert not [cell for row in csv.reader(file) for cell in row if cell.startswith(FORMULA)]
    (found,) = imported(tmp_path, "columns", path, Thumb)
    for text, before in ((found.responses[0], response), (found.annotator, f"{annotator}ann")):
        assert text == (f"'{before}" if before.startswith(FORMULA) else before)


def test_a_parquet_file_has_typed_columns(tmp_path, monkeypatch):
    monkeypatch.setattr("loopwright.data.exporters.run.ROWS_AT_ONCE", 2)
    path, _ = exported(tmp_path, "parquet", *[FULL] * 5, ending="parquet")
    table = pyarrow.parquet.read_table(path)
    assert table.num_rows == 5
    kinds = {field.name: str(field.type) for field in table.schema}
    assert (kinds["margin"], kinds["response_a"], kinds["criteria"]) == ("double", "string", "string")
    assert table.column("criteria").to_pylist()[0] == '{"kind": null}'
    rated, _ = exported(tmp_path, "parquet", OF_KIND[Rating], ending="parquet")
    kinds = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(rated)}
    assert (kinds["scale_low"], kinds["higher_is_better"]) == ("int64", "bool")
