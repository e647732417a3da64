"""Pretraining: known loss, exact resume, early stopping, samples, and what a resumed run refuses."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pymatgen.core import Structure
from tiny import OPTIONS, SHAPE, small_structures, start, tiny_codec, wait_for, write_data

import materium_rl.trainer as training_loop
from materium_rl.config import PretrainConfig, load_config
from materium_rl.datasets import pad
from materium_rl.errors import ConfigError, MateriumError
from materium_rl.policies.loading import build_model, load_policy
from materium_rl.pretrain import pretrain
from materium_rl.rewards.base import Measurement
from materium_rl.rewards.catalogue.validity import Validity
from materium_rl.runs import RunFolder
from materium_rl.trainer import EVALUATION_SAMPLES, Trainer, nats_per_structure, sample_table

CLOCK = ("seconds", "tokens_per_second")


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    data = write_data(tmp_path / "data.json")
    sets = [*OPTIONS, "training.epochs=2", "training.eval_every=3"]
    return load_config(PretrainConfig, [], {"data": data, "validation_data": data}, sets)


def changed(config: PretrainConfig, *sets: str) -> PretrainConfig:
    return load_config(PretrainConfig, [], config.model_dump(), sets)


def interrupted(config: PretrainConfig, run: Path, step: int, *, resume: bool = False) -> Path:
    """Pretrain with a real SIGINT in the middle of a step."""
    update = Trainer._update

    def update_and_interrupt(self: Trainer, batch: np.ndarray) -> float:
        loss = update(self, batch)
        if self.progress.step == step:
            signal.raise_signal(signal.SIGINT)
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_update", update_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, run, resume=resume)
    assert RunFolder(run).latest_step() == step
    return run


def checkpoint_of(run: Path) -> dict[str, Any]:
    return torch.load(RunFolder(run).latest_checkpoint() / "trainer.pt")


def assert_equal(a: Any, b: Any, where: str = "state") -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a.keys() - {"seconds"}:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        for i, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in RunFolder(run).read_metrics()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_nats_per_structure_is_the_loss_of_forward() -> None:
    codec = tiny_codec()
    torch.manual_seed(3)
    model = build_model(codec.settings, SHAPE)
    sequences = [np.array(codec.encode(s), dtype=np.int32) for s in small_structures()[:9]]
    expected = 0.0
    with torch.inference_mode():
        for ids in sequences:
            tokens = pad([ids])
            distribution = model.eval()(tokens).logits.double().log_softmax(-1)[:, :-1]
            expected -= float(distribution.gather(2, tokens[:, 1:, None]).sum())
    found = nats_per_structure(model, sequences, torch.device("cpu"))
    assert found == pytest.approx(expected / 9, rel=1e-5)


def test_sample_table_names_the_invalid_ones() -> None:
    codec = tiny_codec()
    torch.manual_seed(3)
    model = build_model(codec.settings, SHAPE)
    table = sample_table(model, codec, 12, seed=5)
    pd.testing.assert_frame_equal(table, sample_table(model, codec, 12, seed=5))
    assert table.columns.tolist() == ["formula", "n_sites", "valid", "reason", "cif"]
    assert not table["valid"].all()
    assert ((table["reason"] == "") == table["valid"]).all()
    for row in table[table["valid"]].itertuples():
        structure = Structure.from_str(row.cif, fmt="cif")
        assert len(structure) == row.n_sites
        assert isinstance(Validity().measure([structure])[0], Measurement)


def test_resume_is_exact(config: PretrainConfig, tmp_path: Path) -> None:
    """Two epochs in one go, and the same with Ctrl-C between two validations and in the second epoch."""
    whole = pretrain(config, tmp_path / "whole")
    for step, resume in ((2, False), (7, True)):
        interrupted(config, tmp_path / "parts", step, resume=resume)
    parts = pretrain(config, tmp_path / "parts", resume=True)
    assert_equal(checkpoint_of(whole), checkpoint_of(parts))
    assert metrics_of(whole) == metrics_of(parts)
    assert [row["step"] for row in metrics_of(whole)] == [3, 6, 9, 10]
    name = "policy/model.safetensors"
    assert (whole / name).read_bytes() == (parts / name).read_bytes()
    for row in metrics_of(whole):
        tables = [pd.read_parquet(r / "samples" / f"step_{row['step']:06d}.parquet") for r in (whole, parts)]
        pd.testing.assert_frame_equal(*tables)
        assert len(tables[0]) == EVALUATION_SAMPLES
        assert row["samples/valid"] == tables[0]["valid"].mean()


def test_loss_falls_and_the_best_policy_is_kept(config: PretrainConfig, tmp_path: Path) -> None:
    faster = ("training.learning_rate=1e-2", "training.ema_decay=0.5", "model.dropout=0")
    longer = changed(config, "training.epochs=12", "training.eval_every=20", *faster)
    run = pretrain(longer, tmp_path / "run")
    losses = [row["validation/nats_per_structure"] for row in metrics_of(run)]
    assert min(losses) < losses[0] - 5
    policy = load_policy(run / "policy")
    ids = [np.array(policy.codec.encode(s), dtype=np.int32) for s in small_structures()]
    assert nats_per_structure(policy.model, ids, torch.device("cpu")) == pytest.approx(min(losses), abs=0.02)


def test_early_stopping(config: PretrainConfig, tmp_path: Path) -> None:
    idle = ("training.epochs=50", "training.learning_rate=1e-9")
    stuck = changed(config, *idle, "training.eval_every=2", "training.patience=2")
    run = pretrain(stuck, tmp_path / "run")
    assert [row["step"] for row in metrics_of(run)] == [2, 4, 6]
    assert checkpoint_of(run)["progress"]["best_step"] == 2
    before = checkpoint_of(run)
    pretrain(stuck, run, resume=True)
    assert_equal(before, checkpoint_of(run))
    patient = changed(stuck, "training.patience=3")
    pretrain(patient, run, resume=True)
    assert [row["step"] for row in metrics_of(run)] == [2, 4, 6, 8]


def test_without_validation_data_formulas_are_held_out(
    config: PretrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pretrain(changed(config, "validation_data=null", "seed=2"), tmp_path / "run")
    counts = checkpoint_of(run)["identity"]
    assert counts["training structures"] > 30
    assert counts["validation structures"] >= 1
    assert "validation:" in capsys.readouterr().out


def test_divergence_is_told_and_saves_nothing(
    config: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_loop, "nats_per_structure", lambda *_: float("nan"))
    with pytest.raises(MateriumError, match=r"diverged.*step 3.*learning_rate"):
        pretrain(config, tmp_path / "run")
    assert RunFolder(tmp_path / "run").latest_checkpoint() is None
    assert not (tmp_path / "run" / "policy").exists()


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["data={fewer}"], r"species \d+ -> \d+; training structures 40 -> 30"),
        (["validation_data={fewer}"], r"validation structures 40 -> 30; digest"),
        (["tokenizer.grid=480"], r"digest of all token sequences"),
        (["model.layers=3"], r"model .*'layers': 2.* -> .*'layers': 3"),
        (["training.learning_rate=1e-4"], r"training.learning_rate 0.0015 -> 0.0001"),
    ],
)
def test_resume_refuses_another_training(
    config: PretrainConfig, tmp_path: Path, sets: list[str], message: str
) -> None:
    run = interrupted(config, tmp_path / "run", 1)
    fewer = write_data(tmp_path / "fewer.json", 30)
    before = files(run)
    with pytest.raises(ConfigError, match=message):
        pretrain(changed(config, *(s.format(fewer=fewer) for s in sets)), run, resume=True)
    assert files(run) == before


def test_damaged_checkpoint(config: PretrainConfig, tmp_path: Path) -> None:
    run = interrupted(config, tmp_path / "run", 4)
    trainer = run / "checkpoints" / "step_000004" / "trainer.pt"
    trainer.write_bytes(bytes(trainer.stat().st_size))
    with pytest.raises(ConfigError, match=r"step_000004.*damaged.*earlier checkpoint"):
        pretrain(config, run, resume=True)
    trainer.parent.rename(tmp_path / "bad")
    pretrain(config, run, resume=True)
    assert [row["step"] for row in metrics_of(run)] == [3, 6, 9, 10]


def test_checkpoint_cut_short_is_passed_over(config: PretrainConfig, tmp_path: Path) -> None:
    run = interrupted(config, tmp_path / "run", 4)
    trainer = run / "checkpoints" / "step_000004" / "trainer.pt"
    trainer.write_bytes(trainer.read_bytes()[:1000])
    with pytest.warns(RuntimeWarning, match=r"step_000004 is damaged.*from step 3"):
        pretrain(config, run, resume=True)
    assert [row["step"] for row in metrics_of(run)] == [3, 6, 9, 10]


def test_overwrite_replaces_a_run(config: PretrainConfig, tmp_path: Path) -> None:
    short = changed(config, "training.epochs=1")
    pretrain(config, tmp_path / "run")
    pretrain(short, tmp_path / "run", overwrite=True)
    assert [row["step"] for row in metrics_of(tmp_path / "run")] == [3, 5]


def test_ctrl_c_of_the_real_command(config: PretrainConfig, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sets = [part for option in (*OPTIONS, "training.epochs=100000") for part in ("--set", option)]
    command = ["pretrain", "--data", str(config.data), "--run", str(run), *sets]
    process = start(*command, cwd=tmp_path)
    wait_for(run / "dropped.txt", process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted: finishing this step" in err
    assert "Traceback" not in err
    step = RunFolder(run).latest_step()
    assert f"saved at step {step}; go on with: materium-rl pretrain --run {run} --resume" in out
    assert not list(run.rglob(".tmp-*"))
    saved = load_config(PretrainConfig, [run / "config.yaml"])
    assert step >= 1
    epoch = checkpoint_of(run)["progress"]["epoch"]
    pretrain(changed(saved, f"training.epochs={epoch + 1}"), run, resume=True)
    assert RunFolder(run).latest_step() >= step
    load_policy(run)
