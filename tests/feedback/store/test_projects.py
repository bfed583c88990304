"""Projects: their settings, and who they let in."""

import pytest
from pydantic import ValidationError

from loopwright.feedback.projects import ProjectConfig
from loopwright.feedback.store import projects
from tests.feedback.store.team import Team


def test_a_seed_that_nobody_gave_is_drawn_and_stays(store):
    one, other = Team(store, seed=None), Team(store, seed=None)
    assert one.project.config.seed != other.project.config.seed  # alike once in 2^53
    again = one.write(projects.change_project, one.id, config=ProjectConfig(kind="comparison", overlap=2))
    assert again.config.seed == one.project.config.seed == one.read(projects.get_project, one.id).config.seed
    given = one.write(projects.change_project, one.id, config=ProjectConfig(kind="comparison", seed=7))
    assert given.config.seed == 7


@pytest.mark.parametrize(
    ("name", "value"), [("lease_minutes", 10**400), ("overlap", 2**63), ("overlap", 0), ("seed", 2**63)]
)
def test_numbers_that_no_database_holds_are_refused(name, value):
    with pytest.raises(ValidationError, match=name):
        ProjectConfig(kind="comparison", **{name: value})
