"""Small files that would become large: refused, with what and where, in little memory."""

import csv
import gzip
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from loopwright.data.importers import UPLOADED, Limits, import_feedback, run
from loopwright.data.importers.sources import MAX_COLUMNS, MAX_DEPTH, open_source
from loopwright.errors import DataError

PAIR = {"prompt": "Q", "chosen": "yes", "rejected": "no"}


def rows_file(path: Path, count: int) -> Path:
    """So many rows in the format of the path's ending."""
    if path.name.endswith(".parquet"):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([PAIR] * count), path)
        return path
    text = json.dumps([PAIR] * count) if ".json." in f"{path.name}." else (json.dumps(PAIR) + "\n") * count
    if ".csv" in path.name or ".tsv" in path.name:
        cell = "," if ".csv" in path.name else "\t"
        text = f"prompt{cell}chosen{cell}rejected\n" + f"Q{cell}yes{cell}no\n" * count
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


ENDINGS = ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "json.gz", "csv.gz"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_rows_are_limited(tmp_path, ending):
    path = rows_file(tmp_path / f"rows.{ending}", 11)
    where = 12 if ending.startswith(("csv", "tsv")) else 11  # a table's header is its first line
    with pytest.raises(DataError, match=rf"rows.{ending}:{where}: more than 10 rows; split the file"):
        import_feedback("columns", [path], tmp_path / "out", limits=Limits(rows=10))
    assert not (tmp_path / "out").exists()
    assert import_feedback("columns", [path], tmp_path / "out", limits=Limits(rows=11)).rows == 11


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_size_of_a_file_is_limited_before_it_is_read(tmp_path, ending):
    path = rows_file(tmp_path / f"rows.{ending}", 3)
    size = path.stat().st_size
    with (
        pytest.raises(DataError, match=rf"rows.{ending}: {size:,} bytes, more than {size - 1:,}; split the file"),
        open_source(path, Limits(file_bytes=size - 1)),
    ):
        pytest.fail("it was opened")
    with open_source(path, Limits(file_bytes=size)) as source:
        assert len(list(source.items)) == 3


@pytest.mark.parametrize("ending", ["jsonl.gz", "json.gz", "csv.gz", "parquet"])
def test_what_comes_out_of_a_packed_file_is_limited(tmp_path, ending):
    path = rows_file(tmp_path / f"rows.{ending}", 3_000)  # 18,000 letters at least
    with pytest.raises(DataError, match=rf"rows.{ending}: unpacks to more than 10,000 bytes; split the file"):
        import_feedback("columns", [path], tmp_path / "out", limits=Limits(unpacked_bytes=10_000))
    assert import_feedback("columns", [path], tmp_path / "out", limits=Limits(unpacked_bytes=10**6)).rows == 3_000


def test_an_upload_of_zeros(tmp_path):
    """128 MiB in 128 KiB, all one line."""
    path = tmp_path / "zeros.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(32):
            file.write(b"0" * 2**22)
    assert path.stat().st_size < 2**18
    with memory_below(2**26), pytest.raises(DataError, match="zeros.jsonl.gz: expands to more than 200 times"):
        import_feedback("columns", [path], tmp_path / "out", max_bad_share=1.0, limits=UPLOADED)


def test_one_endless_line(tmp_path):
    path = tmp_path / "line.jsonl"
    with path.open("wb") as file:
        file.write(b'{"prompt": "')
        for _ in range(40):
            file.write(b"x" * 2**20)
    with memory_below(2**26), open_source(path, UPLOADED) as source:
        (item,) = source.items
    assert item.values is None and item.problem == "a line of more than 16,777,216 bytes"


@pytest.mark.parametrize("opening", ['{"a":', "[", '{"a":['])
@pytest.mark.parametrize("depth", [MAX_DEPTH, 100_000])
def test_a_line_nested_too_deeply(tmp_path, opening, depth):
    closing = "".join({"{": "}", "[": "]"}.get(letter, "") for letter in reversed(opening))
    deep = '{"b":' + opening * depth + "1" + closing * depth + "}"
    (tmp_path / "deep.jsonl").write_text(deep + "\n" + json.dumps(PAIR) + "\n")
    with open_source(tmp_path / "deep.jsonl") as source:
        first, second = source.items
    assert (first.problem, second.values) == ("nested too deeply", PAIR)


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_the_deepest_row_that_is_taken(tmp_path, ending):
    """Lines and items of an array have the same limit; brackets within texts do not count."""
    for depth, problem in ((MAX_DEPTH, ""), (MAX_DEPTH + 1, "nested too deeply")):
        row = '{"a":' * depth + '"' + "[{" * 400 + '"' + "}" * depth
        path = tmp_path / f"rows.{ending}"
        path.write_text(row if ending == "jsonl" else f"[{row}]")
        with open_source(path) as source:
            assert [item.problem for item in source.items] == [problem]


def test_a_table_of_a_million_columns(tmp_path):
    path = tmp_path / "wide.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerow(map(str, range(10**6)))
    with pytest.raises(DataError, match=rf"wide.csv: 1,000,000 columns, more than {MAX_COLUMNS:,}"):
        import_feedback("columns", [path], tmp_path / "out")


def completions(prompt: str, count: int) -> dict:
    rated = {"response": "A", "annotations": {"honesty": {"Rating": "5"}}}
    return {"instruction": prompt, "completions": [rated] * count}


def test_a_row_whose_records_repeat_its_prompt(tmp_path):
    """A hundred thousand ratings of one prompt of a million letters: 100 GB as records."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(completions("x" * 10**6, 100_000)) + "\n" + json.dumps(completions("Q", 2)) + "\n")
    report = import_feedback("ultrafeedback", [path], tmp_path / "out", max_bad_share=0.5)
    assert (report.bad_rows, report.records) == (1, {"ratings.jsonl": 2})
    bad = json.loads(Path(f"{tmp_path}/out.bad_rows.jsonl").read_text())
    assert (bad["line"], bad["reason"]) == (1, "records of more than 67,108,864 bytes, for each repeats the prompt")


def test_all_records_together_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "MAX_RECORDS_BYTES", 10**6)
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps(completions("x" * 1000, 10)) + "\n") * 20)  # 10,000 letters a row, and more
    with pytest.raises(DataError, match=r"rows.jsonl:\d+: the records have too many bytes"):
        import_feedback("ultrafeedback", [path], tmp_path / "out", limits=Limits(records_bytes=100_000))
    assert not (tmp_path / "out").exists()
    assert import_feedback("ultrafeedback", [path], tmp_path / "out", limits=Limits(records_bytes=10**6)).rows == 20


def test_a_parquet_row_group_is_measured_before_it_is_unpacked(tmp_path, monkeypatch):
    """Sixteen texts of a million letters each, in a few kilobytes."""
    path = tmp_path / "rows.parquet"
    texts = [f"{i}" + "x" * 10**6 for i in range(16)]
    pyarrow.parquet.write_table(pyarrow.table({"prompt": texts}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(DataError, match="rows.parquet: unpacks to more than 1,000,000 bytes"):
        import_feedback("columns", [path], tmp_path / "out", limits=Limits(unpacked_bytes=10**6))


def test_a_parquet_schema_nested_too_deeply(tmp_path):
    kind = pyarrow.int64()
    for _ in range(150):
        kind = pyarrow.struct([("a", kind)])
    table = pyarrow.table({"x": pyarrow.array([None], kind)})
    pyarrow.parquet.write_table(table, tmp_path / "deep.parquet", store_schema=False)
    with pytest.raises(DataError, match="deep.parquet: cannot be read .*too deeply nested"):
        import_feedback("columns", [tmp_path / "deep.parquet"], tmp_path / "out")


def test_what_people_send_has_every_limit():
    assert None not in UPLOADED
