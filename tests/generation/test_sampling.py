import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch.testing import assert_close

from loopwright.generation.base import SamplingConfig
from loopwright.generation.sampling import sample_tokens, sampling_logprobs, uniforms


def test_inverse_cdf_by_hand():
    logprobs = torch.tensor([[0.25, 0.0, 0.5, 0.25]]).log().expand(5, 4)
    uniform = torch.tensor([0.0, 0.2499, 0.25, 0.7499, 0.75])
    assert sample_tokens(logprobs, uniform, SamplingConfig()).tolist() == [0, 0, 2, 2, 3]


def test_greedy_takes_the_likeliest():
    assert (
        sample_tokens(torch.tensor([[0.1, 0.7, 0.2]]).log(), torch.tensor([0.99]), SamplingConfig(temperature=0)) == 1
    )


def test_nucleus_by_hand():
    """0.5 and 0.3 reach 0.7: the rest is cut, and the two share the line 0.5 : 0.3."""
    logprobs = torch.tensor([[0.1, 0.5, 0.1, 0.3]]).log().expand(3, 4)
    uniform = torch.tensor([0.0, 0.62, 0.63])
    assert sample_tokens(logprobs, uniform, SamplingConfig(top_p=0.7)).tolist() == [1, 1, 3]


def test_forbidden_tokens_share_no_probability():
    got = sampling_logprobs(torch.zeros(1, 4), torch.tensor([1, 3]), temperature=1.0).exp()
    assert_close(got, torch.tensor([[0.5, 0.0, 0.5, 0.0]]))


@given(seed=st.integers(0, 2**63 - 1), temperature=st.floats(0.1, 3))
def test_temperature_divides_the_logits(seed, temperature):
    logits = torch.randn(2, 7, generator=torch.Generator().manual_seed(seed % 2**32))
    none = torch.tensor([], dtype=torch.int64)
    assert_close(sampling_logprobs(logits, none, temperature), (logits / temperature).log_softmax(-1))


@settings(max_examples=20)
@given(seeds=st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=5), steps=st.integers(1, 9))
def test_numbers_depend_on_seed_and_step_alone(seeds, steps):
    got = uniforms(seeds, steps)
    for row, seed in enumerate(seeds):
        assert torch.equal(got[row], uniforms([seed], steps + 3)[0, :steps])


def test_numbers_are_uniform_and_unrelated():
    got = uniforms(range(2000), 50)
    assert got.min() >= 0 and got.max() < 1
    counts = torch.histc(got, 20, 0, 1)
    assert (counts - 5000).abs().max() < 5 * 5000**0.5
    pairs = torch.corrcoef(torch.stack((got[:-1].flatten(), got[1:].flatten())))[0, 1]
    steps = torch.corrcoef(torch.stack((got[:, :-1].flatten(), got[:, 1:].flatten())))[0, 1]
    assert abs(pairs) < 0.015 and abs(steps) < 0.015


def test_the_largest_number_still_hits_a_token():
    """Rounding must not push the threshold past the last token that may be sampled."""
    logprobs = torch.tensor([[1.0] * 999 + [0.0]]).log().log_softmax(-1)
    assert sample_tokens(logprobs, torch.tensor([1 - 2**-23]), SamplingConfig()) == 998


def test_greedy_with_top_k_is_refused():
    with pytest.raises(ValidationError, match="top_k has no effect at temperature = 0"):
        SamplingConfig(temperature=0, top_k=5)
