import codecs
import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from loopwright.data.readers import Quarantine, decode, html_text, read_records, read_texts, write_records
from loopwright.errors import DataError
from loopwright.schemas import Demonstration, Message

PAGE = (
    "<html><head><title>T</title><style>p {}</style></head><body><nav>Home | About</nav><h1>Pool</h1>"
    "<p>It closes\n at <b>six</b>.<br>Bring a towel.</p><script>track()</script><ul><li>Fins</li><li>Masks</li></ul>"
    "<footer>All rights reserved</footer></body></html>"
)
PAGE_TEXT = "Pool\nIt closes at six.\nBring a towel.\nFins\nMasks"


def texts(*paths: Path, **options) -> list[str]:
    return [document.text for document in read_texts(paths, **options)]


def test_every_format_plain_and_gzipped_in_one_folder(tmp_path):
    (tmp_path / "deeper").mkdir()
    table = pyarrow.table({"text": ["from parquet", "again"], "label": [0, 1]})
    pyarrow.parquet.write_table(table, tmp_path / "d.parquet")
    contents = {
        "a.txt": b"plain text",
        "b.html": PAGE.encode(),
        "c.jsonl": b'{"text": "first line"}\n\n{"text": "second line", "id": 3}\n',
        "d.parquet": (tmp_path / "d.parquet").read_bytes(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / "deeper" / f"{name}.gz").write_bytes(gzip.compress(content))
    (tmp_path / ".hidden").write_text("not data")
    expected = ["plain text", PAGE_TEXT, "first line", "second line", "from parquet", "again"]
    assert texts(tmp_path) == [*expected, *expected]
    sources = [document.source for document in read_texts([tmp_path / "c.jsonl"])]
    assert sources == [f"{tmp_path / 'c.jsonl'}:1", f"{tmp_path / 'c.jsonl'}:3"]


def test_several_documents_in_one_txt_file(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("one\nmore\n<|endoftext|>\ntwo <|endoftext|> words\n<|endoftext|>\n\n<|endoftext|>\nthree\ffour")
    documents = list(read_texts([path]))
    assert [d.text.strip() for d in documents] == ["one\nmore", "two <|endoftext|> words", "three", "four"]
    assert [d.source for d in documents] == [str(path), f"{path}:4", f"{path}:8", f"{path}:8"]


def test_another_field_of_jsonl_and_parquet(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"review": "good"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"review": ["bad"]}), tmp_path / "b.parquet")
    assert texts(tmp_path, text_field="review") == ["good", "bad"]


def test_html_without_scripts_menus_and_source_line_breaks():
    assert html_text(PAGE) == PAGE_TEXT
    assert html_text("<pre>a\n  b</pre>").split("\n")[0] == "a"
    assert html_text("") == ""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("café".encode(), "café"),
        ("\ufeffcafé".encode(), "café"),
        ("café".encode("utf-16"), "café"),
        ("“café”".encode("cp1252"), "“café”"),
        ("é\n".encode() + "é".encode("cp1252"), "é\né"),  # glued from two sources
    ],
)
def test_encodings(content, text):
    assert decode(content) == text


def test_a_broken_line_is_set_aside_named_and_counted(tmp_path):
    path = tmp_path / "corpus.jsonl"
    rows = [json.dumps({"text": f"document {i}"}) for i in range(40)]
    rows[6], rows[9] = '{"text": "cut o', '{"title": "no text"}'
    path.write_text("\n".join(rows))
    quarantine = Quarantine(tmp_path / "bad_rows.jsonl", max_bad_share=0.05)
    assert len(texts(path, quarantine=quarantine)) == 38
    assert [row.where for row in quarantine.bad] == [f"{path}:7", f"{path}:10"]
    assert quarantine.bad[0].reason.startswith("not JSON (Unterminated string")
    assert quarantine.bad[1].reason == 'no text in "text"; found "title"'
    written = [json.loads(line) for line in (tmp_path / "bad_rows.jsonl").read_text().splitlines()]
    assert [(row["line"], row["row"]) for row in written] == [(7, rows[6]), (10, rows[9])]


def test_a_byte_order_mark_is_no_broken_line(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + b'{"text": "first"}\n{"text": "second"}\n')
    assert texts(path) == ["first", "second"]


def test_too_many_broken_lines_stop_the_run(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "fine"}\n{"text": 3}\n' + '{"text": "fine"}\n' * 8)
    with pytest.raises(DataError, match=r'corpus.jsonl:2: no text in "text".* 1 of 10 rows .* max_bad_share = 0.05'):
        texts(path)
    assert len(texts(path, quarantine=Quarantine(max_bad_share=0.1))) == 9


def test_records_with_where_they_stand(tmp_path):
    good = Demonstration(id="a", prompt=(Message(role="user", content="When?"),), response="At six.")
    path = tmp_path / "demonstrations.jsonl.gz"
    write_records(path, [good] * 30)
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    lines[2:2] = ["", '{"id": "b", "prompt": []}', "{"]
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    loaded = read_records(path, Demonstration, max_bad_share=0.1, quarantine_file=tmp_path / "bad.jsonl")
    assert loaded.records == [good] * 30
    assert loaded.sources[:3] == [f"{path}:1", f"{path}:2", f"{path}:6"]
    assert [(row.line, row.reason.split(":")[0]) for row in loaded.bad] == [(4, '"prompt"'), (5, "Invalid JSON")]
    with pytest.raises(DataError, match=r"demonstrations.jsonl.gz:4: .* 2 of 32 rows are bad"):
        read_records(path, Demonstration, max_bad_share=0.01)


def test_written_records_are_the_same_bytes_each_time(tmp_path):
    rows = [{"text": "café \ud83d"}]
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_records(tmp_path / name, rows)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert texts(tmp_path / "a.jsonl.gz") == ["café ?"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "no such file or folder"),
        ("notes.docx", b"x", "unknown format; give .txt"),
        ("empty.jsonl", b"", "no documents"),
        ("broken.txt.gz", b"not gzip", "cannot be read .* check that it is whole"),
        ("cut.jsonl.gz", gzip.compress(b'{"text": "a long line"}\n' * 99, mtime=0)[:-20], "cannot be read"),
        ("broken.parquet", b"PAR", "not a parquet file"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: {message}"):
        texts(tmp_path / name)


def test_a_folder_with_other_files_says_which(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.csv").write_text("x,y")
    with pytest.raises(DataError, match=r"b.csv: unknown format, as 1 of the 2 files"):
        texts(tmp_path)


def test_an_empty_or_missing_record_file(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_records(tmp_path / "none.jsonl", Demonstration)
    with pytest.raises(DataError, match="is a folder; name a file in it"):
        read_records(tmp_path, Demonstration)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="the data set is empty; it needs at least one Demonstration a line"):
        read_records(tmp_path / "empty.jsonl", Demonstration)
