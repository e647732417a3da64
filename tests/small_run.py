"""A fine-tuning run of three steps, made by hand, with the columns of a real one."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
from pymatgen.core import Lattice, Structure
from real_structures import rock_salt, rutile
from tiny import write_policy

from materium_rl.config import FinetuneConfig
from materium_rl.rewards.base import Outcome
from materium_rl.rewards.score_table import ScoredSample, ScoreTable, TermScore
from materium_rl.runs import RunFolder

SEED = 7
ENERGY = -4.25
"""eV/atom, of every sample."""


def diamond() -> Structure:
    """Silicon."""
    return Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])


def supercell() -> Structure:
    """Rock salt, twice, 1 % wider."""
    structure = rock_salt()
    structure.make_supercell([2, 1, 1])
    structure.scale_lattice(1.03 * structure.volume)
    return structure


def caesium_chloride() -> Structure:
    """NaCl as CsCl: the formula of rock salt, another structure."""
    return Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def sample(
    index: int,
    structure: Structure,
    reward: float,
    *,
    e_above_hull: float = 0.01,
    band_gap: float = 1.5,
    tier: str = "new_prototype",
    outcome: Outcome = Outcome.OK,
    framework: str = "A",
) -> tuple[ScoredSample, Structure]:
    """One sample; not measured unless ok."""

    def term(value: float, **details: object) -> TermScore:
        if outcome is not Outcome.OK:
            return TermScore(outcome.value, reason="atoms overlap")
        return TermScore("ok", value, 0.5, 0.1, 0.25, "", details)

    terms = {
        "validity": term(1.0, density=2.0),
        "stability": term(e_above_hull, energy_per_atom=ENERGY, formation_energy=-1.0),
        "novelty": term(0.8, tier=tier, nearest_formula="KBr"),
        "bandgap": term(band_gap),
    }
    labels = {
        "formula": structure.composition.reduced_formula,
        "n_sites": len(structure),
        "prototype": f"prototype of {framework}",
        "framework": framework,
        "space_group_number": 225,
    }
    return ScoredSample(index, outcome, "", reward, 1.0, terms, labels, {}), structure


STEPS = {
    1: [
        sample(0, rock_salt(), 0.2),
        sample(1, diamond(), 0.0, band_gap=0.7, tier="known", framework="B"),
        sample(2, rutile(), 0.0, outcome=Outcome.INVALID),
    ],
    2: [
        sample(0, supercell(), 0.9),
        sample(1, rutile(), 0.5, e_above_hull=0.0, band_gap=2.0, framework="B"),
    ],
    3: [
        sample(0, rutile(), math.nan, outcome=Outcome.FAILED),
        sample(1, rock_salt(), 0.9, band_gap=0.4),
        sample(2, caesium_chloride(), 0.6, e_above_hull=0.2),
        sample(3, diamond(), 0.0, band_gap=0.7, tier="known", framework="B"),
    ],
}


def frame_of(samples: list[tuple[ScoredSample, Structure]]) -> pd.DataFrame:
    """As ``Rollout.to_frame`` and the trainer make it."""
    frame = ScoreTable(tuple(row for row, _ in samples)).to_frame()
    frame["tokens"] = [[1, 2, row.index] for row, _ in samples]
    frame["cif"] = [str(structure.to(fmt="cif")) for _, structure in samples]
    frame["log_prob"] = -10.0
    frame["advantage"] = 0.0
    return frame


def write_run(folder: Path) -> Path:
    """Write the run ``folder/run`` of the policy ``folder/policy``."""
    config = FinetuneConfig(policy=str(write_policy(folder / "policy")), seed=SEED)
    run = RunFolder.create(folder / "run", config)
    for step, samples in STEPS.items():
        run.write_samples(step, frame_of(samples))
    return run.path
