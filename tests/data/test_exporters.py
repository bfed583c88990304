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
from loopwright.data.importers import import_feedback
from loopwright.data.readers import read_records, write_records
from loopwright.errors import ConfigError, DataError
from loopwright.schemas import (
    Comparison,
    Correction,
    Demonstration,
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
    policy="p", off_topic=(1,), reward_model="r", selection_probability=0.1, created="2026-01-01",
)  # fmt: skip
ONE_OF_EACH = (
    FULL,
    Ranking(id="r", prompt=ASKED, responses=("A", "B", "C"), ranks=(2, 1, 2), criterion="kind"),
    Rating(
        id="s", prompt=ASKED, responses=("A",), scores={"kind": 2}, higher_is_better=False, directions={"kind": True}
    ),
    Thumb(id="t", prompt=ASKED, responses=("A",), good=True, annotator="ann"),
    Correction(id="e", prompt=ASKED, responses=("A", "B"), chosen=1, edited="C"),
    SpanFeedback(id="m", prompt=ASKED, responses=("AB",), spans=(Span(start=0, end=1, label="x"),)),
    Prompt(id="p", messages=ASKED, tags={"task": "x"}),
    Demonstration(id="d", prompt=ASKED, response="A", annotator="ann"),
)


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
    names = {Comparison: "comparisons", Thumb: "thumbs", Prompt: "prompts", Demonstration: "demonstrations"}
    return read_records(folder / f"{names[kind]}.jsonl", kind).records


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
        "id": 2, "annotator": 2, "order_shown": 1, "seconds": 1, "guideline": 1, "policy": 1, "off_topic": 1,
        "reward_model": 1, "selection_probability": 1, "created": 1, "strength": 1, "probability": 1, "weight": 1,
        "safe": 1, "criteria": 1,
    }  # fmt: skip


def test_a_margin_that_some_rows_lack_is_lost_and_counted(tmp_path):
    plain = Comparison(id="c2", prompt=ASKED, responses=("A", "B"), choice=0)
    path, account = exported(tmp_path, "trl-preference", FULL, plain)
    assert [sorted(row) for row in rows_of(path)] == [["chosen", "prompt", "rejected"]] * 2
    assert account.lost["margin"] == 1


def test_rankings_and_corrections_become_pairs(tmp_path):
    ranking, correction = ONE_OF_EACH[1], ONE_OF_EACH[4]
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


@pytest.mark.parametrize("format", sorted(EXPORTERS))
def test_each_kind_is_exported_or_refused_by_name(tmp_path, format):
    exporter = EXPORTERS[format]
    for record in ONE_OF_EACH:
        ending = exporter.container
        if type(record) in exporter.keeps:
            path, account = exported(tmp_path, format, record, ending=ending)
            assert account.rows >= 1 and path.stat().st_size
        else:
            with pytest.raises(DataError, match=f"records.jsonl:1: a {type(record).__name__}, but this format holds"):
                exported(tmp_path, format, record, ending=ending)
            assert not (tmp_path / f"exported.{ending}").exists()


def test_mistakes_of_an_export(tmp_path):
    with pytest.raises(ConfigError, match="format docx: unknown; choose from csv, hh-rlhf"):
        exported(tmp_path, "docx", FULL)
    with pytest.raises(ConfigError, match=r"--out .*exported.csv: parquet is written to .parquet"):
        exported(tmp_path, "parquet", FULL, ending="csv")
    with pytest.raises(DataError, match=r"records.jsonl:2: a Thumb among Comparison records"):
        exported(tmp_path, "csv", FULL, ONE_OF_EACH[3], ending="csv")
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


def cells(record: Comparison) -> Comparison:
    """What `columns` reads back of a comparison."""
    return record.model_copy(update={"order_shown": None, "off_topic": (), "safe": None, "criteria": {}})


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
    for record in (ONE_OF_EACH[3], ONE_OF_EACH[7], ONE_OF_EACH[6].model_copy(update={"tags": {}})):
        path, _ = exported(tmp_path, ending.split(".")[0], record, ending=ending)
        assert imported(tmp_path, "columns", path, type(record)) == [record]


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
    rating, _ = exported(tmp_path, "parquet", ONE_OF_EACH[2], ending="parquet")
    kinds = {field.name: str(field.type) for field in pyarrow.parquet.read_schema(rating)}
    assert (kinds["scale_low"], kinds["higher_is_better"]) == ("int64", "bool")
