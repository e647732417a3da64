"""Condition values of structures: from the columns of their data, from the structure itself, or measured."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from materium_rl.conditions import CONDITIONS, NUMBERS, SYMMETRY_COLUMNS, Conditions, crystal_system
from materium_rl.errors import ConfigError
from materium_rl.files import atomic_path
from materium_rl.rewards import registry
from materium_rl.rewards.base import Measurement
from materium_rl.rewards.shared import sharing
from materium_rl.structure_parsers import StructureRow

if TYPE_CHECKING:
    from pymatgen.core import Structure

CHUNK = 256
COUNTED = ("formula", "chemical_system", "n_sites")
"""What the atoms of a structure say by themselves."""
COMPUTED = "computed"
"""Column and attribute of a table of labels: the conditions that were measured, not given by the data."""


def measure(structures: Sequence[Structure], names: Collection[str]) -> dict[str, list[Any]]:
    """Values of conditions in structures.

    Args:
        structures: N structures.
        names: Conditions.

    Returns:
        N values for each name, None where it could not be measured.
    """
    with sharing():  # one CHGNet pass serves energies and magnetic moments
        return _values(structures, names)


def _values(structures: Sequence[Structure], names: Collection[str]) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    if {"space_group", "crystal_system"} & set(names):
        groups = [None if v is None else round(v) for v in _measured("space_group", structures)]
        values["space_group"] = groups
        values["crystal_system"] = [None if group is None else crystal_system(group) for group in groups]
    for name in names:
        if name in NUMBERS:
            values[name] = _measured(NUMBERS[name].reward, structures)
        elif name in COUNTED:
            values[name] = [_counted(name, structure) for structure in structures]
    return {name: values[name] for name in names}


def _measured(reward: str, structures: Sequence[Structure]) -> list[float | None]:
    measuring = registry.create(reward, {})
    measuring.load()
    results = [
        result
        for first in range(0, len(structures), CHUNK)
        for result in measuring.measure(structures[first : first + CHUNK])
    ]
    return [result.value if isinstance(result, Measurement) else None for result in results]


def _counted(name: str, structure: Structure) -> Any:
    composition = structure.composition.element_composition
    if name == "formula":
        return composition.reduced_formula
    return composition.chemical_system if name == "chemical_system" else len(structure)


def label(rows: Sequence[StructureRow], names: Sequence[str]) -> pd.DataFrame:
    """Condition values of data rows, one column each; measured only where the data have no value.

    Args:
        rows: Reduced structures with the columns of their data.
        names: Conditions that are wanted.

    Returns:
        A row for each structure, missing values as None or NaN; ``attrs["computed"]`` names the conditions of
        which some values were measured.

    Raises:
        ConfigError: A column of the data holds something else than such values.
    """
    columns: dict[str, list[Any]] = {"source": [row.source for row in rows]}
    computed = []
    with sharing():
        for name in names:
            values = [_from_data(name, row) for row in rows]
            missing = [i for i, value in enumerate(values) if value is None]
            # What a simulation gave for some rows is not mixed with what a network says about the others.
            if len(missing) == len(rows) or name not in NUMBERS:
                if name not in COUNTED and missing:
                    print(f"conditions: measuring {name} of {len(missing):,} structures", flush=True)
                found = _values([rows[i].structure for i in missing], [name])[name]
                for i, value in zip(missing, found, strict=True):
                    values[i] = value
                if missing and name not in COUNTED:
                    computed.append(name)
            columns[name] = values
    frame = pd.DataFrame(columns)
    frame.attrs[COMPUTED] = computed
    return frame


def _from_data(name: str, row: StructureRow) -> Any:
    if name in COUNTED:
        return None
    if name in NUMBERS:
        value = _first(NUMBERS[name].columns, row.properties)
    else:
        value = _first(SYMMETRY_COLUMNS, row.properties)
        if value is not None and name == "crystal_system":
            value = crystal_system(int(value))
    if value is None:
        return None
    if NUMBERS.get(name) and NUMBERS[name].logarithmic and value == 0:
        return None
    try:
        return getattr(Conditions(**{name: value}), name)
    except ValidationError as error:
        raise ConfigError(f"{row.source}: {name} = {value!r}: {error.errors()[0]['msg']}") from None


def _first(columns: Sequence[str], properties: Mapping[str, Any]) -> Any:
    return next((properties[c] for c in columns if properties.get(c) is not None), None)


def conditions_of(frame: pd.DataFrame) -> list[Conditions]:
    """The labels of each structure; values outside what a condition can be are left out."""
    names = [name for name in CONDITIONS if name in frame]
    found = []
    for row in frame[names].to_dict("records"):
        values = {str(k): v for k, v in row.items() if v is not None and v == v}
        for name in NUMBERS.keys() & values:
            if NUMBERS[name].logarithmic and values[name] <= 0:
                del values[name]
            elif name != "formation_energy" and name in values:
                values[name] = max(0.0, values[name])
        found.append(Conditions(**values))
    return found


def statistics(
    labels: Sequence[Conditions], names: Sequence[str], computed: Collection[str]
) -> dict[str, Any]:
    """What a policy keeps of its training labels: ``policies.conditioning.Statistics``.

    Raises:
        ConfigError: No structure has a value of one of the names.
    """
    known: dict[str, Any] = {}
    for name in names:
        values = [value for c in labels if (value := getattr(c, name)) is not None]
        if not values:
            raise ConfigError(
                f"conditions.names: no training structure has a value of {name}; give a data column or leave "
                "it out"
            )
        known[name] = {"count": len(values), "computed": name in computed}
        if name in NUMBERS:
            numbers = np.array(values, dtype=float)
            low, high = np.quantile(numbers, [0.005, 0.995])
            scaled = np.log(numbers) if NUMBERS[name].logarithmic else numbers
            spread = float(scaled.std()) or 1.0
            known[name] |= {
                "low": float(low),
                "high": float(high),
                "mean": float(scaled.mean()),
                "std": spread,
                "quantiles": [float(f"{q:.6g}") for q in np.quantile(numbers, np.linspace(0, 1, 101))],
            }
        elif name in ("space_group", "n_sites"):
            known[name]["seen"] = sorted(set(values))
    return known


def save_labels(frame: pd.DataFrame, path: Path) -> None:
    """Write labels, with the names of the computed ones."""
    with atomic_path(path) as temporary:
        stored = frame.copy()
        stored.attrs = {}
        stored[COMPUTED] = json.dumps(frame.attrs[COMPUTED])
        stored.to_parquet(temporary, index=False)


def load_labels(path: Path, rows: Sequence[StructureRow], names: Sequence[str]) -> pd.DataFrame:
    """Read labels of the same structures.

    Raises:
        ConfigError: They are of other structures or lack a condition.
    """
    try:
        frame = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"conditions.labels: cannot read {path}: {error}") from None
    if absent := [name for name in ("source", COMPUTED, *names) if name not in frame]:
        raise ConfigError(f"conditions.labels: {path} lacks {', '.join(absent)}")
    frame = frame.set_index("source", drop=False)
    sources = [row.source for row in rows]
    if unknown := [source for source in sources if source not in frame.index]:
        raise ConfigError(
            f"conditions.labels: {path} has no labels of {unknown[0]} and {len(unknown) - 1} other structures"
        )
    frame = frame.loc[sources].reset_index(drop=True)
    frame.attrs[COMPUTED] = json.loads(frame[COMPUTED].iloc[0])
    return frame
