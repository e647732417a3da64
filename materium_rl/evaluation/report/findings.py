"""The best discoveries of a comparison: rows of the table, and structures for the 3D view."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from materium_rl.evaluation.discoveries.filters import column_of
from materium_rl.evaluation.discoveries.ranking import DEFAULT_SORT, TIER
from materium_rl.evaluation.report.wording import REASONS, TIERS, space_group
from materium_rl.structures import structures_match

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

    from materium_rl.evaluation.discoveries.sources import Samples

MOST = 300
"""Discoveries in the table, each with its structure."""
RANKED_BY_ENERGY = "energy above the hull"


@dataclass(frozen=True, slots=True)
class Finding:
    """One distinct structure that is stable and new.

    Args:
        rank: From 1.
        values: Column -> what is shown and sorted by, None where unknown. See ``COLUMNS``.
        structure: Its best sample.
    """

    rank: int
    values: Mapping[str, Any]
    structure: Structure


@dataclass(frozen=True, slots=True)
class Findings:
    """The best discoveries.

    Args:
        shown: At most ``MOST``, the best first.
        total: Number of distinct ones.
        ranked_by: What they are ranked by.
        columns: Keys of ``Finding.values`` of which any has a value.
    """

    shown: list[Finding]
    total: int
    ranked_by: str
    columns: list[str]


def find_best(
    samples: Samples,
    most: int = MOST,
    *,
    stable: str = "stable",
    energy: str = "e_above_hull",
    by_reward: bool = True,
) -> Findings:
    """The best distinct structures among the samples that are stable and match no training structure.

    Samples of one run are equal where the comparison put them into one group; those of different
    runs where StructureMatcher says so. The best stands for all: by the reward, where the samples
    have one, else by the energy above the hull.

    Args:
        samples: With the columns of ``metrics.add_verdicts`` and ``policy``.
        most: How many to show.
        stable: Column that says which are stable.
        energy: Column or short name of the energy above the hull in eV/atom.
        by_reward: Rank by the reward where there is one.
    """
    frame = samples.frame
    new = (frame[stable] & frame["novel_structure"]).to_numpy(dtype=bool)
    by_reward = by_reward and DEFAULT_SORT in frame and frame.loc[new, DEFAULT_SORT].notna().any()
    order = np.flatnonzero(new)
    keys = [_column(samples, energy)[order]]
    if by_reward:
        keys.append(-frame[DEFAULT_SORT].to_numpy(dtype=np.float64)[order])
    order = order[np.lexsort([np.nan_to_num(key, nan=math.inf) for key in keys])]
    kinds = _merge(samples, _groups(samples, order))
    shown = [kind for kind in kinds if samples.structure(kind[0]) is not None][:most]
    findings = [_finding(samples, rank, kind, energy) for rank, kind in enumerate(shown, 1)]
    columns = [key for key in COLUMNS if any(f.values[key] is not None for f in findings)]
    if samples.frame["policy"].nunique() == 1:
        columns = [key for key in columns if key != "policy"]
    return Findings(findings, len(kinds), DEFAULT_SORT if by_reward else RANKED_BY_ENERGY, columns)


def _groups(samples: Samples, order: Iterable[int]) -> list[list[int]]:
    """Rows that are equal within a run of a policy, the best of each first; the best group first."""
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    keys = list(zip(*(samples.frame[column] for column in (*_run(samples.frame), "group")), strict=True))
    for row in order:
        groups[keys[row]].append(int(row))
    return list(groups.values())


def _run(frame: pd.DataFrame) -> list[str]:
    """Columns that tell the runs apart; the groups of the comparison are counted within one."""
    return [column for column in ("policy", "run") if column in frame]


def _merge(samples: Samples, groups: Sequence[list[int]]) -> list[list[int]]:
    """Join the groups of different runs whose best samples are the same crystal."""
    frame = samples.frame
    runs, formulas = list(zip(*(frame[c] for c in _run(frame)), strict=True)), frame["formula"].tolist()
    merged: list[list[int]] = []
    of_formula: dict[str, list[list[int]]] = defaultdict(list)
    for group in groups:
        known = of_formula[formulas[group[0]]]
        for other in known:
            elsewhere = runs[group[0]] not in {runs[row] for row in other}
            if elsewhere and _equal(samples, group[0], other[0]):
                other.extend(group)
                break
        else:
            merged.append(list(group))
            known.append(merged[-1])
    return merged


def _equal(samples: Samples, row: int, other: int) -> bool:
    first, second = samples.structure(row), samples.structure(other)
    if first is None or second is None:
        return False
    # the matcher is not symmetric: of cells with nearly equal axes it may see a match one way only
    return structures_match(first, second) or structures_match(second, first)


COLUMNS = {
    "formula": ("Formula", ""),
    "space_group": ("Space group", ""),
    "n_sites": ("Sites", ""),
    "e_above_hull": ("Above hull", "eV/atom"),
    "band_gap": ("Band gap", "eV"),
    "density": ("Density", "g/cm³"),
    "tier": ("Novelty", ""),
    "nearest": ("Nearest known", "distance"),
    "reward": ("Reward", ""),
    "policy": ("Policy", ""),
    "times": ("Found", "times"),
    "reason": ("Why it counts as new", ""),
}
"""Key -> heading and unit."""


def _finding(samples: Samples, rank: int, rows: Sequence[int], energy: str) -> Finding:
    structure = samples.structure(rows[0])
    assert structure is not None
    record = samples.frame.iloc[rows[0]]
    columns = [str(name) for name in samples.frame.columns]

    def of(name: str) -> Any:
        column = column_of(name, columns)
        return None if column is None else _known(record[column])

    number, tier = of("space_group"), of(TIER)
    found = samples.frame["policy"].iloc[list(rows)]
    values = {
        "formula": record["formula"],
        "space_group": None if number is None else space_group(int(number)),
        "n_sites": len(structure),
        "tier": TIERS.get(tier, tier),
        "nearest": of("nearest"),
        "nearest_id": of("novelty.nearest_id"),
        "distance": of("novelty.distance"),
        "policy": tuple(dict.fromkeys(found)),
        "times": len(rows),
        "reason": of("why.novel") or REASONS.get(tier),
        "uncertainty": of("bandgap.uncertainty"),
        "prototype": of("prototype"),
        "sample": of("index"),
        "best_policy": record["policy"],
        "space_group_number": number,
    }
    values |= {name: of(name) for name in ("band_gap", "density", "reward")} | {"e_above_hull": of(energy)}
    return Finding(rank, values, structure)


def _known(value: Any) -> Any:
    """A plain value; None for what is missing."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _column(samples: Samples, name: str) -> Any:
    column = column_of(name, [str(c) for c in samples.frame.columns])
    if column is None:
        return np.full(len(samples), math.nan)
    return samples.frame[column].to_numpy(dtype=np.float64)


def pack(structure: Structure) -> dict[str, Any]:
    """A structure in few characters: cell in Å (row vectors), symbols, fractional coordinates."""
    plain = structure.copy().remove_oxidation_states()
    symbols = list(dict.fromkeys(site.specie.symbol for site in plain))
    return {
        "m": [round(float(v), 4) for v in plain.lattice.matrix.ravel()],
        "e": symbols,
        "s": [symbols.index(site.specie.symbol) for site in plain],
        "x": [round(float(v) % 1, 5) % 1 for v in plain.frac_coords.ravel()],
    }


def atom_styles(structures: Iterable[Structure]) -> dict[str, tuple[str, float]]:
    """Element -> Jmol's colour and the covalent radius in Å (Cordero et al., Dalton Trans. 2008, 2832)."""
    from ase.data import atomic_numbers, covalent_radii
    from ase.data.colors import jmol_colors

    symbols = sorted({e.symbol for s in structures for e in s.composition.element_composition})
    numbers = {symbol: atomic_numbers[symbol] for symbol in symbols}
    return {
        symbol: (
            "#" + "".join(f"{round(255 * float(c)):02x}" for c in jmol_colors[z]),
            round(float(covalent_radii[z]), 2),
        )
        for symbol, z in numbers.items()
    }
