import pytest
import torch

from loopwright.rewards.calibration import calibration, preference_probability


def test_by_hand():
    """Two bins: 0.25 said, 1/2 seen, twice; 0.9 said, all seen, once. ECE = 2/3 * 0.25 + 1/3 * 0.1."""
    got = calibration(torch.tensor([0.25, 0.25, 0.9]), torch.tensor([True, False, True]), bins=2)
    assert [row["count"] for row in got["bins"]] == [2, 1]
    assert got["bins"][0]["predicted"] == 0.25 and got["bins"][0]["observed"] == 0.5
    assert got["ece"] == pytest.approx(2 / 3 * 0.25 + 1 / 3 * 0.1)


def test_an_honest_model_has_no_error():
    generator = torch.Generator().manual_seed(0)
    predicted = torch.rand(50_000, generator=generator)
    observed = torch.rand(50_000, generator=generator) < predicted
    assert calibration(predicted, observed)["ece"] < 0.01
    assert calibration(predicted, ~observed)["ece"] > 0.4


def test_certainty_falls_in_the_last_bin():
    got = calibration(torch.tensor([1.0, 0.0]), torch.tensor([True, False]))
    assert got["bins"][-1]["count"] == got["bins"][0]["count"] == 1 and got["ece"] == 0.0


def test_probability_by_hand():
    got = preference_probability(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]), scale=2.0)
    assert got.tolist() == pytest.approx([0.5, 0.880797], abs=1e-6)
