"""The table in docs/ppo.md: each detail that decides whether PPO works, our code, its test, and what others do."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "ppo.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in re.findall(r"^\| *\d+ \|.*$", PAGE, re.M)]
DETAILS = 30  # of the list that the implementations were read with


@cache
def defined(path: Path) -> set[str]:
    """The functions and classes of a module, methods included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def named(cell: str) -> list[tuple[str, str]]:
    """(file, name) of a cell like "`file.py: name, name`, `other.py: name`"."""
    listed = r"`([\w/]+\.py): (\w+(?:, \w+)*)`"
    assert re.fullmatch(rf"{listed}(?:, {listed})*", cell), cell
    return [(path, name) for path, names in re.findall(listed, cell) for name in names.split(", ")]


def test_every_detail_has_one_row():
    assert [int(row[0]) for row in ROWS] == list(range(1, DETAILS + 1))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_names_what_exists(row):
    number, what, ours, test, peers = row
    assert what and peers, f"row {number} leaves a cell empty; write - where all are alike"
    for cell, folder in ((ours, ROOT / "loopwright"), (test, ROOT / "tests")):
        missing = [f"{path}: {name}" for path, name in named(cell) if name not in defined(folder / path)]
        assert not missing, f"row {number} names what is not there: {missing}"
    assert all(name.startswith("test_") for _, name in named(test)), f"row {number}: {test}"
