"""Muon stack by stack: the same update as torch's, matrix by matrix."""

import pytest
import torch
from torch.testing import assert_close

from loopwright.training import muon
from loopwright.training.muon import StackedMuon, orthogonal

SHAPES = [(8, 8), (20, 8), (8, 20), (8, 8), (20, 8), (1, 6)]
SETTINGS = {"lr": 0.02, "weight_decay": 0.1}


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def trained(make, steps):
    parameters = [torch.nn.Parameter(weight) for weight in drawn(100)]
    optimizer = make(parameters)
    for step in range(steps):
        for parameter, gradient in zip(parameters, drawn(step), strict=True):
            parameter.grad = gradient
        optimizer.step()
    return parameters


@pytest.mark.parametrize("at_once", [1, 130, muon.NUMBERS_AT_ONCE])  # one by one, two by two, all of a shape
def test_it_is_the_update_of_torch(monkeypatch, at_once):
    monkeypatch.setattr(muon, "NUMBERS_AT_ONCE", at_once)
    ours = trained(lambda p: StackedMuon(p, **SETTINGS), 4)
    theirs = trained(lambda p: torch.optim.Muon(p, **SETTINGS), 4)
    for a, b, before in zip(ours, theirs, drawn(100), strict=True):
        assert_close(a, b, rtol=0, atol=4 * 0.02 * 2**-7)  # bfloat16 directions of size 1 at most
        assert (a - before).abs().max() > 0.02


def test_a_matrix_without_gradient_stays_as_it_is():
    parameters = [torch.nn.Parameter(weight) for weight in drawn(100)]
    parameters[0].grad = drawn(0)[0]
    StackedMuon(parameters, **SETTINGS).step()
    changed = [not torch.equal(a, b) for a, b in zip(parameters, drawn(100), strict=True)]
    assert changed == [True] + [False] * (len(SHAPES) - 1)


@pytest.mark.parametrize("shape", [(8, 8), (30, 8), (8, 30)])
def test_singular_values_become_about_one_and_vectors_stay(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    inside = u.mT @ orthogonal(matrices).float() @ vh.mT  # diagonal, were it not for rounding
    diagonal = inside.diagonal(dim1=1, dim2=2)
    assert ((diagonal > 0.6) & (diagonal < 1.3)).all()
    assert (inside - torch.diag_embed(diagonal)).abs().max() < 0.05


def test_a_zero_gradient_only_decays():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    StackedMuon([weight], lr=0.1, weight_decay=0.5).step()
    assert_close(weight.detach(), torch.full((4, 4), 1 - 0.1 * 0.5))


def test_only_matrices_are_taken():
    with pytest.raises(ValueError, match="2D"):
        StackedMuon([torch.nn.Parameter(torch.ones(3))], **SETTINGS)
