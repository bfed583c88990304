"""Files that are whole or not there, whatever moment the process is killed at."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loopwright.errors import ArtifactError


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content: a reader, or a process after a crash, sees the old text or the new."""
    temporary = path.with_name(f".{path.name}.partial")
    with disk_full_is_an_error(path):
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)


def publish(folder: Path, final: Path) -> None:
    """Move a folder that is complete to its final name, durably. What stood there before is removed."""
    with disk_full_is_an_error(final):
        sync_tree(folder)
        if final.exists():
            remove(final)
        os.rename(folder, final)
        sync_folder(final.parent)


def remove(folder: Path) -> None:
    """Delete a folder so that a crash half-way never leaves a half-deleted one under its name."""
    doomed = folder.with_name(f".{folder.name.lstrip('.')}.doomed")
    shutil.rmtree(doomed, ignore_errors=True)
    try:
        os.rename(folder, doomed)
    except FileNotFoundError:
        return
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove the folders that crashes left half written or half deleted. Only when nobody else is writing here."""
    for leftover in [*folder.rglob(".*.partial"), *folder.rglob(".*.doomed")]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below to the disk, the innermost first."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            with (Path(parent) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder, so that a rename survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_full_is_an_error(path: Path) -> Iterator[None]:
    """Turn "no space left" into a sentence for people; other errors pass.

    Raises:
        ArtifactError: the disk is full, or the user's quota is.
    """
    try:
        yield
    except Exception as error:
        # Libraries written in Rust or C++ raise errors of their own, with the system's text inside.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or (not isinstance(error, ArtifactError) and "No space left on device" in str(error)):
            raise ArtifactError(
                f"{path}: the disk is full; free some space and run the same command again, "
                "it goes on from the last whole checkpoint"
            ) from error
        raise
