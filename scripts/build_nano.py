"""Train and pack a bundled policy: materium_rl/assets/policies/nano, or nano-conditional.

    python scripts/build_nano.py --train mp_train.csv.gz --validation mp_val.csv.gz
    python scripts/build_nano.py --policy nano-conditional --train mp_train.csv.gz --validation mp_val.csv.gz

The files hold crystals of at most 20 sites from the Materials Project in the MP-20 convention (a ``cif``
column), split by reduced formula. Training goes through the parts of ``RECIPES``: an hour and a half on one
CPU core for nano, four hours for nano-conditional. ``--from-run RUN`` packs a run of the last part that was
trained before on the same files. ``--metrics FILE`` adds rows to the model card: a JSON file with an
object of names and numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from manifest import ASSETS, record

from materium_rl.config import PretrainConfig, load_config, preset
from materium_rl.datasets import read_reduced, tokenize
from materium_rl.errors import ConfigError, MateriumError
from materium_rl.files import atomic_path
from materium_rl.policies.loading import Policy, load_policy, save_policy
from materium_rl.pretrain import pretrain
from materium_rl.runs import RunFolder
from materium_rl.trainer import nats_per_structure
from materium_rl.training_index import kept_rows, write_training_index


def _changes(
    *, seed: int, epochs: int, learning_rate: float, dropout: float, augment: float
) -> dict[str, Any]:
    training = {"epochs": epochs, "learning_rate": learning_rate, "warmup_steps": 100, "augment": augment}
    return {"seed": seed, "model.dropout": dropout} | {f"training.{k}": v for k, v in training.items()}


@dataclass(frozen=True)
class Recipe:
    """How a bundled policy is trained.

    Args:
        parts: Preset and changes of each part; each goes on from the one before it.
        told: What the card says of them.
        keep_last: Take the last weights of the last part, which are sharper, not those of the lowest loss.
        half: Store the weights in bfloat16.
    """

    parts: tuple[tuple[str, dict[str, Any]], ...]
    told: str
    keep_last: bool = False
    half: bool = False


CONDITIONAL = "pretrain_nano_conditional"
RECIPES = {
    "nano": Recipe(
        parts=(("pretrain_nano", {}), ("pretrain_nano_polish", {})),
        told="this is the second part (pretrain_nano_polish), which goes on from the first (pretrain_nano; "
        "the bundled weights from its step 4,000)",
    ),
    "nano-conditional": Recipe(
        parts=(
            (CONDITIONAL, {}),
            (CONDITIONAL, _changes(seed=4, epochs=5, learning_rate=1e-3, dropout=0.12, augment=0.6)),
            (CONDITIONAL, _changes(seed=6, epochs=10, learning_rate=8e-4, dropout=0.1, augment=0.3)),
            (
                CONDITIONAL,
                _changes(seed=7, epochs=3, learning_rate=6e-4, dropout=0.05, augment=0.0)
                | {"training.ema_decay": 0.995, "training.eval_every": 125},
            ),
        ),
        told="this is the last of four parts (the preset pretrain_nano_conditional for 20 epochs, then with "
        "ever less dropout and fewer other origins 5, 7 and 3 epochs; the second part of the bundled weights "
        "had the learning rates of 11 epochs and was stopped after 5)",
        keep_last=True,
        half=True,
    ),
}
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
| parameters | {parameters:,} ({megabytes:.1f} MB, {dtype} safetensors) |
| vocabulary | {config.vocab_size:,} tokens: {n_species} elements, {settings.grid}-point coordinate grid, \
lengths in steps of {settings.length_step:g} Å, angles in steps of {settings.angle_step:g}° |
| cells | primitive Niggli cells of at most {settings.max_sites} sites |
| data | {training:,} training and {validation:,} validation structures, no formula in both |
| training | {steps:,} steps, {epochs:.1f} epochs, {minutes:.0f} minutes on CPU at {speed:,.0f} tokens/s; \
step {best_step:,} is kept; {told} |
{conditions}
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
    name = options.policy
    run = options.from_run or _train(name, options)
    folder = pack(name, run, options.train, options.validation, extra)
    for file in sorted(folder.iterdir()):
        record(
            f"policies/{name}/{file.name}", source=SOURCE, licence=LICENCE, command=rebuild_command(name, run)
        )
        print(f"{file.name}: {file.stat().st_size:,} bytes")
    print(f"packed {run} into {folder}")


def _train(name: str, options: argparse.Namespace) -> Path:
    """Go through the parts of a recipe, or on where they were left; returns the last run."""
    before: dict[str, Any] = {}
    for number, (preset_name, changes) in enumerate(RECIPES[name].parts, start=1):
        run: Path = options.run / f"{name}_{number}"
        data = {"data": options.train, "validation_data": options.validation}
        config = load_config(PretrainConfig, [preset_name], data | changes | before, options.set)
        pretrain(config, run, resume=(run / "config.yaml").is_file())
        before = {"initial_policy": str(run / "policy")}
        if config.conditions.names:
            before["conditions.labels"] = run
    return run


def pack(name: str, run: Path, train: Path, validation: Path, extra: dict[str, float]) -> Path:
    """Copy the policy of a run into the assets, with a model card; returns the folder.

    Args:
        name: Of the bundled policy.
        run: Run folder of a pretraining.
        train: Structures that it was trained on.
        validation: Structures that it was validated on.
        extra: Further rows of the card.

    Raises:
        ConfigError: The run has no policy, its weights are too big for the repository, or their loss is
            not the recorded one.
    """
    recipe, rows = RECIPES[name], RunFolder(run).read_metrics()
    last = RunFolder(run).latest_checkpoint()
    source = last / "policy" if recipe.keep_last and last else run / "policy"
    if not source.is_dir() or not rows:
        raise ConfigError(f"{run} is no finished pretraining: expected policy/ and metrics.jsonl there")
    policy = load_policy(source)
    if recipe.half:
        policy.model.to(torch.bfloat16)
    size = sum(p.numel() * p.element_size() for p in policy.model.parameters())
    if size > LIMIT:
        raise ConfigError(f"the weights in {source} have {size:,} bytes, the limit is {LIMIT:,}")
    sequences = tokenize(read_reduced(validation), policy.codec).sequences
    best = rows[-1] if recipe.keep_last else min(rows, key=lambda row: row["validation/nats_per_structure"])
    recorded, found = (
        best["validation/nats_per_structure"],
        nats_per_structure(load_policy(source).model, sequences, CPU),
    )
    if abs(found - recorded) > TOLERANCE:
        raise ConfigError(
            f"the loss of {source} on {validation} is {found:.2f} nats per structure, but {recorded:.2f} in "
            f"{run / 'metrics.jsonl'}: give the files that the run was trained with"
        )
    target = ASSETS / "policies" / name
    structures = read_reduced(train)
    learned = kept_rows(structures, tokenize(structures, policy.codec))
    counts = len(learned), len(sequences)
    tokens = float(np.mean([len(ids) for ids in sequences]))
    card = model_card(name, policy, rows[-1], best, counts=counts, tokens=tokens, extra=extra)
    with atomic_path(target) as folder:
        folder.mkdir()
        save_policy(policy.model, policy.codec.settings, folder)
        print(write_training_index(learned, folder))
        (folder / "README.md").write_text(
            card + f"\nRebuild: `{rebuild_command(name, run)}`\n", encoding="utf-8"
        )
    return target


def rebuild_command(name: str, run: Path) -> str:
    """The command that repeats a run: with --set for whatever its recipe says otherwise."""
    preset_name, changes = RECIPES[name].parts[-1]
    used = load_config(PretrainConfig, [run / "config.yaml"]).model_dump(mode="json")
    usual = load_config(PretrainConfig, [preset(preset_name)], {"data": "."} | changes).model_dump(
        mode="json"
    )
    sets = [
        f" --set {section}.{key}={value}"
        for section in ("tokenizer", "model", "training")
        for key, value in used[section].items()
        if value != usual[section][key]
    ]
    policy = "" if name == "nano" else f"--policy {name} "
    files = "--train mp_train.csv.gz --validation mp_val.csv.gz"
    return f"python scripts/build_nano.py {policy}{files}{''.join(sets)}"


def model_card(
    name: str,
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
        name: Its name.
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
        name=name,
        told=RECIPES[name].told,
        dtype="bfloat16" if RECIPES[name].half else "float32",
        conditions=f"| conditions | {', '.join(known)} |\n" if (known := config.condition_statistics) else "",
        config=config,
        settings=settings,
        parameters=parameters,
        megabytes=(2e-6 if RECIPES[name].half else 4e-6) * parameters,
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
    parser.add_argument("--policy", choices=RECIPES, default="nano", help="which one")
    parser.add_argument("--train", type=Path, required=True, help="training structures")
    parser.add_argument("--validation", type=Path, required=True, help="validation structures")
    parser.add_argument(
        "--run", type=Path, default=Path("runs"), help="folder of the runs; they are continued if they exist"
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
