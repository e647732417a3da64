"""Two gloo processes: the weights of one with the doubled batch, one set of files, none left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import OPTIONS, small_structures, tiny_codec, wait_for, write_data, write_policy
from two_processes import BATCH, EQUALITY, config

from materium_rl.config import FinetuneConfig
from materium_rl.errors import ConfigError
from materium_rl.policies.loading import build_model, load_policy
from materium_rl.pretrain import pretrain
from materium_rl.processes import Processes
from materium_rl.rl.finetune import finetune
from materium_rl.runs import RunFolder
from materium_rl.trainer import Trainer, TrainingSet

TESTS = Path(__file__).resolve().parent
CLOCK = {"seconds", "tokens_per_second"}


def pair(*command: str, cwd: Path) -> list[subprocess.Popen[str]]:
    """Start a Python command twice, with the variables that torchrun sets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    together = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", *command],
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                **together,
                "RANK": rank,
                "LOCAL_RANK": rank,
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
            },
        )
        for rank in ("0", "1")
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have run the jobs of ``two_processes``."""
    path = tmp_path_factory.mktemp("two")
    for n in {40, *(n for n, _ in EQUALITY.values())}:
        write_data(path / f"{n}.json", n)
    processes = pair(str(TESTS / "two_processes.py"), str(path), cwd=path)
    results = [process.communicate(timeout=600) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert "best validation" in results[0][0]
    assert results[1][0] == "", "only the main process prints"
    return path


def state(run: Path) -> dict[str, object]:
    checkpoint = RunFolder(run).latest_checkpoint()
    assert checkpoint is not None
    return torch.load(checkpoint / "trainer.pt")


def names(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*"))


def metrics(run: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in RunFolder(run).read_metrics()]


@pytest.mark.parametrize("name", EQUALITY)
def test_two_processes_are_one_with_the_doubled_batch(name: str, folder: Path, tmp_path: Path) -> None:
    n, sets = EQUALITY[name]
    run = pretrain(config(folder, n, sets, batch=2 * BATCH), tmp_path / "one")
    one, two = state(run), state(folder / f"two_{name}")
    for part in ("model", "average"):
        for key, weights in one[part].items():
            torch.testing.assert_close(two[part][key], weights, rtol=0, atol=1e-5, msg=f"{part}.{key}")
    assert one["identity"] == two["identity"]
    assert one["progress"]["tokens"] == two["progress"]["tokens"]
    assert names(run) == names(folder / f"two_{name}")
    for a, b in zip(metrics(run), metrics(folder / f"two_{name}"), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_training_moves_the_weights(folder: Path) -> None:
    """Without this the equality above could hold for two runs that learn nothing."""
    run = folder / "two_last_batch_of_3"
    first, last = (metrics(run)[i]["validation/nats_per_structure"] for i in (0, -1))
    assert last < first
    weights = state(run)["model"]
    assert float(weights["conditioner.outer.weight"].abs().max()) > 1e-4  # starts at zero


def test_interrupt_of_one_process_stops_both_and_resumes_exactly(folder: Path) -> None:
    """Dropout is on: each process goes on with the numbers that it would have drawn."""
    assert [outcome["interrupted"] for outcome in outcomes(folder)] == ["interrupted", "interrupted"]
    whole, parts = state(folder / "whole"), state(folder / "parts")
    for part in ("model", "average"):
        assert all(torch.equal(whole[part][key], parts[part][key]) for key in whole[part])
    assert metrics(folder / "whole") == metrics(folder / "parts")
    steps = {row["step"] for row in metrics(folder / "whole")}
    assert steps == {3, 6}
    for step in steps:
        tables = [folder / run / "samples" / f"step_{step:06d}.parquet" for run in ("whole", "parts")]
        pd.testing.assert_frame_equal(*(pd.read_parquet(table) for table in tables))


def test_divergence_ends_both(folder: Path) -> None:
    for outcome in outcomes(folder):
        assert outcome["diverged"].startswith("training diverged: the validation loss is nan at step 3")
    assert RunFolder(folder / "diverged").latest_checkpoint() is None


def test_early_stopping_ends_both(folder: Path) -> None:
    assert [row["step"] for row in metrics(folder / "stuck")] == [2, 4, 6]


def test_another_number_of_processes_needs_the_same_batch(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"structures per step 16 -> 8"):
        pretrain(config(folder), folder / "whole", resume=True)
    pretrain(config(folder, batch=2 * BATCH), folder / "whole", resume=True)


def outcomes(folder: Path) -> list[dict[str, str]]:
    return [json.loads((folder / f"outcome_{rank}.json").read_text()) for rank in (0, 1)]


def test_ctrl_c_of_the_main_process(tmp_path: Path) -> None:
    run, data = tmp_path / "run", str(write_data(tmp_path / "data.json"))
    sets = [part for option in (*OPTIONS, "training.epochs=100000") for part in ("--set", option)]
    command = ["-m", "materium_rl.cli", "pretrain", "--data", data, "--run", str(run), *sets]
    main, other = pair(*command, cwd=tmp_path)
    wait_for(run / "dropped.txt", main)
    main.send_signal(signal.SIGINT)
    (out, err), (silent, _) = main.communicate(timeout=120), other.communicate(timeout=120)
    assert (main.returncode, other.returncode) == (130, 130), err
    assert f"saved at step {RunFolder(run).latest_step()}; go on with" in out
    assert silent == ""
    assert not list(run.rglob(".tmp-*"))
    assert RunFolder(run).latest_step() >= 1
    load_policy(run)


def test_dropout_depends_on_step_and_process_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no two processes drop the same, and a resumed one drops what it would have dropped."""
    monkeypatch.setattr(Processes, "sum", lambda _, *values: list(values))
    monkeypatch.setattr(Processes, "sum_gradients", lambda *_: None)
    write_data(tmp_path / "40.json")
    settings, codec = config(tmp_path), tiny_codec()
    rows = TrainingSet([np.array(codec.encode(s)) for s in small_structures()])

    def seeds(index: int, steps: int, first: int = 0) -> list[int]:
        torch.manual_seed(index)
        model, run = build_model(codec.settings, settings.model), RunFolder(tmp_path / "run")
        trainer = Trainer(model, codec, rows, rows, settings, run, Processes(index, 2))
        trainer.progress.step = first
        found = []
        for _ in range(steps):
            trainer._update(np.arange(4))
            found.append(torch.initial_seed())
        return found

    assert len({*seeds(0, 3), *seeds(1, 3)}) == 6
    assert seeds(1, 2, first=1) == seeds(1, 3)[1:]


def test_shares_are_disjoint_and_complete() -> None:
    rows = np.arange(7)
    shares = [Processes(index, 3).share(rows).tolist() for index in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    assert [len(Processes(index, 3).share(rows[:1])) for index in range(3)] == [1, 0, 0]
    assert Processes().share(rows).tolist() == rows.tolist()


def test_finetune_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = FinetuneConfig(policy=str(write_policy(tmp_path / "policy")))
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(ConfigError, match=r"one process.*launcher started 2"):
            finetune(config, tmp_path / "run")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ConfigError, match=r"one GPU, but sees 4.*CUDA_VISIBLE_DEVICES=0"):
        finetune(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
