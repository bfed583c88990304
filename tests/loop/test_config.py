"""The root of a recipe."""

import pytest

from loopwright.errors import ConfigError
from loopwright.loop import load_config
from tests.loop.toys import RECIPE, TOYS


def load(tmp_path, text, *overrides, resolved=False):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return load_config(path, overrides, stages=TOYS, resolved=resolved)


def test_the_sections_present_are_the_stages_that_run(tmp_path):
    assert list(load(tmp_path, "name: a\nevaluate:\nseeds:\n").sections) == ["seeds", "evaluate"]
    assert list(load(tmp_path, RECIPE, "first=false").sections) == ["seeds", "evaluate"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nfirts: {}\n", r"r\.yaml:2: unknown key firts; did you mean first\?"),
        ("name: a\nfirst: {step: 3}\n", r"r\.yaml:2: unknown key first\.step; did you mean first\.steps\?"),
        ("name: a\nrate: 3\nfirst: {}\n", r"r\.yaml:2: unknown key rate; did you mean first\.rate\?"),
        ("name: a\nfirst: {steps: many}\n", r"r\.yaml:2: first\.steps = 'many': input should be a valid integer"),
        ("name: a\nfirst: {steps: true}\n", r"first\.steps: true is not a number"),
        ("name: a\nseed: -1\nfirst: {}\n", r"r\.yaml:2: seed = -1: input should be greater than or equal to 0"),
        ("first: {}\n", r"r\.yaml: name is missing; add it"),
        ("name: a b\nfirst: {}\n", r"r\.yaml:1: name = 'a b'"),
        ("name: a\n", "configures no stage; add a section such as `sft:`"),
        ("name: a\nfirst: {momentum: 0.5}\n", r"r\.yaml:2: first: momentum has no effect with optimizer = plain"),
        ("name: a\ndata_dir: /tmp\nfirst: {}\n", r"data_dir = /tmp has no effect; write \$\{data_dir\} in a path"),
        ("name: a\nseeds: {file: '${data_dir}/x'}\n", "seeds.file needs the folder of real data; add --set data_dir="),
        ("name: a\ndata_dir: /no\nseeds: {file: '${data_dir}/x'}\n", "data_dir = /no is not a folder"),
        ("name: a\nfirst: {require: {norm: {}}}\n", "needs min, max or both"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, monkeypatch, text, message):
    monkeypatch.delenv("LOOPWRIGHT_DATA", raising=False)
    with pytest.raises(ConfigError, match=message) as error:
        load(tmp_path, text)
    assert "\n" not in str(error.value)


def test_a_resolved_config_reads_back_without_blame_for_its_defaults(tmp_path):
    from loopwright.loop.config import resolved_text

    config = load(tmp_path, RECIPE, "seeds.count=7")
    again = load(tmp_path, resolved_text(config), resolved=True)
    assert again.model_dump() == config.model_dump()
