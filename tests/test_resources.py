"""Bundled assets: found, verified, and refused when altered."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from materium_rl import resources
from materium_rl.errors import AssetError, ConfigError


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An asset folder with one table and one policy, listed in its manifest."""
    folder = tmp_path / "assets"
    files = {
        "table.csv": b"a,b\n",
        "policies/nano/config.json": b"{}",
        "policies/nano/model.safetensors": b"weights",
    }
    records = {}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        records[name] = {
            "source": "a test",
            "licence": "CC0",
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "command": "python scripts/build_table.py",
        }
    (folder / "MANIFEST.json").write_text(json.dumps(records))
    monkeypatch.setattr(resources, "ASSETS", folder)
    resources.manifest.cache_clear()
    yield folder
    resources.manifest.cache_clear()


def make_policy(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in resources.POLICY_FILES:
        (folder / name).write_text("{}")
    return folder


def test_listed_asset_is_found(assets: Path) -> None:
    assert resources.asset_path("table.csv") == assets / "table.csv"


def test_altered_asset_is_refused_with_the_command_that_rebuilds_it(assets: Path) -> None:
    (assets / "table.csv").write_text("a,c\n")
    with pytest.raises(AssetError, match=r"sha256.*build_table\.py"):
        resources.asset_path("table.csv")


def test_missing_asset_is_refused(assets: Path) -> None:
    (assets / "table.csv").unlink()
    with pytest.raises(AssetError, match=r"missing.*build_table\.py"):
        resources.asset_path("table.csv")


def test_unlisted_asset_is_refused_even_if_it_exists(assets: Path) -> None:
    (assets / "other.csv").write_text("x")
    with pytest.raises(AssetError, match=r"no asset named 'other.csv'.*table\.csv"):
        resources.asset_path("other.csv")


def test_checksum_is_computed_once(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resources.asset_path("table.csv")
    monkeypatch.setattr(resources, "file_sha256", lambda path: pytest.fail("hashed again"))
    assert resources.asset_path("table.csv").is_file()


def test_missing_manifest_is_an_asset_error(assets: Path) -> None:
    (assets / "MANIFEST.json").unlink()
    with pytest.raises(AssetError, match="reinstall"):
        resources.manifest()


def test_every_file_that_ships_is_listed_and_intact() -> None:
    """Each asset on disk stands in the manifest with its true checksum, and the other way round."""
    folder = resources.ASSETS
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"MANIFEST.json"}
    assert on_disk == set(resources.manifest())
    for name, record in resources.manifest().items():
        assert resources.file_sha256(folder / name) == record["sha256"], name
        assert (folder / name).stat().st_size == record["bytes"], name
        assert record["licence"], name
        assert record["source"], name


def test_policy_by_bundled_name(assets: Path) -> None:
    assert resources.policy_path("nano") == assets / "policies" / "nano"
    assert resources.bundled_policies() == ["nano"]


def test_damaged_bundled_policy_is_refused(assets: Path) -> None:
    (assets / "policies/nano/model.safetensors").write_bytes(b"other weights")
    with pytest.raises(AssetError, match=r"policies/nano/model\.safetensors"):
        resources.policy_path("nano")


def test_policy_by_folder(assets: Path, tmp_path: Path) -> None:
    folder = make_policy(tmp_path / "mine")
    assert resources.policy_path(folder) == folder


def test_policy_of_a_checkpoint_and_of_a_run(assets: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_policy(run / "checkpoints" / "step_000010" / "policy")
    newest = make_policy(run / "checkpoints" / "step_000020" / "policy")
    (run / "checkpoints" / "latest").write_text("step_000020\n")
    assert resources.policy_path(run) == newest
    assert resources.policy_path(newest.parent) == newest


def test_unknown_policy_names_the_nearest(assets: Path) -> None:
    with pytest.raises(ConfigError, match=r"no policy 'nanoo'.*did you mean 'nano'"):
        resources.policy_path("nanoo")


def test_folder_without_weights_is_refused(assets: Path, tmp_path: Path) -> None:
    folder = make_policy(tmp_path / "mine")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no policy in .*mine"):
        resources.policy_path(folder)
