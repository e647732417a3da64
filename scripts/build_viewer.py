"""Rebuild the 3D viewer that reports carry: 3Dmol.js, minified as its authors publish it.

    python scripts/build_viewer.py

Needs npm and a registry that serves the packages (npm checks their sha512); a few seconds.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path

from manifest import ASSETS, record

PACKAGE = "3dmol@2.5.5"
BUNDLED = ("pako@2.1.0", "upng-js@2.1.0", "iobuffer@5.4.0", "netcdfjs@3.0.0")
"""What the minified file contains besides; each asks that its licence goes along."""
FOLDER = "viewer"
SOURCE = (
    f"{PACKAGE} (npm), build/3Dmol-min.js; Rego and Koes, Bioinformatics 31, 1322 (2015); contains "
    f"{', '.join(BUNDLED)}"
)
LICENCE = "BSD-3-Clause (3Dmol.js); MIT (GLmol, three.js, jQuery, pako, upng-js, iobuffer, netcdfjs)"


def main() -> None:
    """Download the packages, write the script and the licences, record both."""
    (ASSETS / FOLDER).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        script = read(PACKAGE, "build/3Dmol-min.js", Path(scratch))
        licences = [
            f"{package}\n\n{read(package, 'LICENSE', Path(scratch))}" for package in (PACKAGE, *BUNDLED)
        ]
    contents = {"3Dmol-min.js": script, "LICENSE.txt": f"\n\n{'-' * 80}\n\n".join(licences)}
    for name, content in contents.items():
        (ASSETS / FOLDER / name).write_text(content, encoding="utf-8", newline="\n")
        record(f"{FOLDER}/{name}", source=SOURCE, licence=LICENCE, command="python scripts/build_viewer.py")
        print(f"{FOLDER}/{name}: {len(content):,} characters")


def read(package: str, member: str, scratch: Path) -> str:
    """Text of one file of an npm package."""
    command = ["npm", "pack", "--silent", "--pack-destination", str(scratch), package]
    archive = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]
    with tarfile.open(scratch / archive) as opened:
        file = opened.extractfile(f"package/{member}")
        assert file is not None, f"{package} holds no {member}"
        return file.read().decode().replace("\r\n", "\n").strip() + "\n"


if __name__ == "__main__":
    main()
