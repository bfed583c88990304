"""The C operations as a shared library, compiled once a machine where a compiler is found.

Nothing is built when the package is installed; without a compiler the same operations run in torch.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("cpu.c")
# No -ffast-math: what is not finite must stay so.
_MATHS = ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math")
FLAGS = ("-O3", "-march=native", "-std=c11", *_MATHS, "-fPIC", "-shared")
SECONDS = 120

_on = True


def library() -> ctypes.CDLL | None:
    """The operations in C, or None where torch is to do without them."""
    return compiled() if _on else None


def switch(*, on: bool) -> None:
    """Whether operations are computed in C from now on, in the whole process, where there is a compiler."""
    global _on  # noqa: PLW0603 -- one choice for the process: threads that share a step must agree
    _on = on


@cache
def compiled() -> ctypes.CDLL | None:
    """The shared library, made now if it is not there; None without a compiler, or with a warning where it fails."""
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) is None or os.name != "posix":
        return None
    try:
        version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=SECONDS).stdout
        folder = machine_folder()
        digest = hashlib.sha256(version + SOURCE.read_bytes() + f"{FLAGS} {processor()}".encode())
        path = folder / f"cpu-{digest.hexdigest()[:16]}.so"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=folder) as temporary:  # the name appears when the file is whole
                fresh = Path(temporary) / path.name
                command = [*compiler, *FLAGS, str(SOURCE), "-o", str(fresh), "-lm"]
                subprocess.run(command, capture_output=True, check=True, timeout=SECONDS)
                fresh.rename(path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()[-300:]
        warnings.warn(
            f"{' '.join(compiler)} could not compile {SOURCE.name} ({said or error}); torch computes instead, slower: "
            "set CC to a compiler that works",
            stacklevel=2,
        )
        return None


@cache
def machine_folder() -> Path:
    """A folder for what depends on this machine, that nobody else can write to: what lies in it is run."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = Path(base or "~/.cache") / "loopwright"
    try:
        folder = folder.expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()  # a link might point elsewhere later
        if (
            stat.S_ISDIR(found.st_mode)
            and found.st_uid == os.getuid()
            and not found.st_mode & 0o022
            and os.access(folder, os.W_OK)
        ):
            return folder
        reason = "others can write to it, or it is not yours"
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody knows where home is
        reason = str(error)
    warnings.warn(
        f"{folder} is not used ({reason}); C is compiled and measured again by each process: set XDG_CACHE_HOME to a "
        "folder that is yours alone",
        stacklevel=2,
    )
    return Path(tempfile.mkdtemp(prefix="loopwright-"))


@cache
def processor() -> str:
    """A name for the kind of processor this is: what -march=native depends on, and which library is fastest."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = [platform.processor()]
    kinds = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}) or lines
    return hashlib.sha256("".join(kinds).encode()).hexdigest()[:12]
