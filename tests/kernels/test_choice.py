import json
import os
from contextlib import nullcontext

import pytest
import torch

from loopwright.errors import ConfigError
from loopwright.kernels import choice, library, linear
from loopwright.kernels.linear import Products


@pytest.fixture(autouse=True)
def as_before():
    yield
    library.switch(on=True)
    linear.use(Products())


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """A machine with a cache of its own, and how often it was measured."""
    calls = []
    monkeypatch.setattr(library, "machine_folder", lambda: tmp_path)
    monkeypatch.setattr(choice, "_measured", lambda: calls.append(1) or Products("onednn", "packed"))
    return calls


def test_a_machine_is_measured_once(measured, tmp_path):
    first = choice.choose()
    assert choice.choose() == first and first.products == Products("onednn", "packed") and len(measured) == 1
    assert linear._products == first.products


def test_a_run_goes_on_as_it_began(measured, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "kernels.json").write_text(json.dumps({"operations": "torch", "products": Products()._asdict()}))
    assert choice.choose(run) == choice.Choice("torch", Products())
    assert library.library() is None and not measured
    choice.choose()
    assert (library.library() is None) == (library.compiled() is None)


def test_a_choice_is_written_into_the_run(measured, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    first = choice.choose(run)
    next(tmp_path.glob("products-*")).unlink()
    assert choice.choose(run) == first and len(measured) == 1


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"operations": "cuda"}', '{"operations": "c", "products": {"x": 1}}']
)
def test_a_damaged_choice_is_made_again(measured, tmp_path, damage):
    choice.choose(tmp_path)
    (tmp_path / "kernels.json").write_text(damage)
    assert choice.choose(tmp_path).products == Products("onednn", "packed")


def test_a_run_that_began_in_c_needs_a_compiler(measured, tmp_path, monkeypatch):
    (tmp_path / "kernels.json").write_text(json.dumps({"operations": "c", "products": Products()._asdict()}))
    monkeypatch.setattr(library, "compiled", lambda: None)
    with pytest.raises(ConfigError, match="kernels.json: the run began with operations in C, which no compiler"):
        choice.choose(tmp_path)


def test_without_a_compiler_torch_computes(measured, tmp_path, monkeypatch):
    monkeypatch.setattr(library, "compiled", lambda: None)
    assert choice.choose(tmp_path).operations == "torch"


GOOD, SLOW, WRONG = (1.0, 0.0), (1.9, 0.0), (1.0, 1e-3)  # seconds where MKL takes 2, error of the largest number


@pytest.mark.parametrize(
    ("learning", "sampling", "taken"),
    [
        (GOOD, GOOD, Products("onednn", "packed")),
        (SLOW, GOOD, Products("mkl", "packed")),
        (WRONG, GOOD, Products("mkl", "packed")),
        (GOOD, SLOW, Products("onednn", "mkl")),
        (GOOD, WRONG, Products("onednn", "mkl")),
    ],
)
def test_a_measurement_takes_what_is_accurate_and_faster(monkeypatch, learning, sampling, taken):
    """1.9 seconds for 2 is too little to change for."""
    of_rows = {choice.ROWS_LEARNING: learning, choice.ROWS_SAMPLING: sampling}
    ran: list[float] = []

    def onednn(x, weight):
        seconds, error = of_rows[len(x)]
        ran.append(seconds)
        right = x @ weight.T
        return right + error * right.abs().max()

    def seconds_of(product):
        ran.clear()
        product()
        return ran[0] if ran else 2.0

    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(choice, "onednn", onednn)
    monkeypatch.setattr(choice, "pack", lambda weight, _rows: weight)
    monkeypatch.setattr(choice, "_seconds", seconds_of)
    assert choice._measured() == taken


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_what_is_measured_is_the_same_product(monkeypatch):
    """Were one of the two always faster: it is taken, so oneDNN's numbers, packed and not, are accurate here."""
    timed: list[int] = []
    monkeypatch.setattr(choice, "_seconds", lambda _product: timed.append(1) or 1.0 / len(timed) ** 2)
    assert choice._measured() == Products("onednn", "packed") and len(timed) == 4


def test_without_onednn_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    monkeypatch.setattr(choice, "_seconds", None)
    assert choice._measured() == Products()


@pytest.mark.parametrize("command", ["no-such-compiler", "false"])
def test_no_compiler_or_a_broken_one_is_none(monkeypatch, tmp_path, command):
    monkeypatch.setenv("CC", command)
    monkeypatch.setattr(library, "machine_folder", lambda: tmp_path)
    fails = pytest.warns(UserWarning, match="false could not compile cpu.c .*torch computes instead")
    with fails if command == "false" else nullcontext():
        assert library.compiled.__wrapped__() is None


@pytest.mark.skipif(os.name != "posix", reason="rights of files as POSIX has them")
def test_a_folder_that_others_may_write_to_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert library.machine_folder.__wrapped__() == tmp_path / "loopwright"
    (tmp_path / "loopwright").chmod(0o777)
    with pytest.warns(UserWarning, match="is not used .others can write to it.*set XDG_CACHE_HOME"):
        other = library.machine_folder.__wrapped__()
    assert other != tmp_path / "loopwright" and other.stat().st_mode & 0o077 == 0
