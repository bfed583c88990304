"""Timings are no part of any test: a loaded machine must not fail one."""

import os

import pytest
import torch
from hypothesis import settings

from loopwright.kernels import library, linear

# The same examples each time, so that no change fails by chance; `make test-all` looks for new ones.
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("new", deadline=None)
settings.load_profile(os.environ.get("LOOPWRIGHT_EXAMPLES", "same"))


@pytest.fixture
def threads(request):
    """So many of torch's threads inside the test: `@pytest.mark.parametrize("threads", [1, 2], indirect=True)`."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def kernels_in_torch():
    """Inside the test every fused operation is torch's own."""
    library.switch(on=False)
    yield
    library.switch(on=True)


@pytest.fixture
def products_packed(monkeypatch):
    """Inside the test every matrix, however small, is oneDNN's, arranged beforehand for sampling."""
    monkeypatch.setattr(linear, "SMALLEST", 1)
    linear.use(linear.Products("onednn", "packed"))
    yield
    linear.use(linear.Products())
