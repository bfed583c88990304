"""What code and which libraries made an artifact, found without importing either."""

import ast
import hashlib
import importlib.metadata
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import loopwright
from loopwright.errors import ArtifactError

_PACKAGE = "loopwright"
_ROOT = Path(loopwright.__file__).parent

# Libraries whose version can change a number or a file that a stage writes.
_LIBRARIES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "peft",
    "numpy",
    "ftfy",
    "datasketch",
    "scikit-learn",
    "selectolax",
    "pyarrow",
)


def code_fingerprint(module_name: str) -> str:
    """One hash of `code_hashes`: what goes into an artifact's key."""
    hashes = code_hashes(module_name)
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in hashes.items()).encode()).hexdigest()


@cache
def code_hashes(module_name: str) -> dict[str, str]:
    """sha256 of the source of a module and of everything it imports within the package, transitively, sorted by name.

    C files beside a module of the package belong to it.

    Imports inside functions count. A module outside the package (a user's own stage) counts alone, with what it
    imports from the package. Read once a process, because the process also runs what it read first.
    """
    found: dict[str, str] = {}
    waiting = [module_name]
    while waiting:
        name = waiting.pop()
        if name in found or (path := _source(name)) is None:
            continue
        source = path.read_bytes()
        found[name] = hashlib.sha256(source).hexdigest()
        if name.startswith(f"{_PACKAGE}."):  # what a module compiles lies beside it
            others = {f"{name.rpartition('.')[0]}/{other.name}": other for other in path.parent.glob("*.c")}
            found |= {which: hashlib.sha256(other.read_bytes()).hexdigest() for which, other in others.items()}
        waiting.extend(_imports(name, source, is_package=path.name == "__init__.py"))
    if module_name not in found:
        raise ArtifactError(f"the source of {module_name} cannot be found; a stage must live in a module with a file")
    return dict(sorted(found.items()))


def library_versions() -> dict[str, str]:
    """The versions of what the numbers depend on, Python's included. Libraries that are not installed are left out."""
    versions = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _source(name: str) -> Path | None:
    """The file of a module; None for what is no module, such as a class named in `from x import y`."""
    if name == _PACKAGE or name.startswith(_PACKAGE + "."):
        base = _ROOT.joinpath(*name.split(".")[1:])
        candidates = [base.with_suffix(".py")] if name != _PACKAGE else []
        return next((path for path in [*candidates, base / "__init__.py"] if path.is_file()), None)
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file) if file else None


def _imports(name: str, source: bytes, *, is_package: bool) -> Iterator[str]:
    """Every name within the package that the source may import; importing a.b.c also runs a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            targets = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for target in targets:
            parts = target.split(".")
            if parts[0] == _PACKAGE:
                yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))
