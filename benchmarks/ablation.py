"""What each choice in the recipe of the bundled policy is worth, with small policies trained side by side.

    python benchmarks/ablation.py --data mp_train.csv.gz --validation mp_val.csv.gz --runs runs/ablation

Every variant changes one thing of the baseline (``BASELINE``: width 128, 4 layers, some of the structures)
and is trained from scratch with the same seed, structures and number of epochs; ``--only`` takes some.
What was trained or measured before is not again. Of each: validation nats per structure, the figures of
``policy_quality`` for ``-n`` samples, and the RMSD of ``--relax`` valid ones to what CHGNet makes of them.

Nats are those of the baseline's bins: a coarser step says less, log(step / step of the baseline) for each
number that is written (an upper bound: numbers that symmetry fixes need no correction). Of sites in random
order each of the N! sequences of a crystal is as good: log N! is taken off.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from intervals import Estimate, print_table, write_json
from policy_quality import quality, relaxed_distances, sampled
from pymatgen.core import Structure

from materium_rl.config import PretrainConfig, load_config
from materium_rl.datasets import pad, read_reduced, tokenize
from materium_rl.policies import modeling
from materium_rl.policies.loading import Policy, load_policy
from materium_rl.pretrain import pretrain

BASELINE = (
    "model.hidden_size=128",
    "model.layers=4",
    "model.heads=4",
    "model.intermediate_size=344",
    "model.dropout=0.05",
    "training.epochs=8",
    "training.batch_size=32",
    "training.learning_rate=2e-3",
    "training.ema_decay=0.995",
    "training.augment=0.3",
    "training.eval_every=500",
)
VARIANTS = {
    "baseline": (),
    "sites heavy first": ("tokenizer.site_order=heavy_first",),
    "sites light first": ("tokenizer.site_order=light_first",),
    "sites by xyz": ("tokenizer.site_order=xyz",),
    "sites at random": ("tokenizer.site_order=random",),
    "oxidation states": ("tokenizer.oxidation=true",),
    "grid 240": ("tokenizer.grid=240",),
    "grid 480": ("tokenizer.grid=480",),
    "cell steps 0.04 Å, 0.5°": ("tokenizer.length_step=0.04", "tokenizer.angle_step=0.5"),
    "settings as in the data": ("tokenizer.canonical=false",),
    "no Fourier features": (),
    "dropout 0": ("model.dropout=0",),
    "dropout 0.15": ("model.dropout=0.15",),
    "weight decay 0": ("training.weight_decay=0",),
    "weight decay 0.5": ("training.weight_decay=0.5",),
    "no moving average": ("training.ema_decay=0",),
    "no augmentation": ("training.augment=0",),
    "augmentation 0.8": ("training.augment=0.8",),
    "width 192": ("model.hidden_size=192", "model.heads=6", "model.intermediate_size=512"),
    "8 layers": ("model.layers=8",),
}
PLAIN_NUMBERS = "no Fourier features"
GRID, LENGTH_STEP, ANGLE_STEP = 960, 0.01, 0.1
"""Bins of the baseline."""
BATCH = 128


def silent(layout: modeling.TokenLayout) -> torch.Tensor:
    """Features that tell nothing of the numbers: each token has a free vector only."""
    return torch.zeros_like(NUMERIC_FEATURES(layout))


NUMERIC_FEATURES = modeling.numeric_features


def train(name: str, data: Path, validation: Path, run: Path) -> None:
    values = {"data": data, "validation_data": validation}
    config = load_config(PretrainConfig, ["pretrain_nano"], values, [*BASELINE, *VARIANTS[name]])
    pretrain(config, run, resume=(run / "config.yaml").is_file())


def validation_nats(policy: Policy, validation: Path) -> Estimate:
    """Nats per structure in the baseline's bins."""
    settings = policy.codec.settings
    oxidation = any("|" in species for species in settings.species)
    sequences = tokenize(read_reduced(validation, oxidation=oxidation), policy.codec).sequences
    losses = []
    with torch.inference_mode():
        for i in range(0, len(sequences), BATCH):
            log_probs, _ = policy.model.token_log_probs(pad(sequences[i : i + BATCH]))
            losses += (-log_probs.sum(dim=1)).tolist()
    nats = np.array(losses)
    n_sites = np.array([(len(sequence) - 10) // 4 for sequence in sequences])
    nats += 3 * n_sites * math.log(GRID / settings.grid)
    nats += 3 * math.log(settings.length_step / LENGTH_STEP) + 3 * math.log(settings.angle_step / ANGLE_STEP)
    if settings.site_order == "random":
        nats -= np.array([math.lgamma(n + 1) for n in n_sites])
    margin = 1.96 * float(nats.std()) / math.sqrt(len(nats))
    return Estimate(float(nats.mean()), float(nats.mean()) - margin, float(nats.mean()) + margin)


def measure(
    run: Path, training: list[Structure], options: argparse.Namespace, start: float
) -> dict[str, Any]:
    policy = load_policy(str(run / "policy"))
    figures: dict[str, Any] = {"nats": validation_nats(policy, options.validation)}
    structures = sampled(policy, options.n, options.seed, start)
    rows, valid = quality(structures, training, options.seed)
    figures |= {row["figure"]: row["value"] for row in rows}
    chosen = [s for s, ok in zip(structures, valid, strict=True) if ok][: options.relax]
    figures |= {row["figure"]: row["value"] for row in relaxed_distances(chosen, start)}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CSV of training structures")
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--structures", type=int, default=8000, help="training structures that are used")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--relax", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    start = time.monotonic()
    options.runs.mkdir(parents=True, exist_ok=True)
    data = options.runs / f"training_{options.structures}.csv.gz"
    if not data.is_file():
        pd.read_csv(options.data).sample(options.structures, random_state=0).to_csv(data, index=False)
    training = [row.structure for row in read_reduced(data).rows]
    rows = []
    for name in options.only:
        run = options.runs / name.replace(" ", "_").replace(",", "")
        features = silent if name == PLAIN_NUMBERS else NUMERIC_FEATURES
        with mock.patch.object(modeling, "numeric_features", features):
            if not (run / "figures.json").is_file():
                train(name, data, options.validation, run)
                write_json(measure(run, training, options, start), run / "figures.json")
        found = json.loads((run / "figures.json").read_text(encoding="utf-8"))
        rows.append({"variant": name, **{key: Estimate(**value) for key, value in found.items()}})
    print_table(rows)


if __name__ == "__main__":
    main()
