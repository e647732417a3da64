"""One of two processes that pretrain together; ``python two_processes.py FOLDER`` runs all ``JOBS``.

All jobs in one pair of processes, since starting the pair takes longer than a job.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import OPTIONS

import materium_rl.trainer as training_loop
from materium_rl.config import PretrainConfig, load_config
from materium_rl.errors import MateriumError
from materium_rl.pretrain import pretrain
from materium_rl.processes import launched
from materium_rl.trainer import Trainer

SHARED = (*OPTIONS, "training.epochs=2", "training.eval_every=3", "training.bf16=false")
EQUAL = ("model.dropout=0", "training.eval_every=5")
CONDITIONS = ("conditions.names=[n_sites,formula,chemical_system]", "conditions.dropout=0.4")
BATCH = 8
"""Of one process."""
EQUALITY = {
    # of 16, 16, 1: nothing is left for the second process; clipping would hide a wrong scale
    "last_batch_of_1": (33, (*EQUAL, "training.max_grad_norm=1e6")),
    "last_batch_of_3": (35, (*EQUAL, *CONDITIONS)),
    "no_condition_shown": (20, (*EQUAL, CONDITIONS[0], "conditions.dropout=1")),
}
STUCK = ("training.learning_rate=1e-9", "training.epochs=50", "training.eval_every=2", "training.patience=2")


def config(folder: Path, n: int = 40, sets: tuple[str, ...] = (), batch: int = BATCH) -> PretrainConfig:
    """Pretraining of n structures."""
    data = folder / f"{n}.json"
    overrides = {"data": data, "validation_data": data}
    return load_config(PretrainConfig, [], overrides, [*SHARED, f"training.batch_size={batch}", *sets])


def interrupted(settings: PretrainConfig, run: Path, *, process: int, step: int) -> str:
    """Pretrain with a real SIGINT to one process in the middle of a step."""
    update = Trainer._update

    def update_and_interrupt(self: Trainer, batch: np.ndarray) -> float:
        loss = update(self, batch)
        if self.progress.step == step and self.processes.index == process:
            signal.raise_signal(signal.SIGINT)
        return loss

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_update", update_and_interrupt)
        try:
            pretrain(settings, run)
        except KeyboardInterrupt:
            return "interrupted"
    return "went on"


def diverged(settings: PretrainConfig, run: Path) -> str:
    """Pretrain with a loss that only the main process sees to be no number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_loop, "nats_per_structure", lambda *_: float("nan"))
        try:
            pretrain(settings, run)
        except MateriumError as error:
            return str(error)
    return "went on"


def main(folder: Path) -> None:
    """All jobs; what this process saw goes to ``outcome_RANK.json``."""
    assert launched() == 2
    for name, (n, sets) in EQUALITY.items():
        pretrain(config(folder, n, sets), folder / f"two_{name}")
    pretrain(config(folder), folder / "whole")
    outcome = {"interrupted": interrupted(config(folder), folder / "parts", process=1, step=4)}
    pretrain(config(folder), folder / "parts", resume=True)
    outcome["diverged"] = diverged(config(folder), folder / "diverged")
    pretrain(config(folder, sets=STUCK), folder / "stuck")
    (folder / f"outcome_{os.environ['RANK']}.json").write_text(json.dumps(outcome))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
