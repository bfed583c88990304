"""Which stages run, in which order, from what: and what decides whether one must run again."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopwright.errors import DataError
from loopwright.loop.config import RunConfig, portable
from loopwright.loop.rounds import why_stop
from loopwright.loop.table import load_stages
from loopwright.schemas.steps import round_of, stage_of, version_of
from loopwright.tracking.artifacts import Artifact, Origin, Promise, hash_files
from loopwright.tracking.files import sha256_file
from loopwright.tracking.fingerprint import code_fingerprint, code_hashes, library_versions

if TYPE_CHECKING:
    from loopwright.stages.base import Stage, StageConfig


@dataclass(frozen=True)
class Step:
    """One configured stage."""

    stage: "Stage"
    config: "StageConfig"
    parents: dict[str, str]  # role -> the configured stage that fills it

    @property
    def name(self) -> str:
        return self.stage.name

    def settings(self) -> dict[str, Any]:
        """Those that decide its artifact: a bar judges that, and patience with a server lets it be made."""
        dumped: dict[str, Any] = _without(
            self.config.model_dump(mode="json", exclude={"require"}), {"timeout_seconds", "attempts"}
        )
        return dumped

    def promise(self) -> Promise:
        """Its artifact, before that is made."""
        leaves = self.stage.leaves
        return Promise.of(self.name, self.settings(), None if leaves is None else leaves(self.config))


@dataclass(frozen=True)
class Plan:
    """The steps of a run, and what their artifacts' keys are made of."""

    run: RunConfig
    steps: list[Step]
    stages: Mapping[str, "Stage"]  # by their names within a round
    _hashes: dict[Path, dict[str, str]] = field(default_factory=dict)

    def origin(self, step: Step, parents: Mapping[str, str]) -> Origin:
        """What decides the step's artifact.

        Args:
            parents: role -> artifact id.
        """
        module = step.stage.run.__module__
        return Origin(
            kind=step.name,
            parents=dict(sorted(parents.items())),
            config=portable(step.settings(), self.run.data_dir),
            inputs={
                portable(name, self.run.data_dir): digest
                for path in step.stage.files(step.config)
                for name, digest in self._content(path, step.name).items()
            },
            seed=self.run.seed,
            code=code_fingerprint(module),
            modules=code_hashes(module),
            versions=library_versions(),
        )

    def after(self, place: int, made: Mapping[str, Artifact]) -> tuple["Plan", str | None]:
        """What is to be done after the step at `place`, and why no round follows where one was to.

        Args:
            made: step -> its artifact, of all steps up to this one.
        """
        number, rounds = round_of(self.steps[place].name), self.run.rounds
        ends = number and not any(round_of(step.name) == number for step in self.steps[place + 1 :])
        if not ends or rounds is None or rounds.stop is None or number == rounds.last:
            return self, None
        reason = why_stop(rounds.stop, number, made)
        if reason is None:
            return self, None
        shorter = self.run.ending_with(number)
        return replace(self, run=shorter, steps=_steps(shorter, self.stages)), reason

    def behind(self, names: Iterable[str]) -> set[str]:
        """These steps, and all that they are made from."""
        found = set(names)
        for step in reversed(self.steps):  # a parent comes before
            if step.name in found:
                found.update(step.parents.values())
        return found

    def _content(self, path: Path, stage: str) -> dict[str, str]:
        """The hashes of an external file, or of all files in a folder; each is read once a run."""
        if path not in self._hashes:
            _must_exist(path, stage)
            inside = {f"{path}/{name}": digest for name, digest in hash_files(path).items()} if path.is_dir() else None
            self._hashes[path] = {str(path): sha256_file(path)} if inside is None else inside
        return self._hashes[path]


def make_plan(config: RunConfig, stages: Mapping[str, "Stage"] | None = None) -> Plan:
    """Put the configured stages in order and find who feeds whom.

    Raises:
        DataError: a file that a stage will need is not there. Found now, not hours later.
        ConfigError: a stage's settings do not fit the stages before it, or something that it needs is given nowhere.
    """
    stages = load_stages([stage_of(name) for name in config.sections]) if stages is None else stages
    steps = _steps(config, stages)
    promised: dict[str, Artifact] = {}
    for step in steps:
        for path in step.stage.files(step.config):
            _must_exist(path, step.name)
        step.stage.bind(step.config, {role: promised[parent] for role, parent in step.parents.items()})
        promised[step.name] = step.promise()
        code_hashes(step.stage.run.__module__)  # as close as can be to the moment the code was loaded
    return Plan(config, steps, stages)


def differences(old: Origin, new: Origin) -> list[str]:
    """Why `new` is not `old`, one line each; empty when they are the same."""
    lines = [
        *_changes("config changed {}", _flat(old.config, old.kind), _flat(new.config, new.kind)),
        *_changes("parent changed {}", _short(old.parents), _short(new.parents)),
        *_changes("file changed {}", _short(old.inputs), _short(new.inputs)),
        *_changes("{} changed", {"seed": old.seed}, {"seed": new.seed}),
        *_changes("library changed {}", old.versions, new.versions),
    ]
    if old.code != new.code:
        modules = sorted(
            name for name in {*old.modules, *new.modules} if old.modules.get(name) != new.modules.get(name)
        )
        lines.append(f"code changed: {', '.join(modules)}")
    return lines


def _steps(config: RunConfig, stages: Mapping[str, "Stage"]) -> list[Step]:
    sections = config.sections
    order = list(sections)
    steps = []
    for place, (name, section) in enumerate(sections.items()):
        stage = stages[stage_of(name)]
        needs = stage.needs if stage.needs_besides is None else {**stage.needs, **stage.needs_besides(section)}
        steps.append(Step(replace(stage, name=name), section, dict(_parents(needs, name, order[:place]))))
    return steps


def _parents(needs: Mapping[str, tuple[str, ...]], name: str, before: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(role, step that fills it) among those that run before; `Stage.needs` says how."""
    for role, candidates in needs.items():
        found = [one for one in before if stage_of(one) in candidates]
        if role == "start":
            yield from ((role, one) for one in [one for one in found if not round_of(one)][-1:])
        elif role == "version_*":
            versions = {version_of(one): one for one in found}  # of a round the last
            shown = list(versions.items())
            yield from shown[-2:] if round_of(name) else shown
        elif role.endswith(".*"):
            yield from ((one, one) for one in found)
        elif role.endswith("*"):
            named = [one for one in before if stage_of(one).startswith(role[:-1])]
            yield from ((stage_of(one), one) for one in named if round_of(one) == round_of(named[-1]))
        elif found:
            yield role, found[-1]


def _must_exist(path: Path, stage: str) -> None:
    if not path.exists():
        raise DataError(f"{stage}: no file or folder {path}; correct the path in section {stage}")


def _changes(what: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    absent = object()
    for name in [*old, *(name for name in new if name not in old)]:
        before, after = old.get(name, absent), new.get(name, absent)
        if before != after:
            shown = [
                "nothing" if value is absent else "null" if value is None else str(_given(value))
                for value in (before, after)
            ]
            yield f"{what.format(name)}: {shown[0]} → {shown[1]}"


def _given(value: Any) -> Any:
    """Settings in a list without those that nobody gave: a reward has twenty, of which two or three say which it is."""
    if isinstance(value, dict):
        return {name: _given(inner) for name, inner in value.items() if inner is not None}
    return [_given(inner) for inner in value] if isinstance(value, list) else value


def _flat(value: Any, key: str) -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {name: leaf for inner in value for name, leaf in _flat(value[inner], f"{key}.{inner}").items()}
    return {key: value}


def _without(value: Any, names: Collection[str]) -> Any:
    """The same settings without those of these names, wherever they stand."""
    if isinstance(value, dict):
        return {key: _without(inner, names) for key, inner in value.items() if key not in names}
    return [_without(inner, names) for inner in value] if isinstance(value, list) else value


def _short(hashes: Mapping[str, str]) -> dict[str, str]:
    return {name: digest[:12] for name, digest in hashes.items()}
