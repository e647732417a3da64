"""Read CIF text: a short way for the P1 files that most data sets hold, pymatgen for the rest."""

from __future__ import annotations

import warnings

import gemmi
import numpy as np
from pymatgen.core import Element, Lattice, Structure

_CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_GROUP_NAMES = ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt")
_GROUP_NUMBERS = ("_symmetry_Int_Tables_number", "_space_group_IT_number")
# CifParser's tolerances, so that both ways give the same structure
_THIRDS = (1 / 3, 2 / 3)
_THIRDS_TOLERANCE = 1e-4
_SITE_TOLERANCE = 1e-4


def parse_cif(text: str) -> list[Structure]:
    """Read every structure of a CIF.

    0.3333 and 0.6667 become 1/3 and 2/3. Sites of P1 files keep their order.

    Args:
        text: Content of a CIF with one or more data blocks.

    Returns:
        One structure per data block; they may be disordered.

    Raises:
        ValueError: and whatever else pymatgen's CifParser raises on a CIF without a structure.
    """
    structure = _parse_p1(text)
    if structure is not None:
        return [structure]
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of each rounded coordinate
        return list(CifParser.from_str(text).parse_structures(primitive=False, on_error="raise"))


def _parse_p1(text: str) -> Structure | None:
    """Read one ordered, non-magnetic P1 block of plain elements; None if it is anything else."""
    if "magn" in text or "moment" in text:
        return None
    try:
        document = gemmi.cif.read_string(text)
    except ValueError:
        return None
    if len(document) != 1 or not _is_p1(document[0]):
        return None
    block = document[0]
    symbols = [gemmi.cif.as_string(symbol) for symbol in block.find_values("_atom_site_type_symbol")]
    occupancies = [gemmi.cif.as_number(value) for value in block.find_values("_atom_site_occupancy")]
    if not symbols or not all(map(Element.is_valid_symbol, symbols)) or any(o != 1 for o in occupancies):
        return None
    columns = [
        [gemmi.cif.as_number(x) for x in block.find_values(f"_atom_site_fract_{axis}")] for axis in "xyz"
    ]
    cell = [gemmi.cif.as_number(block.find_value(f"_cell_{name}") or "?") for name in _CELL]
    if any(len(column) != len(symbols) for column in columns):
        return None
    frac_coords = np.array(columns).T
    if not (np.isfinite(frac_coords).all() and np.isfinite(cell).all()):
        return None
    for third in _THIRDS:
        frac_coords[np.abs(frac_coords / third - 1) <= _THIRDS_TOLERANCE] = third
    if _has_coincident_sites(frac_coords):
        return None
    return Structure(Lattice.from_parameters(*cell), symbols, frac_coords)


def _is_p1(block: gemmi.cif.Block) -> bool:
    """Whether the block lists the identity as its only operation, or lists none and is named P 1."""
    operations = [gemmi.cif.as_string(value) for tag in _OPERATIONS for value in block.find_values(tag)]
    if operations or any(block.find_value(tag) for tag in _OPERATIONS):
        return ["".join(operation.split()).lower() for operation in operations] == ["x,y,z"]
    names = {gemmi.cif.as_string(block.find_value(tag) or "").replace(" ", "") for tag in _GROUP_NAMES}
    numbers = {block.find_value(tag) for tag in _GROUP_NUMBERS}
    return names <= {"", "P1"} and numbers <= {None, "1"} and (names != {""} or numbers != {None})


def _has_coincident_sites(frac_coords: np.ndarray) -> bool:
    """Whether two of N sites are at the same point: CifParser then merges them or refuses."""
    difference = frac_coords[:, None] - frac_coords[None]
    difference -= np.round(difference)
    same = (np.abs(difference) < _SITE_TOLERANCE).all(axis=-1)
    return int(same.sum()) > len(frac_coords)
