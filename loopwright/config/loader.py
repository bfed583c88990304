"""Strict loading: a YAML file, `--set` overrides on top, one sentence for every mistake."""

import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from loopwright.config.base import Config
from loopwright.errors import ConfigError

C = TypeVar("C", bound=BaseModel)  # a Config, or a record that people write as YAML


class Section(dict[str, Any]):
    """A mapping of a YAML file that remembers where each key was written."""

    def __init__(self) -> None:
        super().__init__()
        self.where: dict[str, str] = {}  # key -> "file:line" or "--set a.b=3"

    def copy(self) -> "Section":
        other = Section()
        other.update(self)
        other.where.update(self.where)
        return other

    def rename(self, key: str, names: Sequence[str]) -> None:
        """The key's value under each of these names, in its place."""
        old = dict(self)
        self.clear()
        for one, value in old.items():
            self.update(dict.fromkeys(names if one == key else [one], value))
        self.where |= dict.fromkeys(names, self.where[key])


def read_yaml(
    path: Path,
    overrides: Sequence[str] = (),
    prepare: Callable[[dict[str, Any], str], None] = lambda values, key: None,
) -> dict[str, Any]:
    """The file's mapping with overrides such as "ppo.clip_range=0.1" applied; the right side is YAML.

    Args:
        prepare: is given the mapping before each of them, and the dotted key that it will set.

    Raises:
        ConfigError: the file is missing, not YAML, not a mapping, holds a key twice; an override is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{path}: no such file; check the path of the config") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; name the YAML file in it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    values = _parse(text, str(path))
    if values is None:
        values = Section()
    if not isinstance(values, Section):
        raise ConfigError(f"{path}: found {_kind(values)} where a mapping such as `seed: 0` belongs")
    for override in overrides:
        prepare(values, override.partition("=")[0].strip())
        _override(values, override)
    return values


def build(cls: type[C], values: dict[str, Any], source: str, *, resolved: bool = False) -> C:
    """Validate values into a config, or into a record that is written like one.

    Args:
        source: what messages call the origin of values that carry no line of their own, usually the file.
        resolved: the values come from `dump_yaml`, so a value equal to its default was not written by a person.

    Raises:
        ConfigError: in one sentence, the first problem found and how many more there are.
    """
    try:
        return cls.model_validate(values, context={"resolved": resolved})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # Misspelt keys first: they explain the "required" errors that follow from them.
        problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
        message = _sentence(cls, values, problems[0], source)
        more = f" ({len(problems) - 1} more after this one)" if len(problems) > 1 else ""
        raise ConfigError(message + more) from None


def dump_yaml(config: Config) -> str:
    """The resolved config, defaults included, in the order of the fields."""
    # Escaped, because PyYAML writes some line breaks (U+0085) in a way that reads back as a space.
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=110)


class _Loader(yaml.SafeLoader):
    """Safe YAML, with 1e-4 a number and a date text (as in YAML 1.2) and duplicate keys an error."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


# PyYAML follows YAML 1.1, where a float needs a dot and a signed exponent: 1e-4 would be a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)
_MOST_NODES = 100_000  # with every alias written out


def _construct_section(loader: _Loader, node: yaml.MappingNode) -> Iterator[Section]:
    section = Section()
    yield section
    own = {id(key) for key, _ in node.value}  # what a merge (<<) brings may be written again, with another value
    written: set[str] = set()
    loader.flatten_mapping(node)
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = _where(key_node.start_mark.name, key_node.start_mark.line)
        if not isinstance(key, Hashable) or not isinstance(key, str):
            raise ConfigError(f"{line}: the key {key!r} is not text; put it in quotes")
        if key in written:
            raise ConfigError(f"{line}: {key} is written twice (first at {section.where[key]}); keep one")
        if id(key_node) in own:
            written.add(key)
        section[key] = loader.construct_object(value_node, deep=True)
        section.where[key] = line


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_section)


def _parse(text: str, name: str) -> Any:
    try:
        loader = _Loader(text)
        loader.name = name
        node = loader.get_single_node()
        if node is None:
            return None
        if _written_out(node, {}) > _MOST_NODES:
            raise ConfigError(f"{name}: its aliases (*name) stand for too much or for themselves; write the values out")
        return loader.construct_document(node)
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = _where(name, mark.line) if mark else name
        raise ConfigError(f"{where}: not valid YAML, {error.problem or error.context}; fix this line") from None
    except yaml.reader.ReaderError as error:
        where = _where(name, text.count("\n", 0, error.position))
        raise ConfigError(f"{where}: character U+{error.character:04X} is not allowed; remove it") from None
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply; write it flatter") from None
    except Exception as error:  # PyYAML lets through what int() and the like raise after tags such as !!int
        raise ConfigError(f"{name}: not valid YAML, {type(error).__name__}: {error}; fix the file") from None


def _where(name: str, line: int) -> str:
    """`line` counts from 0; an override has one."""
    return name if name.startswith("--set ") else f"{name}:{line + 1}"


def _written_out(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes there are with every alias replaced by what it stands for."""
    if id(node) not in known:
        known[id(node)] = _MOST_NODES + 1  # until its end is known: it may hold itself
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,))]
        known[id(node)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(node)]


def _override(values: Section, override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: not of the form key=value; write for example --set ppo.clip_range=0.1")
    section = values
    for depth, key in enumerate(keys[:-1], start=1):
        inner = section.get(key)
        if inner is None:  # absent, or an empty section such as `ppo:`
            inner = section[key] = Section()
            section.where.setdefault(key, f"--set {override}")
        if not isinstance(inner, Section):
            raise ConfigError(f"--set {override}: {'.'.join(keys[:depth])} is {_kind(inner)}, it has no keys inside")
        # A copy, because an alias (`sft_clean: *sft`) is the same section at another place, and nobody named that.
        section[key] = inner.copy()
        section = section[key]
    section[keys[-1]] = _parse(text, f"--set {override}")
    section.where[keys[-1]] = f"--set {override}"


def _sentence(cls: type[BaseModel], values: dict[str, Any], problem: ErrorDetails, source: str) -> str:
    where, keys = _locate(values, problem["loc"], source)
    dotted = ".".join(keys)
    match problem["type"]:
        case "extra_forbidden":
            guess = _did_you_mean(cls, keys)
            return f"{where}: unknown key {dotted}; " + (guess or f"known keys here: {', '.join(_siblings(cls, keys))}")
        case "missing":
            return f"{where}: {dotted} is missing; add it"
        case "model_type":
            return f"{where}: {dotted} = {_short(problem['input'])}: settings belong here, such as {{key: value}}"
        case "value_error" | "assertion_error":
            return f"{where}: " + (f"{dotted}: " if dotted else "") + str(problem["ctx"]["error"])
        case _:
            said = problem["msg"][0].lower() + problem["msg"][1:]
            return f"{where}: {dotted} = {_short(problem['input'])}: {said}"


def _locate(values: Any, loc: tuple[int | str, ...], source: str) -> tuple[str, list[str]]:
    """Where the error's value was written, and its keys without the tags that pydantic adds for unions."""
    where, keys, here = source, [], values
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        if isinstance(here, dict) and part in here:
            where = here.where.get(str(part), where) if isinstance(here, Section) else where
            keys.append(str(part))
            here = here[part]
        elif isinstance(here, list) and isinstance(part, int) and part < len(here):
            keys.append(str(part))
            here = here[part]
        elif last and isinstance(here, dict) and part != "[key]":  # a missing key
            keys.append(str(part))
    return where, keys


def _did_you_mean(cls: type[BaseModel], keys: Sequence[str]) -> str:
    siblings = _siblings(cls, keys)
    prefix = ".".join([*keys[:-1], ""])
    if close := get_close_matches(keys[-1], siblings, n=1, cutoff=0.6):
        return f"did you mean {prefix}{close[0]}?"
    elsewhere = [dotted for dotted in _all_keys(cls) if dotted.rpartition(".")[2] == keys[-1]]
    return f"did you mean {min(elsewhere, key=lambda dotted: dotted.count('.'))}?" if elsewhere else ""


def _siblings(cls: type[BaseModel], keys: Sequence[str]) -> list[str]:
    models = [cls]
    for key in keys[:-1]:
        fields = [model.model_fields[key] for model in models if key in model.model_fields]
        # A list index or a key of a dict keeps the models found so far.
        models = [inner for field in fields for inner in _models_in(field.annotation)] or models
    return sorted({name for model in models for name in model.model_fields})


def _all_keys(cls: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in cls.model_fields.items():
        yield prefix + name
        for inner in _models_in(field.annotation):
            yield from _all_keys(inner, f"{prefix}{name}.")


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in get_args(annotation) for model in _models_in(part)]


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(type(value), f"the value {value!r}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
