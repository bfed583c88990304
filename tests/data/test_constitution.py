import pytest

from loopwright.data.constitution import dump_constitution, load_constitution
from loopwright.errors import ConfigError
from loopwright.worlds import WORLDS

GOOD = """
principles:
  - id: kind
    critique_request: "Is it unkind?"
    revision_request: "Write it kindly."
    preference_question: "Which is kinder?"
"""


def read(folder, text):
    path = folder / "constitution.yaml"
    path.write_text(text, encoding="utf-8")
    return load_constitution(path)


def test_a_constitution_is_read_and_written_back(tmp_path):
    (kind,) = read(tmp_path, GOOD).principles
    assert (kind.id, kind.revision_request) == ("kind", "Write it kindly.")
    own = WORLDS["front_desk"].constitution
    assert read(tmp_path, dump_constitution(own)) == own


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "constitution.yaml: principles is missing"),
        ("principles: []", r":1: principles = \[\]: tuple should have at least 1 item"),
        ("principle: []", r":1: unknown key principle; did you mean principles\?"),
        (GOOD.replace("critique_request", "critique"), r":4: unknown key principles.0.critique; did you mean"),
        (GOOD.replace('    critique_request: "Is it unkind?"\n', ""), "principles.0.critique_request is missing"),
        (GOOD.replace("Write it kindly.", "  "), r":5: principles.0.revision_request = '  ': string should have at"),
        (GOOD.replace("kind\n", "Kind!\n", 1), r":3: principles.0.id = 'Kind!': string should match"),
        (GOOD + GOOD.replace("\nprinciples:\n", ""), "two principles have the id kind; give each an id of its own"),
        (GOOD + "    id: other\n", r":7: id is written twice \(first at .*:3\); keep one"),
        ("- id: kind", "found a list where a mapping"),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)
