"""``materium-rl pretrain``: read structures and labels, train a policy, keep the best."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from materium_rl.config import PretrainConfig
from materium_rl.datasets import hold_out, read_reduced, tokenize, write_dropped
from materium_rl.errors import ConfigError
from materium_rl.interrupts import GracefulInterrupt
from materium_rl.labels import COMPUTED, conditions_of, label, load_labels, save_labels, statistics
from materium_rl.policies.loading import build_model, load_policy
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.processes import join
from materium_rl.resources import TRAINING_INDEX
from materium_rl.runs import RunFolder, check_run_folder
from materium_rl.structure_files import ReadResult, StructureRow
from materium_rl.tokenizer import CrystalCodec, TokenizerSettings, species_of
from materium_rl.trainer import BATCH, Trainer, TrainingSet
from materium_rl.training_index import kept_rows, write_training_index

LABELS = "labels_{}.parquet"
"""In the run folder: condition values of the ``training`` and the ``validation`` structures."""
CONDITIONER = "conditioner."
"""First part of the names of the weights that only conditions need."""


def pretrain(config: PretrainConfig, run: Path, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Train a policy on structure files; returns the run folder, whose ``policy`` is the best one.

    Processes that a launcher has started together share each batch.

    Raises:
        StructureFileError: Nothing usable in the data; nothing has been written then.
        ConfigError: The folder cannot be used or resumed with these data and options; likewise.
        KeyboardInterrupt: Ctrl-C, after a checkpoint has been written.
    """
    check_run_folder(run, resume=resume, overwrite=overwrite)
    processes = join()  # all have checked the folder before the main process creates it
    torch.manual_seed(config.seed)
    training, validation = _read(config)
    settings = _token_settings(config, training)
    codec = CrystalCodec(settings)
    train_set, validation_set = tokenize(training, codec), tokenize(validation, codec)
    train_set.require_any(config.data)
    validation_set.require_any(config.validation_data or config.data)
    processes.say(f"training: {train_set.summary()}\nvalidation: {validation_set.summary()}")
    folder = RunFolder(run)
    names, before = config.conditions.names, run if resume else config.conditions.labels
    rows = {"training": kept_rows(training, train_set), "validation": kept_rows(validation, validation_set)}
    parts = rows if names else {}
    frames = processes.from_main(lambda: {part: _labelled(part, rows[part], names, before) for part in parts})
    labels = {part: conditions_of(frame) for part, frame in frames.items()}
    known = statistics(labels["training"], names, frames["training"].attrs[COMPUTED]) if names else None
    model = build_model(settings, config.model, known).to(processes.device)
    if config.initial_policy:
        _copy_weights(config.initial_policy, model, settings)
    train, validate = (
        TrainingSet(data.sequences, model.encode_conditions(labels[part]).to("cpu") if names else None)
        for part, data in (("training", train_set), ("validation", validation_set))
    )
    trainer = Trainer(model, codec, train, validate, config, folder, processes)
    checkpoint = folder.latest_checkpoint() if resume else None
    if checkpoint:
        trainer.load_state_dict(_checked_state(checkpoint, trainer))

    def start() -> None:
        RunFolder.create(run, config, resume=resume, overwrite=overwrite)
        write_dropped(run / "dropped.txt", {"training": train_set, "validation": validation_set})
        for part, frame in frames.items():
            save_labels(frame, run / LABELS.format(part))

    with GracefulInterrupt() as interrupt:
        processes.from_main(start)
        progress = trainer.fit(interrupt)
    if trainer.interrupted:
        processes.say(f"saved at step {progress.step}; go on with: materium-rl pretrain --run {run} --resume")
        raise KeyboardInterrupt
    if processes.index == 0 and not (run / "policy" / TRAINING_INDEX).is_file():
        processes.say(write_training_index(rows["training"], run / "policy"))
    best = f"best validation {progress.best:.2f} nats/structure at step {progress.best_step}"
    processes.say(f"{best}: {run / 'policy'}")
    return run


def _checked_state(checkpoint: Path, trainer: Trainer) -> dict[str, Any]:
    """Read a checkpoint of the same data, model and optimizer settings.

    Raises:
        ConfigError: It cannot be read, or belongs to another training; says what differs.
    """
    try:
        state: dict[str, Any] = torch.load(checkpoint / "trainer.pt", map_location="cpu")
        before = state["identity"]
        before.setdefault(BATCH, before.get("training.batch_size"))  # its name in earlier checkpoints
    except (OSError, EOFError, RuntimeError, KeyError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"cannot resume from {checkpoint}: trainer.pt is missing, damaged or of another program "
            f"({type(error).__name__}: {reason}); delete that folder to go on from an earlier checkpoint"
        ) from error
    now = trainer.identity()
    changes = [f"{key} {before.get(key)} -> {now[key]}" for key in now if before.get(key) != now[key]]
    if changes:
        raise ConfigError(
            f"cannot resume {trainer.run.path}: data or options are not those that it was trained with: "
            f"{'; '.join(changes)}; give back the old ones, or start another run"
        )
    return state


def _labelled(
    part: str, rows: Sequence[StructureRow], names: Sequence[str], before: Path | None
) -> pd.DataFrame:
    """Labels of the structures of a part, read from an earlier run where there is one."""
    path = before / LABELS.format(part) if before else None
    if path and path.is_file():
        return load_labels(path, rows, names)
    return label(rows, names)


def _copy_weights(name: str, model: CrystalForCausalLM, settings: TokenizerSettings) -> None:
    """Start from the weights of another policy of the same shape and token settings.

    One that knows no conditions can start one that shall learn them.
    """
    initial = load_policy(name)
    before, now = ({k: v.shape for k, v in m.state_dict().items()} for m in (initial.model, model))
    if initial.model.conditioner is None:
        now = {k: shape for k, shape in now.items() if not k.startswith(CONDITIONER)}
    if initial.codec.settings != settings or before != now:
        raise ConfigError(
            f"initial_policy {name}: its tokens or its size differ from those of this config and data; "
            "use the same data, tokenizer and model sections that it was trained with"
        )
    model.load_state_dict({**model.state_dict(), **initial.model.state_dict()})


def _read(config: PretrainConfig) -> tuple[ReadResult, ReadResult]:
    oxidation = config.tokenizer.oxidation
    training = read_reduced(config.data, oxidation=oxidation)
    if config.validation_data:
        return training, read_reduced(config.validation_data, oxidation=oxidation)
    return hold_out(training, config.data, seed=config.seed)


def _token_settings(config: PretrainConfig, training: ReadResult) -> TokenizerSettings:
    options = config.tokenizer.model_dump(exclude={"oxidation"})
    return TokenizerSettings(species=species_of(row.structure for row in training.rows), **options)
