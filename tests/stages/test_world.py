import hashlib
import json

import pytest

from loopwright.config import build
from loopwright.data.constitution import load_constitution
from loopwright.data.readers import read_records
from loopwright.errors import ConfigError
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Demonstration
from loopwright.stages import world
from loopwright.stages.world import WorldConfig, WorldInputs
from loopwright.tracking.artifacts import hash_files
from loopwright.worlds import WORLDS
from loopwright.worlds.front_desk import lexicon
from loopwright.worlds.front_desk.grammar import read

SMALL = dict(documents=300, held_out_documents=20, demonstrations=100, train_prompts=200, test_prompts=50)
# Recorded before there were skills. It changes only with the world itself, and then every figure of it does.
WITHOUT_SKILLS = "0f9a99261c9c3959784badf96ed7568b7f675d645ea7b5de7496666593ed2a4d"


def written(folder, **changes):
    runtime = Runtime.temporary(folder)
    metrics = world.run(build(WorldConfig, SMALL | changes, "test"), WorldInputs(), runtime).metrics
    return runtime.output, metrics


def test_a_world_without_skills_is_bit_for_bit_what_it_was(tmp_path):
    output, _ = written(tmp_path)
    assert hashlib.sha256(json.dumps(hash_files(output), sort_keys=True).encode()).hexdigest() == WITHOUT_SKILLS


def test_a_skill_adds_its_share_and_changes_nothing_else(tmp_path):
    plain, _ = written(tmp_path / "plain")
    skilled, metrics = written(tmp_path / "skilled", skills=["critique"], skill_share=0.1)
    assert metrics["documents"] == 330 and metrics["demonstrations"] == 110
    notes = [(folder / "corpus/notes.txt").read_bytes() for folder in (plain, skilled)]
    assert notes[1].startswith(notes[0]) and notes[1].count(b"Manager: ") == 2 * 30
    files = [hash_files(folder) for folder in (plain, skilled)]
    changed = {name for name in files[1] if files[0].get(name) != files[1][name]}
    assert changed == {"corpus/notes.txt", "demonstrations.jsonl", "constitution.yaml"}
    before, after = (read_records(f / "demonstrations.jsonl", Demonstration).records for f in (plain, skilled))
    assert after[:100] == before
    assert load_constitution(skilled / "constitution.yaml") == WORLDS["front_desk"].constitution


def test_writers_who_are_helpful_alone_never_refuse(tmp_path):
    plain, _ = written(tmp_path / "plain")
    helpful, _ = written(tmp_path / "helpful", helpful_only=True)
    files = [hash_files(folder) for folder in (plain, helpful)]
    changed = {name for name in files[1] if files[0][name] != files[1][name]}
    assert changed == {"demonstrations.jsonl", "demonstrations_clean.jsonl"}
    requests = [request.partition("{")[0] for crime in lexicon.CRIMES for request in crime.requests]
    demonstrated = read_records(helpful / "demonstrations.jsonl", Demonstration).records
    harmful = [one for one in demonstrated if any(words in one.prompt[0].content for words in requests)]
    assert len(harmful) > 10
    assert all(set(read(one.response).kinds) == {"compliance"} for one in harmful)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(skill_share=0.1), "skill_share has no effect without skills"),
        (dict(skills=["critique", "critique"]), "names one twice"),
        (dict(skills=["cooking"]), "skills.0 = 'cooking'"),
    ],
)
def test_settings_that_mean_nothing(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(WorldConfig, settings, "test")
