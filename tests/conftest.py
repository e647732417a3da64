"""Shared fixtures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with mp_train.csv.gz and mp_val.csv.gz (real Materials Project structures)."""
    folder = Path(os.environ.get("MATERIUM_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "mp_train.csv.gz").is_file():
        pytest.skip(f"needs mp_train.csv.gz; set MATERIUM_SHARED_DATA (looked in {folder})")
    return folder
