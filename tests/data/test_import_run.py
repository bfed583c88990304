"""A whole import: files in, files out, bad rows named, memory bounded, hostile files refused."""

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from loopwright.data.importers import import_feedback, imported_records, items, parquet, run, sources
from loopwright.data.importers.base import MAX_FIELDS_NAMED, MAX_REASONS, Notes, Row
from loopwright.data.readers import BadRow, Quarantine, read_records
from loopwright.errors import DataError
from loopwright.schemas import Comparison, Correction, Demonstration, SpanFeedback
from loopwright.tracking.files import sha256_file
from tests.data.test_importers import annotation, task, write_lines

DATA = Path(os.environ.get("LOOPWRIGHT_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="LOOPWRIGHT_DATA names no folder of real data")


def pair(number: int = 0, **more) -> dict:
    return {"prompt": f"question {number}", "chosen": "yes", "rejected": "no"} | more


def bad_rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in Path(f"{out}.bad_rows.jsonl").read_text().splitlines()]


def test_every_bad_line_is_named_with_its_reason_and_set_aside(tmp_path):
    lines = [
        json.dumps(pair()),
        "",
        "{",
        "[1, 2]",
        json.dumps({"prompt": "Q", "chosen": "A"}),
        '{"prompt": "Q", "chosen": NaN, "rejected": "B"}',
        json.dumps(pair(chosen="a\0b")),
        json.dumps(pair(chosen="half \ud83d")),
        '{"a":' * 100_000,
        json.dumps(pair(margin=-1)),
        json.dumps(pair(margin=10**400)),
        json.dumps(pair(chosen="a \\u0000 spelled out is no NUL")),
    ]
    path = tmp_path / "rows.jsonl"
    path.write_bytes("\n".join(lines).encode() + b'\n{"prompt": "\xff"}\n')
    report = import_feedback("trl", [path], tmp_path / "out", max_bad_share=1.0)
    assert (report.rows, report.bad_rows, report.records) == (12, 10, {"comparisons.jsonl": 2})
    found = bad_rows(tmp_path / "out")
    assert [row["path"] for row in found] == [str(path)] * 10
    reasons = {row["line"]: row["reason"] for row in found}
    assert list(reasons) == [3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    for line, reason in (
        (3, "not JSON (Expecting property name"), (4, "list, not an object"),
        (5, 'no "rejected"; found "prompt", "chosen"'),
        (6, "not JSON (NaN is no JSON)"), (7, "a NUL character"), (8, "half of a surrogate pair"),
        (9, "nested too deeply"), (10, '"margin": Input should be greater than or equal to 0'), (11, '"margin" is '),
        (13, "not UTF-8 (byte 13 of the line)"),
    ):  # fmt: skip
        assert reasons[line].startswith(reason), (line, reasons[line])
    assert found[2]["row"] == lines[4]
    loaded = read_records(tmp_path / "out" / "comparisons.jsonl", Comparison).records
    assert [record.id for record in loaded] == ["rows:1", "rows:12"]


def test_a_row_gives_all_its_records_or_none(tmp_path):
    row = {"question": "Q", "responses": ["a", "b", "c", "d"], "preference": [0, 0, 0, 0, 0, 9]}
    good = row | {"preference": [0] * 6}
    path = write_lines(tmp_path / "rows.jsonl", [row, good])
    report = import_feedback("fine-grained", [path], tmp_path / "out", max_bad_share=0.5)
    assert (report.bad_rows, report.records) == (1, {"comparisons.jsonl": 6})


def test_too_many_bad_rows_leave_nothing_but_their_list(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [pair(), "{", pair()])
    with pytest.raises(DataError, match=r"rows.jsonl:2: not JSON .* 1 of 3 rows are bad, .* listed in .*out.bad_rows"):
        import_feedback("trl", [path], tmp_path / "out")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["out.bad_rows.jsonl", "rows.jsonl"]
    assert import_feedback("trl", [path], tmp_path / "out", max_bad_share=0.34).bad_rows == 1


def test_another_format_is_noticed_at_once(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [pair()] * (run.TRIED + 500))
    with pytest.raises(DataError, match=r"rows.jsonl:1: no \"instruction\".* the first 1000 rows are all bad: another"):
        import_feedback("ultrafeedback", [path], tmp_path / "out")
    assert len(bad_rows(tmp_path / "out")) == run.TRIED


def test_nothing_in_it_says_what_was_skipped(tmp_path):
    path = write_lines(tmp_path / "tasks.json", [json.dumps([task(), task()])])
    with pytest.raises(
        DataError, match=r"no feedback in 2 rows \(2 × a task without annotations\); label-studio reads"
    ):
        import_feedback("label-studio", [path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_never_touched(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [pair()])
    (tmp_path / "out").mkdir()
    import_feedback("trl", [path], tmp_path / "out")  # an empty folder will do
    before = (tmp_path / "out" / "comparisons.jsonl").read_bytes()
    for target, why in ((tmp_path / "out", "is there and not empty"), (path, "is a file")):
        with pytest.raises(DataError, match=f"{target}: {why}; name a new folder"):
            import_feedback("trl", [path], target)
    assert (tmp_path / "out" / "comparisons.jsonl").read_bytes() == before


def test_an_import_never_deletes_what_it_reads(tmp_path):
    bad = write_lines(tmp_path / "r.bad_rows.jsonl", [pair()])
    other = write_lines(tmp_path / "rows.jsonl", [{"instruction": "Q", "output_2": "B", "preference": 1.0}])
    (tmp_path / "link.jsonl").symlink_to(bad)
    for paths in ([bad], [other, tmp_path / "link.jsonl"]):
        with pytest.raises(
            DataError, match=r"the bad rows of this import would replace it; rename it, or name another folder"
        ):
            import_feedback("trl", paths, tmp_path / "r")
    (tmp_path / "s.bad_rows.jsonl").write_text('{"instruction": "Q", "output": "A"}\n')
    with pytest.raises(DataError, match=r"s.bad_rows.jsonl: the bad rows .* would replace it"):
        import_feedback("alpaca-eval", [other], tmp_path / "s", reference=tmp_path / "s.bad_rows.jsonl")
    # A name misspelt costs nothing either: the list of the last import's bad rows is still there.
    with pytest.raises(DataError, match=r"none.jsonl: no such file"):
        import_feedback("trl", [other, tmp_path / "none.jsonl"], tmp_path / "r")
    assert bad.read_text() == json.dumps(pair()) + "\n"


def test_out_may_be_the_folder_one_stands_in(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "rows.jsonl", [pair(), "{"])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    report = import_feedback("trl", [path], Path("."), max_bad_share=0.5)
    assert (tmp_path / "here" / "comparisons.jsonl").exists()
    assert Path(report.bad_rows_file) == tmp_path / "here.bad_rows.jsonl"
    with pytest.raises(DataError, match="is there and not empty"):
        import_feedback("trl", [path], tmp_path / "here" / "..")


def test_the_folder_is_whole_or_not_there(tmp_path, monkeypatch):
    path = write_lines(tmp_path / "rows.jsonl", [pair(i) for i in range(5)])

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "sha256_file", killed)  # the records are written by then
    with pytest.raises(KeyboardInterrupt):
        import_feedback("trl", [path], tmp_path / "out")
    assert [found.name for found in tmp_path.iterdir()] == ["rows.jsonl"]


def test_import_json_is_the_account(tmp_path):
    first = write_lines(
        tmp_path / "rows.jsonl", [pair(split="train", note="x"), pair(split="test"), pair(split="train")]
    )
    (tmp_path / "more").mkdir()
    second = write_lines(
        tmp_path / "more" / "rows.jsonl", [pair(split="train", chosen="no"), {"prompt": "P", "split": "train"}]
    )
    report = import_feedback("trl", [first, second], tmp_path / "out", where={"split": "train"})
    account = json.loads((tmp_path / "out" / "import.json").read_text())
    assert account["records"] == report.records == {"comparisons.jsonl": 3, "prompts.jsonl": 1}
    assert account["sources"] == [
        {"path": str(path), "sha256": sha256_file(path), "bytes": path.stat().st_size, "rows": rows}
        for path, rows in ((first, 3), (second, 2))
    ]
    assert account["skipped"] == {"split is not train": {"count": 1, "first": f"{first}:2"}}
    assert account["warnings"] == {"answers of the same text": {"count": 1, "first": f"{second}:1"}}
    assert account["fields_left"] == {"note": 1}
    assert (account["rows"], account["bad_rows"], account["bad_rows_file"]) == (5, 0, None)
    loaded = read_records(tmp_path / "out" / "comparisons.jsonl", Comparison).records
    assert [record.id for record in loaded] == ["rows-1:1", "rows-1:3", "rows-2:1"]  # two files of one name


def test_only_rows_with_these_values(tmp_path):
    rows = [pair(gold=True), pair(gold=False), pair(batch=3), pair(batch="3"), pair(gold=["true"]), pair()]
    path = write_lines(tmp_path / "rows.jsonl", rows)
    for number, (where, kept) in enumerate((({"gold": "true"}, ["rows:1"]), ({"batch": "3"}, ["rows:3", "rows:4"]))):
        import_feedback("trl", [path], tmp_path / str(number), where=where)
        loaded = read_records(tmp_path / str(number) / "comparisons.jsonl", Comparison).records
        assert [record.id for record in loaded] == kept
    with pytest.raises(DataError, match=r"no feedback in 6 rows \(6 × split is not train\)"):
        import_feedback("trl", [path], tmp_path / "none", where={"split": "train"})


# Arrays, tables


def test_an_array_is_read_item_by_item_and_bad_items_are_named(tmp_path):
    items = [task(annotation("left")), 3, task(annotation("up")), task(annotation("right"))]
    (tmp_path / "tasks.json").write_bytes(b"\xef\xbb\xbf \n" + json.dumps(items, indent=1).encode())
    report = import_feedback("label-studio", [tmp_path / "tasks.json"], tmp_path / "out", max_bad_share=0.5)
    assert report.records == {"comparisons.jsonl": 2}
    assert [(row["line"], row["reason"]) for row in bad_rows(tmp_path / "out")] == [
        (2, "int, not an object with named fields"),
        (3, "\"annotations.0.result.0.value.selected\" is 'up', not left or right"),
    ]


def test_a_damaged_array_names_the_last_good_item(tmp_path):
    whole = json.dumps([task(annotation("left")), task(annotation("right"))])
    for text in (whole[:-40], whole[:-1] + ",]", whole.replace("right", "r\x01")):
        (tmp_path / "tasks.json").write_text(text)
        with pytest.raises(
            DataError, match=r"tasks.json: the array cannot be read after item [12] \(.*export it again"
        ):
            import_feedback("label-studio", [tmp_path / "tasks.json"], tmp_path / "out")


def test_a_deep_array_item_is_no_crash(tmp_path):
    (tmp_path / "tasks.json").write_text("[" + '{"data":' * 50_000 + "1" + "}" * 50_000 + "]")
    with pytest.raises(DataError, match="no feedback in 1 rows"):
        import_feedback("label-studio", [tmp_path / "tasks.json"], tmp_path / "out", max_bad_share=1.0)
    assert bad_rows(tmp_path / "out")[0]["reason"] == "nested too deeply"


def test_arrays_are_built_as_json_builds_them(tmp_path):
    """A hundred levels, all kinds of values, and what follows an item that is too deep."""
    nest: object = [1, 2.5, "x", None, True, {}, [], {"a": [{"b": 1}], "c": {"": -1}}]
    for _ in range(100):
        nest = {"inside": [nest, nest if not isinstance(nest, dict) else 0], "after": 1}
    deep: object = 0
    for _ in range(sources.MAX_DEPTH + 1):
        deep = [deep, 1]
    items = [{"first": nest}, {"deep": deep, "after": 2}, {"last": [[], {}]}]
    (tmp_path / "a.json").write_text(json.dumps(items))
    with sources.open_source(tmp_path / "a.json") as source:
        found = list(source.items)
    assert [item.values for item in found] == [items[0], None, items[2]]
    assert [item.problem for item in found] == ["", "nested too deeply", ""]


def test_rows_of_a_table(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_bytes(b'prompt,chosen,rejected\nQ,"two\nlines",B\nQ,A\nQ,A,\xff\n\nQ,A,B\n')
    report = import_feedback("columns", [path], tmp_path / "out", max_bad_share=0.5)
    assert report.records == {"comparisons.jsonl": 2}
    assert [(row["line"], row["reason"]) for row in bad_rows(tmp_path / "out")] == [
        (4, "2 cells, but the header names 3 columns"),
        (5, "not UTF-8"),
    ]
    loaded = read_records(tmp_path / "out" / "comparisons.jsonl", Comparison).records
    assert [record.id for record in loaded] == ["pairs:2", "pairs:7"]
    for content, reason in ((b"", "no header"), (b"a,b,a\n1,2,3\n", 'two columns are named "a"')):
        path.write_bytes(content)
        with pytest.raises(DataError, match=reason):
            import_feedback("columns", [path], tmp_path / "out2")


def test_a_stray_quote_swallows_no_rows(tmp_path):
    """Not into one answer: the rows are bad by name, or the file is an error."""
    path = tmp_path / "pairs.csv"
    path.write_text('prompt,chosen,rejected\nQ,5" disk,B\nQ,"He said,B\nQ,A,B\nQ,"so" he,B\nQ,A,B\n')
    report = import_feedback("columns", [path], tmp_path / "out", max_bad_share=0.5)
    loaded = read_records(tmp_path / "out" / "comparisons.jsonl", Comparison).records
    assert [(record.id, record.responses) for record in loaded] == [
        ("pairs:2", ('5" disk', "B")),
        ("pairs:6", ("A", "B")),
    ]
    assert report.bad_rows == 1
    assert [(row["line"], row["reason"][:25]) for row in bad_rows(tmp_path / "out")] == [
        (3, "not CSV (lines 3 to 5: ',")
    ]
    path.write_text('prompt,chosen,rejected\nQ,A,B\nQ,A,"B\nQ,A,B\nQ,A,B\n')
    with pytest.raises(DataError, match=r"pairs.csv:3: a quote opens in this row and is not closed by the end of the"):
        import_feedback("columns", [path], tmp_path / "out2")
    path = tmp_path / "pairs.tsv"
    path.write_text('prompt\tchosen\trejected\nQ\t"He\tB\nQ\tA\t"B"\nQ\tA\t"\n')
    import_feedback("columns", [path], tmp_path / "out3")
    loaded = read_records(tmp_path / "out3" / "comparisons.jsonl", Comparison).records
    assert [record.responses for record in loaded] == [('"He', "B"), ("A", '"B"'), ("A", '"')]


def test_rows_of_parquet_with_nested_columns(tmp_path):
    rows = [{"prompt": [{"role": "user", "content": "Q"}], "completion": None, "label": None}] * 3
    table = pyarrow.Table.from_pylist(rows)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    report = import_feedback("trl", [tmp_path / "a.parquet"], tmp_path / "out")
    assert report.records == {"prompts.jsonl": 3}
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(DataError, match="b.parquet: not a Parquet file"):
        import_feedback("trl", [tmp_path / "b.parquet"], tmp_path / "out2")


# Hostile files


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(items, "FREE_BYTES", 2**20)
    path = tmp_path / "bomb.jsonl.gz"
    for content in (b"0" * 2**23, b"\n" * 2**23):  # one line, and many
        path.write_bytes(gzip.compress(content))
        with pytest.raises(DataError, match=r"bomb.jsonl.gz: expands to more than 200 times its .* bytes"):
            import_feedback("trl", [path], tmp_path / "out", max_bad_share=1.0)


def pointing(path: Path, text: str, rows: int) -> Path:
    """A Parquet file that holds `text` once, in every row."""
    column = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * rows, pyarrow.int32()), pyarrow.array([text]))
    inside = pyarrow.StructArray.from_arrays([column, column], names=["role", "content"])
    listed = pyarrow.ListArray.from_arrays(pyarrow.array(range(rows + 1), pyarrow.int32()), inside)
    pyarrow.parquet.write_table(pyarrow.table({"prompt": column, "messages": listed}), path, compression="zstd")
    return path


def test_a_parquet_bomb_is_refused_before_it_unfolds(tmp_path):
    path = pointing(tmp_path / "bomb.parquet", "x" * 2**22, 250)  # 3 GiB as rows
    assert path.stat().st_size < 20_000
    pool = pyarrow.default_memory_pool()
    before = max(pool.max_memory(), pool.bytes_allocated())
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb.parquet: expands to more than 200 times its .* bytes"):
        import_feedback("columns", [path], tmp_path / "out", max_bad_share=1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26 and pool.max_memory() < before + 2**28


def test_libraries_for_parquet_are_loaded_for_parquet_alone():
    code = "import sys, loopwright.data.importers.run; sys.exit(bool({'numpy', 'pyarrow'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_huge_row_of_parquet_is_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_ROW_BYTES", 2**16)
    monkeypatch.setattr(parquet, "BYTES_AT_ONCE", 2**16)
    rows = [pair(i, chosen="x" * 2**20) if i == 300 else pair(i) for i in range(600)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    report = import_feedback("trl", [tmp_path / "rows.parquet"], tmp_path / "out")
    assert (report.rows, report.bad_rows) == (600, 1)
    (bad,) = bad_rows(tmp_path / "out")
    assert (bad["line"], bad["reason"]) == (301, "a row of 1,048,590 bytes, more than 65,536")  # and 12 + 2 letters
    loaded = read_records(tmp_path / "out" / "comparisons.jsonl", Comparison).records
    assert [record.prompt[0].content for record in loaded] == [f"question {i}" for i in range(600) if i != 300]


def test_a_run_of_equal_numbers_is_measured_as_it_unfolds(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MAX_ROW_GROUP_BYTES", 2**20)
    table = pyarrow.table({"prompt": ["Q"], "n": pyarrow.array([[0] * 2**18], pyarrow.list_(pyarrow.int64()))})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet: a row group of 2,097,160 bytes; write it again with smaller"):
        import_feedback("columns", [tmp_path / "a.parquet"], tmp_path / "out")


def test_sizes_of_arrow_values():
    """Letters of texts (two for é), one for a number and for each place of lists and objects."""
    texts = pyarrow.array(["abc", None, "é", ""])
    for array, sizes in (
        (texts, [3, 0, 2, 0]),
        (texts.dictionary_encode(), [3, 0, 2, 0]),
        (pyarrow.array([b"ab", None]), [2, 0]),
        (pyarrow.array([1.5, None]), [1, 1]),
        (pyarrow.array([True]), [1]),
        (pyarrow.array([["abc", "d"], None, [], ["ef"]]), [5, 1, 1, 3]),
        (pyarrow.array([["abc", "d"], ["ef"]], pyarrow.large_list(pyarrow.string())), [5, 3]),
        (pyarrow.array([["abc", "d"], ["ef", "g"]], pyarrow.list_(pyarrow.string(), 2)), [5, 4]),
        (pyarrow.array([{"a": "xy", "n": 1}, {"a": None, "n": None}]), [4, 2]),
        (pyarrow.array([[("k", "vw")], []], pyarrow.map_(pyarrow.string(), pyarrow.string())), [5, 1]),
    ):
        assert parquet._sizes(array).tolist() == sizes, array.type
        assert np.array_equal(parquet._sizes(array[1:]), sizes[1:]), array.type


def test_a_huge_line_is_set_aside_without_being_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_ROW_BYTES", 2**16)
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        file.write(json.dumps(pair()).encode() + b'\n{"prompt": "')
        for _ in range(200):
            file.write(b"x" * 2**16)
        file.write(b'"}\n' + json.dumps(pair()).encode() + b"\n")
    tracemalloc.start()
    report = import_feedback("trl", [path], tmp_path / "out", max_bad_share=0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert report.records == {"comparisons.jsonl": 2}
    assert [(row["line"], row["reason"]) for row in bad_rows(tmp_path / "out")] == [
        (2, "a line of more than 65,536 bytes")
    ]
    assert peak < 200 * 2**16 / 2


def test_a_huge_item_and_a_huge_cell_are_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_ROW_BYTES", 2**16)
    (tmp_path / "a.json").write_text(json.dumps([pair(), pair(chosen="x" * 2**20)]))
    with pytest.raises(DataError, match=r"a.json: item [12] has more than 65,536 bytes"):
        import_feedback("trl", [tmp_path / "a.json"], tmp_path / "out")
    (tmp_path / "b.csv").write_text("prompt,chosen,rejected\nQ,A," + "x" * 2**20 + "\n")
    with pytest.raises(DataError, match=r"b.csv:2: a line of more than 65,536 bytes"):
        import_feedback("columns", [tmp_path / "b.csv"], tmp_path / "out")
    # A quote that is never closed swallows lines only up to the limit.
    (tmp_path / "c.csv").write_text('prompt,chosen,rejected\nQ,"A,B\n' + "Q,A,B\n" * 20_000)
    report = import_feedback("columns", [tmp_path / "c.csv"], tmp_path / "out")
    assert report.bad_rows >= 1 and "field larger than field limit" in bad_rows(tmp_path / "out")[0]["reason"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "no such file"),
        ("notes.docx", b"x", "unknown format; give .jsonl, .json, .ndjson, .csv, .tsv, .parquet"),
        ("a.parquet.gz", b"x", "unknown format"),
        ("a.jsonl.gz", b"not gzip", "cannot be read"),
        ("cut.jsonl.gz", gzip.compress(json.dumps(pair()).encode() * 99, mtime=0)[:-20], "cannot be read"),
        ("empty.jsonl", b"\n", "no feedback in 0 rows"),
    ],
)
def test_files_that_are_none(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: {message}"):
        import_feedback("trl", [tmp_path / name], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_reasons_and_fields_do_not_grow_with_the_file():
    notes = Notes()
    for i in range(3 * MAX_REASONS):
        notes.skip(f"tree_state {i}")
    assert len(notes.skipped) == MAX_REASONS + 1 and notes.skipped["other reasons"].count == 2 * MAX_REASONS
    for i in range(3 * MAX_FIELDS_NAMED):
        notes.leave(Row({f"field {i}": 1}, "", ""))
    assert len(notes.fields_left) == MAX_FIELDS_NAMED + 1
    assert notes.fields_left["other fields"] == 2 * MAX_FIELDS_NAMED


def test_a_quarantine_keeps_the_first_rows_and_counts_all(tmp_path):
    quarantine = Quarantine(tmp_path / "bad.jsonl", max_bad_share=0.5, kept=3)
    for line in range(10):
        quarantine.set_aside(BadRow("f", line, "why"), "row")
    assert [row.line for row in quarantine.bad] == [0, 1, 2]
    assert quarantine.count == 10 == len((tmp_path / "bad.jsonl").read_text().splitlines())
    with pytest.raises(DataError, match="f:0: why; 10 of 10 rows are bad"):
        quarantine.check()


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv"])
def test_memory_does_not_grow_with_the_file(tmp_path, ending):
    """Ten times the rows, a tenth of them bad, in the memory of one."""

    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.{ending}"
        found = [pair(i) if i % 10 else {"prompt": "Q", "chosen": "only", "rejected": 7} for i in range(rows)]
        if ending == "csv":
            path.write_text("prompt,chosen,rejected\n" + "".join(f"{r['prompt']},yes\n" if r["rejected"] == 7 else f"{r['prompt']},yes,no\n" for r in found))  # fmt: skip # noqa: E501
        elif ending == "json":
            path.write_text(json.dumps(found))
        else:
            write_lines(path, found)
        del found
        tracemalloc.start()
        format = "columns" if ending == "csv" else "trl"
        report = import_feedback(format, [path], tmp_path / f"{rows}.out", max_bad_share=0.2)
        found_peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (report.rows, report.bad_rows) == (rows, rows // 10)
        return found_peak

    peak(100)  # imports and caches
    small, large = peak(400), peak(4_000)
    assert large < small + 200_000  # bytes; 3,600 rows as records would be several million


# Real files


@needs_data
def test_real_hh_harmless(tmp_path):
    report = import_feedback("hh-rlhf", [DATA / "hh_harmless.jsonl.gz"], tmp_path / "out")
    assert (report.rows, report.bad_rows, report.records) == (1812, 0, {"comparisons.jsonl": 1812})
    assert [(reason[:42], noted["count"]) for reason, noted in report.warnings.items()] == [
        ("the dialogues differ before the last turn;", 2)
    ]
    loaded = read_records(tmp_path / "out" / "comparisons.jsonl", Comparison).records
    assert all(record.prompt[0].role == record.prompt[-1].role == "user" for record in loaded)


@needs_data
def test_real_qa_feedback(tmp_path):
    report = import_feedback("fine-grained", [DATA / "qa_feedback.jsonl.gz"], tmp_path / "out")
    assert report.bad_rows == 0 and not report.warnings
    assert report.records["comparisons.jsonl"] == 6 * 350
    assert report.records["spans.jsonl"] == report.records["demonstrations.jsonl"] == 350
    for name, kind in (("spans", SpanFeedback), ("corrections", Correction), ("demonstrations", Demonstration)):
        loaded = read_records(tmp_path / "out" / f"{name}.jsonl", kind, max_bad_share=0.0)
        assert len(loaded.records) == report.records[f"{name}.jsonl"]
    with gzip.open(DATA / "qa_feedback.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    votes = [vote for row in rows for vote in row["preference"]]
    loaded = read_records(tmp_path / "out" / "comparisons.jsonl", Comparison).records
    assert [record.choice for record in loaded] == [{0: None, 1: 0, 2: 1}[vote] for vote in votes]


@needs_data
def test_real_judged_comparisons(tmp_path):
    path, reference = DATA / "judged_comparisons.jsonl.gz", DATA / "judged_reference.jsonl.gz"
    report = import_feedback("alpaca-eval", [path], tmp_path / "out", reference=reference)
    assert (report.bad_rows, report.records) == (0, {"comparisons.jsonl": 9799})
    with gzip.open(path, "rt", encoding="utf-8") as file:
        preferences = [json.loads(line)["preference"] for line in file]
    loaded = read_records(tmp_path / "out" / "comparisons.jsonl", Comparison).records
    assert [1 + 1 - record.probability for record in loaded] == pytest.approx(preferences, abs=1e-9)
    assert sum(record.choice is None for record in loaded) == 28


def test_records_know_the_lines_they_came_from(tmp_path):
    """Of several files, with a row that gives two records and one that gives none."""
    one = write_lines(tmp_path / "one.jsonl", ["{", json.dumps(pair(1))])
    rows = [task(annotation("left"), id=1), task(annotation("left"), annotation("right", id=2), id=2)]
    other = tmp_path / "two.json"
    other.write_text(json.dumps(rows))
    import_feedback("trl", [one], tmp_path / "trl", places=True, max_bad_share=1, bad_rows=tmp_path / "bad.jsonl")
    import_feedback("label-studio", [other], tmp_path / "studio", places=True)
    (where, record), *none = imported_records(tmp_path / "trl")
    assert (where, record.prompt[0].content, none) == (f"{one}:2", "question 1", [])
    assert [where for where, _ in imported_records(tmp_path / "studio")] == [f"{other}:{n}" for n in (1, 2, 2)]
    assert [row["line"] for row in map(json.loads, (tmp_path / "bad.jsonl").read_text().splitlines())] == [1]
    assert not list(tmp_path.glob("trl.bad*"))
