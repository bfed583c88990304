"""The fingerprint sees every module that a stage can reach, and nothing else."""

import sys

import pytest

from loopwright.errors import ArtifactError
from loopwright.loop.table import STAGES
from loopwright.tracking import code_fingerprint, code_hashes, fingerprint, library_versions


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the same name elsewhere: a imports b (in a function) and c.d; e is nobody's."""
    root = tmp_path / "loopwright"
    (root / "c").mkdir(parents=True)
    for name, source in {
        "__init__": "",
        "a": "def f():\n    from loopwright.b import thing\n",
        "b": "import numpy\nfrom loopwright import c\nimport loopwright.c.d as d\n",
        "c/__init__": "from .d import x\n",
        "c/d": "from . import g\nx = 1\n",
        "c/g": "",
        "e": "",
    }.items():
        (root / f"{name}.py").write_text(source)
    monkeypatch.setattr(fingerprint, "_ROOT", root)
    code_hashes.cache_clear()
    yield root
    code_hashes.cache_clear()


def test_it_follows_imports_and_only_those(package):
    assert list(code_hashes("loopwright.a")) == [
        "loopwright",
        "loopwright.a",
        "loopwright.b",
        "loopwright.c",
        "loopwright.c.d",
        "loopwright.c.g",
    ]


@pytest.mark.parametrize(("name", "moves"), [("a", True), ("b", True), ("c/g", True), ("e", False)])
def test_it_moves_with_what_is_reached(package, name, moves):
    before = code_fingerprint("loopwright.a")
    path = package / f"{name}.py"
    path.write_text(path.read_text() + "y = 2\n")
    code_hashes.cache_clear()
    assert (code_fingerprint("loopwright.a") != before) is moves


def test_what_a_module_compiles_belongs_to_it(package):
    before = code_fingerprint("loopwright.a")
    for folder, moves in (("c", True), ("e_folder", False)):
        (package / folder).mkdir(exist_ok=True)
        (package / folder / "fast.c").write_text("int x;")
        code_hashes.cache_clear()
        assert (code_fingerprint("loopwright.a") != before) is moves
        before = code_fingerprint("loopwright.a")
    assert "loopwright.c/fast.c" in code_hashes("loopwright.a")


def test_it_imports_nothing(package):
    code_hashes("loopwright.a")
    assert "loopwright.a" not in sys.modules


def test_a_module_without_a_file_is_refused():
    with pytest.raises(ArtifactError, match="the source of nowhere cannot be found"):
        code_hashes("nowhere")


def test_versions_name_what_numbers_depend_on():
    versions = library_versions()
    assert versions["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert {"torch", "transformers", "numpy"} <= versions.keys()


@pytest.mark.parametrize("stage", sorted({where.partition(":")[0].rpartition(".")[2] for where in STAGES.values()}))
def test_no_stage_counts_another_one_as_its_code(stage):
    """Or changing one would make all of them stale. The parts of a stage bear its name; some are shared."""
    reached = {name for name in code_hashes(f"loopwright.stages.{stage}") if name.startswith("loopwright.stages.")}
    assert {"loopwright.stages.base", f"loopwright.stages.{stage}"} <= reached
    own = f"loopwright.stages.{stage.removesuffix('_of_part')}"  # the reward stage, under two other names
    shared = tuple(f"loopwright.stages.{name}" for name in ("base", "asked", "sampled", "direct"))
    assert [name for name in reached if not name.startswith((*shared, f"{own}_")) and name != own] == []
    assert "loopwright.library" not in code_hashes(f"loopwright.stages.{stage}")
