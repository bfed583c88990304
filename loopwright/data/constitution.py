"""Constitutions as YAML files."""

from pathlib import Path

import yaml

from loopwright.config.loader import build, read_yaml
from loopwright.schemas import Constitution

YAML_WIDTH = 110


def load_constitution(path: Path) -> Constitution:
    """Read a file of principles; docs/constitutional.md shows one.

    Raises:
        ConfigError: with file and line, what is missing, misspelt or written twice.
    """
    return build(Constitution, read_yaml(path), str(path))


def dump_constitution(constitution: Constitution) -> str:
    """The text of a file that `load_constitution` reads back."""
    return yaml.safe_dump(constitution.model_dump(mode="json"), sort_keys=False, width=YAML_WIDTH)
