"""axe-core, the accessibility checker. It is Mozilla-licensed and not ours: fetched from npm, never committed.

As a program it fetches this version once: `make browser-tools`.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.feedback.services import missing

VERSION = "4.14.1"
SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
SCRIPT = Path(sys.prefix) / "share" / "axe-core" / VERSION / "axe.min.js"


def axe(page: Any) -> list[str]:
    """What breaks the rules on the page as it is now: rule, what to do, which element; empty where nothing does.

    The script is evaluated by the browser's driver, so a strict Content-Security-Policy needs no exception for it.
    """
    if not SCRIPT.exists():
        missing(f"axe-core {VERSION}", "make browser-tools")
    page.evaluate(SCRIPT.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['id']}: {violation['help']}: {node['html']}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


def fetch() -> None:
    if not shutil.which("npm"):
        sys.exit(f"axe-core {VERSION} is fetched with npm, which is not installed: apt-get install npm")
    with tempfile.TemporaryDirectory() as folder:
        pack = ["npm", "pack", f"axe-core@{VERSION}", "--silent", "--pack-destination", folder]
        subprocess.run(pack, check=True)
        with tarfile.open(Path(folder) / f"axe-core-{VERSION}.tgz") as archive:
            script = archive.extractfile("package/axe.min.js").read()
    got = hashlib.sha256(script).hexdigest()
    if got != SHA256:
        sys.exit(f"axe-core {VERSION}: axe.min.js has the SHA-256 {got}, not {SHA256}; it was not kept")
    SCRIPT.parent.mkdir(parents=True, exist_ok=True)
    temporary = SCRIPT.with_suffix(".new")
    temporary.write_bytes(script)
    temporary.replace(SCRIPT)


if __name__ == "__main__" and not SCRIPT.exists():
    fetch()
