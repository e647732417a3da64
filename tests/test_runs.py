"""Run folders: refused, recorded, resumed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from materium_rl.config import FinetuneConfig, load_config
from materium_rl.errors import ConfigError
from materium_rl.files import TEMPORARY, atomic_path
from materium_rl.resources import POLICY_FILES, policy_path
from materium_rl.runs import ENTRIES, SIZES, RunFolder, check_output_folder

CONFIG = FinetuneConfig(seed=7)


def record(run: RunFolder, steps: range, *, every: int = 2, keep: int | None = None) -> None:
    """Write what a run of these steps leaves behind."""
    for step in steps:
        run.append_metrics({"step": step, "reward": step / 10})
        run.write_samples(step, pd.DataFrame({"value": [step]}))
        if step % every == 0:
            with run.checkpoint(step, keep=keep) as folder:
                (folder / "state.txt").write_text(str(step))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_new_run_can_be_run_again_from_its_config(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "runs" / "x", CONFIG)
    assert load_config(FinetuneConfig, [run.path / "config.yaml"]) == CONFIG
    (start,) = json.loads((run.path / "environment.json").read_text())
    assert start["versions"]["numpy"] == np.__version__
    assert {entry.name for entry in run.path.iterdir()} <= ENTRIES


def test_existing_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    record(run, range(1, 3))
    before = tree(run.path)
    with pytest.raises(ConfigError, match=r"already exists; add --resume .* --overwrite"):
        RunFolder.create(run.path, FinetuneConfig())
    assert tree(run.path) == before


def test_empty_folder_is_accepted(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path, CONFIG).latest_step() == 0


def test_overwrite_replaces_a_run(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    record(run, range(1, 3))
    (run.path / f"{TEMPORARY}killed").write_text("left by a killed process")
    run = RunFolder.create(run.path, FinetuneConfig(seed=8), overwrite=True)
    assert run.read_metrics() == []
    assert run.latest_checkpoint() is None
    assert not list(run.samples.iterdir())
    assert load_config(FinetuneConfig, [run.path / "config.yaml"]).seed == 8


def test_overwrite_never_deletes_foreign_files(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    (run.path / "thesis.tex").write_text("years of work")
    before = tree(run.path)
    with pytest.raises(ConfigError, match=r"will not overwrite .*thesis\.tex"):
        RunFolder.create(run.path, CONFIG, overwrite=True)
    assert tree(run.path) == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"resume": True}, "nothing to resume"),
        ({"resume": True, "overwrite": True}, "exclude each other"),
    ],
)
def test_refused_flags_create_nothing(tmp_path: Path, flags: dict[str, bool], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunFolder.create(tmp_path / "x", CONFIG, **flags)
    assert not (tmp_path / "x").exists()


def test_file_in_place_of_a_run(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        RunFolder.create(tmp_path / "x", CONFIG, overwrite=True)


def test_metrics_hold_plain_values(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    run.append_metrics({"loss": np.float32(0.5), "step": np.int64(1), "kl": float("nan"), "top": np.inf})
    assert run.metrics.read_text() == '{"step": 1, "loss": 0.5, "kl": null, "top": null}\n'


def test_resume_goes_back_to_the_checkpoint(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    record(run, range(1, 6), every=3)
    run = RunFolder.create(run.path, CONFIG, resume=True)
    assert run.latest_step() == 3
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3]
    assert sorted(p.stem for p in run.samples.iterdir()) == ["step_000001", "step_000002", "step_000003"]
    record(run, range(4, 7), every=3)
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3, 4, 5, 6]
    assert len(json.loads((run.path / "environment.json").read_text())) == 2


def test_resume_without_a_checkpoint_starts_at_zero(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    record(run, range(1, 3), every=5)
    run = RunFolder.create(run.path, CONFIG, resume=True)
    assert (run.latest_step(), run.read_metrics(), list(run.samples.iterdir())) == (0, [], [])


def test_torn_last_line_is_dropped_on_resume(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    record(run, range(1, 3))
    with run.metrics.open("a") as stream:
        stream.write('{"step": 3, "rew')
    assert [row["step"] for row in run.read_metrics()] == [1, 2]
    run = RunFolder.create(run.path, CONFIG, resume=True)
    run.append_metrics({"step": 3})
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3]


def test_damage_inside_the_metrics_is_not_ignored(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    run.metrics.write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 2: not JSON"):
        run.read_metrics()


def test_failed_checkpoint_leaves_the_last_one(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    record(run, range(1, 3))

    def crash() -> None:
        with run.checkpoint(4) as folder:
            (folder / "state.txt").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert [p.name for p in sorted(run.checkpoints.iterdir())] == ["latest", "step_000002"]
    assert run.latest_step() == 2


def test_killed_before_the_pointer_moved(tmp_path: Path) -> None:
    """A complete checkpoint counts, whether ``latest`` names it yet or not."""
    run = RunFolder.create(tmp_path / "x", CONFIG)
    record(run, range(1, 5))
    (run.checkpoints / "latest").write_text("step_000002\n")
    run = RunFolder.create(run.path, CONFIG, resume=True)
    assert run.latest_step() == 4
    assert (run.checkpoints / "latest").read_text() == "step_000004\n"
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3, 4]


@pytest.mark.parametrize("damage", ["shorter", "lost", "list"])
def test_torn_checkpoint_is_ignored_and_removed(tmp_path: Path, damage: str) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    record(run, range(1, 5))
    torn = run.checkpoints / "step_000004"
    if damage == "shorter":
        (torn / "state.txt").write_text("")
    elif damage == "lost":
        (torn / "state.txt").unlink()
    else:
        (torn / SIZES).write_text('{"state')
    assert run.latest_step() == 2
    with pytest.warns(RuntimeWarning, match="step_000004 is damaged.*from step 2"):
        run = RunFolder.create(run.path, CONFIG, resume=True)
    assert [p.name for p in run.checkpoints.glob("step_*")] == ["step_000002"]
    assert [row["step"] for row in run.read_metrics()] == [1, 2]
    record(run, range(3, 5))
    assert (run.latest_checkpoint() / "state.txt").read_text() == "4"


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    record(run, range(1, 4))
    half = run.checkpoints / f"{TEMPORARY}1-step_000003"
    half.mkdir()
    (half / "state.txt").write_text("3")
    (run.samples / f"{TEMPORARY}2-step_000004.parquet").write_text("half a table")
    (run.path / f"{TEMPORARY}3-config.yaml").write_text("seed:")
    run = RunFolder.create(run.path, CONFIG, resume=True)
    assert not list(run.path.rglob(f"{TEMPORARY}*"))
    assert run.latest_step() == 2


def test_killed_before_its_config_was_written(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / f"{TEMPORARY}1-config.yaml").write_text("seed:")
    assert RunFolder.create(tmp_path / "x", CONFIG).latest_step() == 0


def test_lost_pointer_falls_back_to_the_newest(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    record(run, range(1, 5))
    (run.checkpoints / "latest").unlink()
    assert run.latest_step() == 4


def test_old_checkpoints_are_removed(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    record(run, range(1, 9), keep=2)
    assert sorted(p.name for p in run.checkpoints.glob("step_*")) == ["step_000006", "step_000008"]


def test_of_other_checkpoints_the_newest_stays(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)

    def after(step: int) -> list[int]:
        with run.checkpoint(step, keep=2, every=3) as folder:
            (folder / "state.txt").write_text(str(step))
        return sorted(int(p.name[-2:]) for p in run.checkpoints.glob("step_*"))

    assert [after(step) for step in range(1, 5)] == [[1], [2], [3], [3, 4]]
    assert [after(step) for step in range(5, 11)][-4:] == [[3, 6, 7], [3, 6, 8], [6, 9], [6, 9, 10]]


def test_run_folder_names_its_latest_policy(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "x", CONFIG)
    for step in (1, 2):
        with run.checkpoint(step) as folder:
            (folder / "policy").mkdir()
            for name in POLICY_FILES:
                (folder / "policy" / name).write_text(str(step))
    assert (policy_path(run.path) / "config.json").read_text() == "2"


def test_output_folder(tmp_path: Path) -> None:
    check_output_folder(tmp_path / "new", overwrite=False)
    check_output_folder(tmp_path, overwrite=False)
    (tmp_path / "x").write_text("")
    with pytest.raises(ConfigError, match="not empty; add --overwrite"):
        check_output_folder(tmp_path, overwrite=False)
    with pytest.raises(ConfigError, match="not written by generate, compare, evaluate, discoveries"):
        check_output_folder(tmp_path, overwrite=True)
    (tmp_path / "comparison.json").write_text("{}")
    check_output_folder(tmp_path, overwrite=True)
    with pytest.raises(ConfigError, match="is a file"):
        check_output_folder(tmp_path / "x", overwrite=True)


def test_atomic_path_replaces_folders_and_keeps_the_suffix(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with atomic_path(tmp_path / "deep" / "folder") as temporary:
            temporary.mkdir()
            (temporary / "a").write_text(text)
        with atomic_path(tmp_path / "deep" / "x.npz") as temporary:
            np.savez(temporary, a=np.arange(3))
    assert (tmp_path / "deep/folder/a").read_text() == "two"
    assert sorted(os.listdir(tmp_path / "deep")) == ["folder", "x.npz"]


def test_atomic_path_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")

    def crash() -> None:
        with atomic_path(tmp_path / "x") as temporary:
            temporary.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert tree(tmp_path) == {"x": b"old"}
