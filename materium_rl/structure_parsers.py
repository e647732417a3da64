"""Turn the content of one structure file into rows: one generator per format."""

from __future__ import annotations

import io
import json
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core import Structure

from materium_rl.cif import parse_cif
from materium_rl.errors import StructureFileError
from materium_rl.tensor_files import read_crystals

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

_PROPERTY_NAMES = {"spacegroup.number": "space_group_number", "spacegroup_number": "space_group_number"}
_TEXT_COLUMNS = {"cif", "structure", "material_id", "formula", "pretty_formula", "elements", "source"}
_MISSING_TEXT = {"", "nan", "na", "n/a", "none", "null"}
# What the parsers below raise on damaged input.
PARSE_ERRORS = (
    ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RuntimeError,
    OSError, EOFError, zlib.error,
)  # fmt: skip


class DropKind(StrEnum):
    """Why a structure was left out."""

    UNREADABLE = "unreadable"
    DISORDERED = "disordered"
    TOO_MANY_SITES = "too_many_sites"
    UNKNOWN_ELEMENT = "unknown_element"
    OUT_OF_RANGE = "out_of_range"
    TOO_CLOSE = "too_close"


@dataclass(frozen=True, slots=True)
class StructureRow:
    """One structure as its file gives it.

    Args:
        structure: Ordered structure; may carry oxidation states.
        source: File, and row or entry within it.
        properties: Remaining columns or info, without missing values.
    """

    structure: Structure
    source: str
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Dropped:
    """One row or file that gave no structure; the message names the value and the limit."""

    source: str
    kind: DropKind
    message: str


Item = StructureRow | Dropped
Parser = Callable[[str, bytes], Iterator[Item]]


def unreadable(source: str, error: Exception) -> Dropped:
    """Make a drop of an exception, its message cut to one short line."""
    message = " ".join(str(error).split())[:200]
    return Dropped(source, DropKind.UNREADABLE, f"{type(error).__name__}: {message}")


def _parse_cif_file(name: str, content: bytes) -> Iterator[Item]:
    structures = parse_cif(content.decode("utf-8", errors="replace"))
    for index, structure in enumerate(structures):
        yield StructureRow(structure, name if len(structures) == 1 else f"{name}[{index}]")


def _parse_poscar(name: str, content: bytes) -> Iterator[Item]:
    from pymatgen.io.vasp import Poscar

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        poscar = Poscar.from_str(content.decode("utf-8", errors="replace"))
    if not poscar.true_names:
        raise ValueError("names no elements (VASP 4 format); add a line of symbols above the counts")
    yield StructureRow(poscar.structure, name)


def _parse_xyz(name: str, content: bytes) -> Iterator[Item]:
    import ase.io

    frames = ase.io.iread(io.StringIO(content.decode("utf-8", errors="replace")), index=":", format="extxyz")
    count = 0
    for count, atoms in enumerate(frames, 1):
        source = f"{name}[{count - 1}]"
        if atoms.cell.rank < 3:
            yield Dropped(
                source, DropKind.UNREADABLE, "has no periodic cell; expected a Lattice entry (extxyz)"
            )
        else:
            yield _row_of_atoms(source, atoms)
    if count == 0:
        raise ValueError("the file is empty")


def _row_of_atoms(source: str, atoms: Atoms) -> StructureRow:
    structure = Structure(
        atoms.cell.array, atoms.get_chemical_symbols(), atoms.get_scaled_positions(wrap=False)
    )
    results = atoms.calc.results if atoms.calc is not None else {}  # where ASE puts energies
    return StructureRow(structure, source, clean_properties({**atoms.info, **results}))


def _parse_json(name: str, content: bytes) -> Iterator[Item]:
    data = json.loads(content)
    if isinstance(data, dict) and ("lattice" in data or "structure" in data):
        entries = [(name, data)]
    elif isinstance(data, dict):
        entries = [(f"{name}[{key}]", entry) for key, entry in data.items()]
    else:
        entries = [(f"{name}[{index}]", entry) for index, entry in enumerate(data)]
    for source, entry in entries:
        try:
            yield _row_of_dict(source, entry)
        except PARSE_ERRORS as error:
            yield unreadable(source, error)


def _row_of_dict(source: str, entry: Any) -> StructureRow:
    """Read a Structure dict, or a record with one under ``structure`` and properties beside it."""
    if not isinstance(entry, dict) or not ("lattice" in entry or "structure" in entry):
        raise ValueError("is no pymatgen Structure; expected keys 'lattice' and 'sites'")
    if "lattice" in entry:
        return StructureRow(
            Structure.from_dict(entry), source, clean_properties(entry.get("properties") or {})
        )
    properties = {key: value for key, value in entry.items() if key != "structure"}
    return StructureRow(Structure.from_dict(entry["structure"]), source, clean_properties(properties))


def _parse_csv(name: str, content: bytes) -> Iterator[Item]:
    import pandas as pd

    # As text: pandas would read the formula "NaN" or the element "NA" as missing.
    frame = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    for column in set(frame.columns) - _TEXT_COLUMNS:
        missing = frame[column].str.strip().str.lower().isin(_MISSING_TEXT)
        numbers = pd.to_numeric(frame[column].mask(missing), errors="coerce")
        if (numbers.notna() | missing).all():
            frame[column] = numbers
    yield from _parse_table(name, frame)


def _parse_parquet(name: str, content: bytes) -> Iterator[Item]:
    import pandas as pd

    yield from _parse_table(name, pd.read_parquet(io.BytesIO(content)))


def _parse_table(name: str, frame: pd.DataFrame) -> Iterator[Item]:
    column = next((c for c in ("cif", "structure") if c in frame.columns), None)
    if column is None:
        raise StructureFileError(
            f"The table '{name}' has no 'cif' and no 'structure' column (it has: "
            f"{', '.join(map(str, frame.columns))}). Rename the column that holds the CIF text to 'cif'."
        )
    for number, record in enumerate(frame.to_dict("records"), 1):
        cell = record.pop(column)
        record.pop("structure", None)
        properties = clean_properties(record)
        source = f"{name} row {number}"
        if "material_id" in properties:
            source += f" ({properties['material_id']})"
        try:
            yield StructureRow(_structure_of_cell(cell), source, properties)
        except PARSE_ERRORS as error:
            yield unreadable(source, error)


def _structure_of_cell(cell: Any) -> Structure:
    """Read a table cell: CIF text, or a pymatgen Structure as JSON text or dict."""
    if isinstance(cell, dict):
        return Structure.from_dict(cell)
    if not isinstance(cell, str) or not cell.strip():
        raise ValueError("the cell is empty; expected CIF text")
    if cell.lstrip().startswith("{"):
        return Structure.from_dict(json.loads(cell))
    structures = parse_cif(cell)
    if len(structures) != 1:
        raise ValueError(f"the cell holds {len(structures)} structures, expected 1")
    return structures[0]


def _parse_tensors(name: str, content: bytes) -> Iterator[Item]:
    for place, crystal in read_crystals(content):
        source = f"{name}{place}"
        yield unreadable(source, crystal) if isinstance(crystal, Exception) else StructureRow(crystal, source)


def clean_properties(raw: Mapping[Any, Any]) -> dict[str, Any]:
    """Our names, plain Python numbers, nothing that is missing (None, empty, NaN, infinite)."""
    properties: dict[str, Any] = {}
    for key, value in raw.items():
        name = _PROPERTY_NAMES.get(str(key), str(key))
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or value == "" or name.startswith("Unnamed:"):
            continue
        if isinstance(value, float):
            if not np.isfinite(value):
                continue
            value = int(value) if name == "space_group_number" and value.is_integer() else value
        properties[name] = value
    return properties


_PARSERS: dict[str, Parser] = {
    ".cif": _parse_cif_file,
    ".vasp": _parse_poscar,
    ".poscar": _parse_poscar,
    ".xyz": _parse_xyz,
    ".extxyz": _parse_xyz,
    ".json": _parse_json,
    ".csv": _parse_csv,
    ".parquet": _parse_parquet,
    ".pt": _parse_tensors,
}
SUPPORTED = f"{', '.join(_PARSERS)}, POSCAR*, CONTCAR* (each also with .gz)"


def parser_of(name: str) -> Parser | None:
    """Find the parser for a file name, by extension, or by VASP's own names."""
    stem = PurePosixPath(name).name.lower().removesuffix(".gz")
    by_name = _parse_poscar if stem.startswith(("poscar", "contcar")) else None
    return _PARSERS.get(PurePosixPath(stem).suffix, by_name)
