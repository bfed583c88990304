"""Timings are no part of any test: a loaded machine must not fail one."""

import pytest
import torch
from hypothesis import settings

settings.register_profile("loopwright", deadline=None)
settings.load_profile("loopwright")


@pytest.fixture
def threads(request):
    """So many of torch's threads inside the test: `@pytest.mark.parametrize("threads", [1, 2], indirect=True)`."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
