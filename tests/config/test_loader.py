"""Every mistake in a config is one sentence that says where and what to do."""

from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, PositiveInt, model_validator

from loopwright.config import Config, build, dump_yaml, read_yaml
from loopwright.errors import ConfigError


class Inner(Config):
    steps: PositiveInt = 3
    rate: Annotated[float, Field(gt=0, lt=1)] = 0.5
    kind: Literal["adamw", "muon"] = "adamw"
    extra: float | None = None

    @model_validator(mode="after")
    def _extra_is_for_muon(self):
        if self.kind != "muon" and "extra" in self.model_fields_set:
            raise ValueError(f"extra = {self.extra} has no effect with kind = {self.kind}")
        return self


class Outer(Config):
    name: str
    ppo: Inner = Inner()
    many: list[Inner] = []
    table: dict[str, Inner] = {}
    switch: bool = False
    maybe: Inner | None = None


def read(tmp_path, text, *overrides):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return read_yaml(path, overrides)


def load(tmp_path, text, *overrides):
    return build(Outer, read(tmp_path, text, *overrides), str(tmp_path / "r.yaml"))


def test_overrides_are_yaml_on_top_of_the_file(tmp_path):
    got = load(
        tmp_path, "name: a\nppo: {steps: 4}\n", "ppo.rate=0.25", "switch=yes", "many=[{steps: 7}]", "maybe.steps=2"
    )
    assert got == Outer(
        name="a", ppo=Inner(steps=4, rate=0.25), switch=True, many=[Inner(steps=7)], maybe=Inner(steps=2)
    )


def test_an_override_leaves_the_alias_of_its_section_alone(tmp_path):
    text = "a: &a {b: {c: 1}, d: 2}\nalias: *a\n"
    assert read(tmp_path, text, "a.b.c=3", "alias.d=4") == {
        "a": {"b": {"c": 3}, "d": 2},
        "alias": {"b": {"c": 1}, "d": 4},
    }


def test_an_exponent_makes_a_number(tmp_path):
    """PyYAML alone reads 1e-4 as text."""
    assert read(tmp_path, "a: 1e-4\nb: 2E5\nc: -3.5e+2\nd: e5\ne: 1e\n") == {
        "a": 1e-4,
        "b": 2e5,
        "c": -350.0,
        "d": "e5",
        "e": "1e",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nppo:\n  stepz: 3\n", r"r\.yaml:3: unknown key ppo\.stepz; did you mean ppo\.steps\?"),
        ("name: a\nsteps: 3\n", r"r\.yaml:2: unknown key steps; did you mean ppo\.steps\?"),
        ("name: a\nzzz: 3\n", r"r\.yaml:2: unknown key zzz; known keys here: many, maybe, name, ppo, switch, table"),
        ("name: a\nmany:\n- stepz: 3\n", r"r\.yaml:3: unknown key many\.0\.stepz; did you mean many\.0\.steps\?"),
        ("name: a\ntable: {x: {stepz: 3}}\n", r"unknown key table\.x\.stepz; did you mean table\.x\.steps\?"),
        ("name: a\nmaybe: {stepz: 3}\n", r"unknown key maybe\.stepz; did you mean maybe\.steps\?"),
        ("name: a\nppo: {steps: 0}\n", r"r\.yaml:2: ppo\.steps = 0: input should be greater than 0"),
        ("name: a\nppo: {steps: x}\n", r"r\.yaml:2: ppo\.steps = 'x': input should be a valid integer"),
        ("name: a\nppo: {steps: 1.5}\n", r"ppo\.steps = 1\.5: input should be a valid integer"),
        ("name: a\nppo: {rate: .nan}\n", r"ppo\.rate = nan: input should be"),
        ("name: a\nppo: {rate: true}\n", r"ppo\.rate: true is not a number"),
        ("name: a\nppo: {kind: sgd}\n", r"ppo\.kind = 'sgd': input should be 'adamw' or 'muon'"),
        ("name: a\nppo: {extra: 1}\n", r"r\.yaml:2: ppo: extra = 1\.0 has no effect with kind = adamw"),
        ("name: a\nppo: 3\n", r"r\.yaml:2: ppo = 3: settings belong here, such as \{key: value\}"),
        ("name: a\nmaybe: [3]\n", r"r\.yaml:2: maybe = \[3\]: settings belong here"),
        ("ppo: {}\n", r"r\.yaml: name is missing; add it"),
        ("name: a\nppo: {stepz: 3, rate: 7}\n", r"did you mean ppo\.steps\? \(1 more after this one\)"),
        ("name: a\nname: b\n", r"r\.yaml:2: name is written twice \(first at .*r\.yaml:1\); keep one"),
        ("name: [a\n", r"r\.yaml:2: not valid YAML, expected .*; fix this line"),
        ("- a\n", r"r\.yaml: found a list where a mapping such as `seed: 0` belongs"),
        ("just text\n", r"r\.yaml: found text where a mapping"),
        ("1: a\n", r"r\.yaml:1: the key 1 is not text; put it in quotes"),
        ("a: !!int x\n", r"r\.yaml: not valid YAML, ValueError: invalid literal .*; fix the file"),
        ("name: a\nppo: {steps: 2001-99-99}\n", r"ppo\.steps = '2001-99-99': input should be a valid integer"),
        ("name: a\nb: \x00\n", r"r\.yaml:2: character U\+0000 is not allowed; remove it"),
        ("a: " + "[" * 5000, r"r\.yaml: is nested too deeply; write it flatter"),
        ("a: &a [*a]\n", r"r\.yaml: its aliases \(\*name\) stand for too much or for themselves; write the values out"),
        ("name: a\nppo: &a\n  b: *a\n", r"r\.yaml: its aliases"),
        ("a0: &a0 x\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 9)), r"r\.yaml: its aliases"),
        ("a: !!python/object:os.system {}\n", r"r\.yaml:1: not valid YAML, could not determine a constructor"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as error:
        load(tmp_path, text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.stepz=3", r"--set ppo\.stepz=3: unknown key ppo\.stepz; did you mean ppo\.steps\?"),
        ("ppo.steps", r"--set ppo\.steps: not of the form key=value; write for example --set ppo\.clip_range=0\.1"),
        ("=3", "not of the form key=value"),
        ("name.inner=3", r"--set name\.inner=3: name is text, it has no keys inside"),
        ("ppo.rate=[", "--set ppo.rate=.*not valid YAML"),
        ("ppo={steps: 0}", r"--set ppo=\{steps: 0\}: ppo\.steps = 0: input should be greater than 0"),
    ],
)
def test_mistakes_in_overrides_name_the_override(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "name: a\n", override)


def test_a_missing_file_a_folder_and_bytes_that_are_not_text(tmp_path):
    with pytest.raises(ConfigError, match="no such file; check the path"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        read_yaml(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match="byte 6 is not UTF-8"):
        read_yaml(tmp_path / "b.yaml")


def test_anchors_and_merges_are_no_duplicates(tmp_path):
    got = load(tmp_path, "name: a\nppo: &base {steps: 9}\nmaybe:\n  <<: *base\n  rate: 0.1\n")
    assert got.maybe == Inner(steps=9, rate=0.1)
    got = load(tmp_path, "name: a\nppo: &base {steps: 9, rate: 0.1}\nmaybe: {<<: *base, steps: 3}\n")
    assert got.maybe == Inner(steps=3, rate=0.1)
    with pytest.raises(ConfigError, match="steps is written twice"):
        load(tmp_path, "name: a\nppo: &base {steps: 9}\nmaybe: {<<: *base, steps: 3, steps: 4}\n")


def test_a_config_does_not_change(tmp_path):
    with pytest.raises(ValueError, match="frozen"):
        load(tmp_path, "name: a\n").ppo.steps = 3


def test_defaults_are_validated():
    class Wrong(Config):
        steps: PositiveInt = 0

    with pytest.raises(ValueError, match="greater than 0"):
        Wrong()


@given(steps=st.integers(1, 9), rate=st.floats(0.01, 0.99), muon=st.booleans(), name=st.text(min_size=1, max_size=5))
@example(steps=1, rate=0.5, muon=False, name="a\x85b")  # a line break to PyYAML
def test_what_is_dumped_reads_back_the_same(steps, rate, muon, name):
    """Every default is spelt out, and none is blamed for having no effect."""
    given = {"kind": "muon", "extra": 0.5} if muon else {}
    config = Outer(name=name, ppo=Inner(steps=steps, rate=rate, **given))
    values = yaml.safe_load(dump_yaml(config))
    assert values["ppo"].keys() == Inner.model_fields.keys()
    assert build(Outer, values, "dump", resolved=True) == config


def test_without_resolved_a_written_default_may_be_blamed():
    config = Outer(name="a")
    with pytest.raises(ConfigError, match="extra = None has no effect"):
        build(Outer, yaml.safe_load(dump_yaml(config)), "dump")
