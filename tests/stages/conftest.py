"""What tests of several stages need."""

import pytest


@pytest.fixture
def office(tmp_path, monkeypatch):
    """An annotation server on a socket, whose token the stages have."""
    from loopwright.feedback import asking
    from tests.feedback.web.people import Office

    monkeypatch.setattr(asking, "POLL_SECONDS", 0.05)
    with Office(tmp_path) as office:
        monkeypatch.setenv("LOOPWRIGHT_FEEDBACK_TOKEN", office.token)
        yield office
