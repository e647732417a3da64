"""Train and pack the bundled nano policy: materium_rl/assets/policies/nano.

    python scripts/build_nano.py --train mp_train.csv.gz --validation mp_val.csv.gz

The files hold crystals of at most 20 sites from the Materials Project in the MP-20 convention (a ``cif``
column), split by reduced formula. Training takes about an hour and a half on one CPU core: the preset
pretrain_nano, then pretrain_nano_polish. ``--from-run RUN`` packs a run of the second part that was
trained before on the same files. ``--metrics FILE`` adds rows to the model card: a JSON file with an
object of names and numbers.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from manifest import ASSETS, record

from materium_rl.config import PretrainConfig, load_config, preset
from materium_rl.datasets import read_reduced, tokenize
from materium_rl.errors import ConfigError, MateriumError
from materium_rl.files import atomic_path
from materium_rl.policies.loading import Policy, load_policy
from materium_rl.pretrain import pretrain
from materium_rl.runs import RunFolder
from materium_rl.trainer import nats_per_structure
from materium_rl.training_index import kept_rows, write_training_index

NAME = "nano"
POLISH = "pretrain_nano_polish"
CPU = torch.device("cpu")
LIMIT = 30_000_000
"""Bytes of weights that may go into the repository."""
TOLERANCE = 0.5
"""Nats per structure by which the loss of the packed policy may differ from the one that was recorded."""
SOURCE = (
    "trained from scratch by materium_rl on structures of the Materials Project (Jain et al., APL Materials "
    "1, 011002, 2013)"
)
LICENCE = "Apache-2.0 (weights); CC-BY-4.0 (Materials Project, training data)"
CARD = """\
# {name}: the bundled crystal policy

An autoregressive transformer that writes inorganic crystals as token sequences. It is small enough to be
sampled and fine-tuned on a CPU; it is a starting point for reinforcement learning, not a state-of-the-art
generator.

| | |
|---|---|
| architecture | Llama layers, width {config.hidden_size}, {config.num_hidden_layers} layers, \
{config.num_attention_heads} heads, feed-forward width {config.intermediate_size} |
| parameters | {parameters:,} ({megabytes:.1f} MB, float32 safetensors) |
| vocabulary | {config.vocab_size:,} tokens: {n_species} elements, {settings.grid}-point coordinate grid, \
lengths in steps of {settings.length_step:g} Å, angles in steps of {settings.angle_step:g}° |
| cells | primitive Niggli cells of at most {settings.max_sites} sites |
| data | {training:,} training and {validation:,} validation structures, no formula in both |
| training | {steps:,} steps, {epochs:.1f} epochs, {minutes:.0f} minutes on CPU at {speed:,.0f} tokens/s; \
step {best_step:,} is kept; this is the second part (pretrain_nano_polish), which goes on from the first \
(pretrain_nano; the bundled weights from its step 4,000) |

Elements: {elements}.

## Metrics

| | |
|---|---|
| validation loss, nats per structure | {nats:.2f} |
| validation loss, nats per token | {nats_per_token:.3f} |
{extra}
Losses are those of the moving average of the weights on the validation structures, and depend on the grid and
the steps of the tokenizer. Tokens that the grammar forces count as tokens; they cost nothing.

## Limits

- No oxidation states, no disorder, no magnetism; at most {settings.max_sites} sites in the primitive cell.
- It repeats the bias of its training data: mostly stable or nearly stable, well-known chemistry.
- A generated structure is a proposal: relax it and compute its energy before you believe it.

## Data and licence

The weights come under the licence of this project (Apache-2.0). The training structures are from the
Materials Project, licensed under CC BY 4.0; the required attribution:

> A. Jain, S. P. Ong, G. Hautier, W. Chen, W. D. Richards, S. Dacek, S. Cholia, D. Gunter, D. Skinner,
> G. Ceder, K. A. Persson: The Materials Project: A materials genome approach to accelerating materials
> innovation. APL Materials 1, 011002 (2013). https://doi.org/10.1063/1.4812323

Changes made to the data: structures of more than {settings.max_sites} sites left out, cells reduced to
primitive Niggli cells, coordinates and cells rounded to the tokenizer's grid.
"""


def main() -> None:
    """Train, or take a finished run, and put its best policy into the assets."""
    options = _options()
    extra = json.loads(options.metrics.read_text(encoding="utf-8")) if options.metrics else {}
    if not options.from_run:
        data = {"data": options.train, "validation_data": options.validation}
        first = options.run.with_name(options.run.name + "_first")
        _train(f"pretrain_{NAME}", data, first, options.set)
        _train(POLISH, {**data, "initial_policy": str(first / "policy")}, options.run, options.set)
    run = options.from_run or options.run
    folder, command = pack(run, options.train, options.validation, extra), rebuild_command(run)
    for file in sorted(folder.iterdir()):
        record(f"policies/{NAME}/{file.name}", source=SOURCE, licence=LICENCE, command=command)
        print(f"{file.name}: {file.stat().st_size:,} bytes")
    print(f"packed {run} into {folder}")


def _train(name: str, values: dict[str, Any], run: Path, sets: list[str]) -> None:
    config = load_config(PretrainConfig, [name], values, sets)
    pretrain(config, run, resume=(run / "config.yaml").is_file())


def pack(run: Path, train: Path, validation: Path, extra: dict[str, float]) -> Path:
    """Copy the best policy of a run into the assets, with a model card; returns the folder.

    Args:
        run: Run folder of a pretraining.
        train: Structures that it was trained on.
        validation: Structures that it was validated on.
        extra: Further rows of the card.

    Raises:
        ConfigError: The run has no policy, its weights are too big for the repository, or their loss is
            not the recorded one.
    """
    source, rows = run / "policy", RunFolder(run).read_metrics()
    if not source.is_dir() or not rows:
        raise ConfigError(f"{run} is no finished pretraining: expected policy/ and metrics.jsonl there")
    size = (source / "model.safetensors").stat().st_size
    if size > LIMIT:
        raise ConfigError(f"the weights in {source} have {size:,} bytes, the limit is {LIMIT:,}")
    policy = load_policy(source)
    sequences = tokenize(read_reduced(validation), policy.codec).sequences
    best = min(rows, key=lambda row: row["validation/nats_per_structure"])
    recorded, found = best["validation/nats_per_structure"], nats_per_structure(policy.model, sequences, CPU)
    if abs(found - recorded) > TOLERANCE:
        raise ConfigError(
            f"the loss of {source} on {validation} is {found:.2f} nats per structure, but {recorded:.2f} in "
            f"{run / 'metrics.jsonl'}: give the files that the run was trained with"
        )
    target = ASSETS / "policies" / NAME
    structures = read_reduced(train)
    learned = kept_rows(structures, tokenize(structures, policy.codec))
    counts = len(learned), len(sequences)
    tokens = float(np.mean([len(ids) for ids in sequences]))
    card = model_card(policy, rows[-1], best, counts=counts, tokens=tokens, extra=extra)
    with atomic_path(target) as folder:
        folder.mkdir()
        for file in sorted(source.iterdir()):
            shutil.copyfile(file, folder / file.name)
        print(write_training_index(learned, folder))
        (folder / "README.md").write_text(card + f"\nRebuild: `{rebuild_command(run)}`\n", encoding="utf-8")
    return target


def rebuild_command(run: Path) -> str:
    """The command that repeats a run: with --set for whatever the preset says otherwise."""
    used = load_config(PretrainConfig, [run / "config.yaml"]).model_dump(mode="json")
    usual = load_config(PretrainConfig, [preset(POLISH)], {"data": "."}).model_dump(mode="json")
    sets = [
        f" --set {section}.{key}={value}"
        for section in ("tokenizer", "model", "training")
        for key, value in used[section].items()
        if value != usual[section][key]
    ]
    return "python scripts/build_nano.py --train mp_train.csv.gz --validation mp_val.csv.gz" + "".join(sets)


def model_card(
    policy: Policy,
    last: dict[str, Any],
    best: dict[str, Any],
    *,
    counts: tuple[int, int],
    tokens: float,
    extra: dict[str, float],
) -> str:
    """Markdown text of the model card.

    Args:
        policy: The packed policy.
        last: Last line of the run's ``metrics.jsonl``.
        best: Line of the packed weights.
        counts: Numbers of training and validation structures.
        tokens: Mean tokens of a validation structure.
        extra: Further rows of the table of metrics.
    """
    config, settings = policy.model.config, policy.codec.settings
    nats = best["validation/nats_per_structure"]
    parameters = sum(p.numel() for p in policy.model.parameters())
    return CARD.format(
        name=NAME,
        config=config,
        settings=settings,
        parameters=parameters,
        megabytes=4e-6 * parameters,
        n_species=len(settings.species),
        elements=" ".join(settings.species),
        training=counts[0],
        validation=counts[1],
        steps=last["step"],
        epochs=last["epoch"],
        minutes=last["seconds"] / 60,
        speed=last["tokens_per_second"],
        best_step=best["step"],
        nats=nats,
        nats_per_token=nats / tokens,
        extra="".join(f"| {name} | {value:.4g} |\n" for name, value in extra.items()),
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path, required=True, help="training structures")
    parser.add_argument("--validation", type=Path, required=True, help="validation structures")
    parser.add_argument(
        "--run", type=Path, default=Path("runs/nano"), help="run folder; continued if it exists"
    )
    parser.add_argument("--from-run", type=Path, help="pack this run instead of training")
    parser.add_argument("--metrics", type=Path, help="JSON file with further rows of the model card")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in pretrain")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except MateriumError as error:
        sys.exit(f"error: {error}")
