"""Record a bundled asset in materium_rl/assets/MANIFEST.json."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "materium_rl" / "assets"
MANIFEST = ASSETS / "MANIFEST.json"


def record(name: str, *, source: str, licence: str, command: str) -> None:
    """Add or replace the manifest entry of one asset; the other entries stay as they are.

    Args:
        name: File name below ``materium_rl/assets``, with forward slashes.
        source: Where the data come from, with version and reference.
        licence: SPDX identifiers of what the asset is made from.
        command: The command that rebuilds the file, from the repository root.

    Raises:
        FileNotFoundError: The asset was not written yet.
    """
    content = (ASSETS / name).read_bytes()
    manifest = json.loads(MANIFEST.read_text(encoding="utf-8")) if MANIFEST.is_file() else {}
    manifest[name] = {
        "source": source,
        "licence": licence,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "command": command,
    }
    temporary = MANIFEST.with_suffix(".json.tmp")
    text = json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False)
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, MANIFEST)
