"""Strict configs: a YAML file, `--set` overrides, a resolved dump."""

from loopwright.config.base import Config
from loopwright.config.loader import Section, build, dump_yaml, read_yaml

__all__ = ["Config", "Section", "build", "dump_yaml", "read_yaml"]
