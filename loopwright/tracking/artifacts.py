"""Artifacts: folders with a pedigree. Whole, or not there; never used when damaged.

An artifact's key is known before it is made: what goes in. Its id is known after: the key and what came out.
A stage whose key has a whole artifact need not run; what is made from it is keyed by its id.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from loopwright.errors import ArtifactError
from loopwright.schemas import Record
from loopwright.tracking.files import publish, sha256_file, write_atomically

MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"  # the stage's lines of the run's log; they hold times, so they belong to no id


class Origin(Record):
    """Everything that decides an artifact's content, known before it is made."""

    kind: str  # the stage that makes it
    parents: dict[str, str]  # role -> artifact id
    config: dict[str, Any]
    inputs: dict[str, str] = {}  # external file -> sha256 of its content
    seed: int
    code: str  # fingerprint of the stage's source and all it imports within the package
    modules: dict[str, str] = {}  # module -> sha256 of its source: tells what changed when `code` did
    versions: dict[str, str]  # library -> version

    def key(self) -> str:
        decisive = {name: getattr(self, name) for name in Origin.model_fields if name != "modules"}
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


class Manifest(Record):
    """`manifest.json` of an artifact."""

    id: str
    key: str
    kind: str
    name: str  # of the recipe that first made it
    files: dict[str, str]  # relative path -> sha256
    parents: dict[str, str]
    config: dict[str, Any]
    inputs: dict[str, str] = {}
    seed: int
    code: str
    modules: dict[str, str] = {}
    versions: dict[str, str]
    device: str | None = None  # the type it was made on, such as cpu or cuda; in neither key nor id
    created: str  # ISO 8601, UTC
    seconds: float  # spent on it, not counting what a crash lost
    peak_rss_mb: float = 0.0
    metrics: dict[str, Any]

    @property
    def origin(self) -> Origin:
        return Origin(**{name: getattr(self, name) for name in Origin.model_fields})


@dataclass(frozen=True)
class Artifact:
    """A whole artifact on this disk."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        return self.manifest.id

    def file(self, name: str) -> Path:
        """The path of one of its files or folders.

        Raises:
            ArtifactError: it has none of that name.
        """
        if not self.holds(name):
            raise ArtifactError(
                f"{self.path}: holds no {name}, only {', '.join(sorted(self.manifest.files))}; "
                f"delete the folder to have {self.manifest.kind} run again"
            )
        return self.path / name

    def holds(self, name: str) -> bool:
        """Whether it has a file or folder of that name."""
        return any(known == name or known.startswith(f"{name}/") for known in self.manifest.files)


@dataclass(frozen=True)
class Promise(Artifact):
    """What a stage will make, as far as its settings tell: what those after it are bound to before anything runs."""

    files: Collection[str] | None = None  # that it may be asked for; None: they are not known, so any

    @classmethod
    def of(cls, kind: str, config: dict[str, Any], files: Collection[str] | None = None) -> "Promise":
        about: dict[str, Any] = {"parents": {}, "config": config, "seed": 0, "code": "", "versions": {}, "created": ""}
        manifest = Manifest(id=kind, key="", kind=kind, name="", files={}, seconds=0.0, metrics={}, **about)
        return cls(Path(kind), manifest, files)

    def holds(self, name: str) -> bool:
        return self.files is None or name in self.files


class ArtifactStore:
    """The `artifacts/` folder of a run: `<stage>-<first 12 of its key>/`, older ones kept for going back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, kind: str, key: str) -> Path:
        return self.folder / f"{kind}-{key[:12]}"

    def find(self, kind: str, key: str) -> Artifact | None:
        """The whole artifact of a key; None when it was never made.

        Raises:
            ArtifactError: it was made and is damaged: a file is missing, changed or extra.
        """
        path = self.path(kind, key)
        if not path.exists():
            return None
        artifact = Artifact(path, read_manifest(path))
        if artifact.manifest.key != key:
            raise ArtifactError(
                f"{path}: its manifest belongs to another key; delete the folder to have {kind} run again"
            )
        verify(artifact)
        return artifact

    def begin(self, kind: str, key: str) -> Path:
        """An empty folder to write the artifact's files into; what a crash left there is gone."""
        partial = self._partial(kind, key)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return partial

    def commit(
        self,
        origin: Origin,
        *,
        name: str,
        seconds: float,
        peak_rss_mb: float,
        metrics: Mapping[str, Any],
        device: str | None = None,
    ) -> Artifact:
        """Seal what was written into `begin`'s folder under its final name, replacing a damaged one.

        Raises:
            ArtifactError: the disk is full; nothing stands under the final name then.
        """
        key = origin.key()
        partial = self._partial(origin.kind, key)
        files = _content(partial)
        manifest = Manifest(
            id=hashlib.sha256(json.dumps([key, files], sort_keys=True).encode()).hexdigest(),
            key=key,
            name=name,
            files=files,
            device=device,
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            seconds=round(seconds, 3),
            peak_rss_mb=round(peak_rss_mb, 1),
            metrics=_plain(metrics),
            **origin.model_dump(),
        )
        write_atomically(partial / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
        final = self.path(origin.kind, key)
        publish(partial, final)
        return Artifact(final, manifest)

    def history(self, kind: str) -> list[Artifact]:
        """Every readable artifact of a stage, the newest first, unverified."""
        found = []
        for path in self.folder.glob(f"{kind}-*"):
            try:
                found.append(Artifact(path, read_manifest(path)))
            except ArtifactError:
                continue
        return sorted(found, key=lambda artifact: (artifact.manifest.created, artifact.path.name), reverse=True)

    def _partial(self, kind: str, key: str) -> Path:
        return self.folder / f".{kind}-{key[:12]}.partial"


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact's folder.

    Raises:
        ArtifactError: there is none, or it is not whole.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{folder}: has no {MANIFEST}, so it is no whole artifact; delete the folder") from None
    except (ValidationError, UnicodeDecodeError):
        raise ArtifactError(f"{path}: is not a whole manifest; delete the folder to have its stage run again") from None


def verify(artifact: Artifact) -> None:
    """Compare every file's content with the manifest.

    Raises:
        ArtifactError: naming the first file that differs.
    """
    found, expected = _content(artifact.path), artifact.manifest.files
    for name in sorted({*found, *expected}):
        if found.get(name) != expected.get(name):
            state = "is missing" if name not in found else "was added" if name not in expected else "was changed"
            raise ArtifactError(f"{artifact.path}/{name} {state} after the artifact was made")


def id_of_file(path: Path) -> str:
    """The id of the artifact that a file or folder belongs to; of any other folder, a hash of what is in it."""
    try:
        return read_manifest(path.resolve().parent).id
    except ArtifactError:
        return hashlib.sha256(json.dumps(hash_files(path), sort_keys=True).encode()).hexdigest()


def hash_files(folder: Path) -> dict[str, str]:
    """sha256 of every file below, by relative path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in paths}


def _plain(value: Any) -> Any:
    """As JSON will give it back, so that this process reports what a later one reads: not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "item"):  # a number of numpy or torch
        return _plain(value.item())
    raise TypeError(f"a metric is a {type(value).__name__}; metrics hold numbers, text, lists and mappings")


def _content(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in hash_files(folder).items() if name not in (MANIFEST, METRICS)}


def current_artifacts(run: Path) -> dict[str, Artifact]:
    """The artifacts that a run's `summary.json` speaks of, by stage, in the order the stages ran.

    Raises:
        ArtifactError: there is no summary: nothing has run here.
    """
    path = run / "summary.json"
    try:
        stages = json.loads(path.read_text(encoding="utf-8"))["stages"]
        folders = {stage: run / "artifacts" / figures["artifact"] for stage, figures in stages.items()}
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{run}: holds no summary.json; name a run directory in which a stage has finished"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ArtifactError(f"{path}: is not a summary of a run; run the same command again to write it anew") from None
    return {stage: Artifact(folder, read_manifest(folder)) for stage, folder in folders.items()}
