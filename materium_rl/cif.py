"""Read CIF text: a short way for the P1 files that most data sets hold, pymatgen for the rest."""

from __future__ import annotations

import warnings

import gemmi
import numpy as np
from pymatgen.core import Composition, Element, Lattice, Structure

_CELL = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
_OPERATIONS = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_GROUP_NAMES = ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt")
_FORMULA, _UNITS = "_chemical_formula_sum", "_cell_formula_units_Z"
_P1, _IDENTITY = {"P1", "1"}, "x,y,z"
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
    try:
        document = gemmi.cif.read_string(text)
    except ValueError:
        return _parse_any(text)
    block = document[0] if len(document) == 1 else None
    if block is not None and _operations(block) and _group_names(block) - _P1:
        return [_parse_checked(text, document)]
    if block is not None and _is_p1(block) and not ("magn" in text or "moment" in text):
        structure = _parse_p1(block)
        if structure is not None:
            return [structure]
    return _parse_any(text)


def _parse_any(text: str) -> list[Structure]:
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of each rounded coordinate
        return list(CifParser.from_str(text).parse_structures(primitive=False, on_error="raise"))


def _parse_checked(text: str, document: gemmi.cif.Document) -> Structure:
    """Read a CIF that lists operations and names a space group; generators write the two apart.

    CrystaLLM lists the identity only, beside the sites of the asymmetric unit: its operations follow from
    the name (commit 263cf2e, ``bin/postprocess.py``). Elsewhere the sites may be all of the cell. So the
    operations as listed are taken if they give the content that the CIF declares or it declares none, then
    those of the named group if they do; then the listed ones again, unless broken or the identity.

    Raises:
        ValueError: Neither can be right; says what each gives.
    """
    block = document[0]
    whole = [_operation(operation) for operation in _operations(block)]
    listed = None if None in whole else _parse_any(text)[0]
    wanted = _declared_contents(block)
    if listed is not None and (not wanted or listed.composition.get_el_amt_dict() in wanted):
        return listed
    declared, names = block.find_value(_FORMULA), ", ".join(sorted(_group_names(block) - _P1))
    for tag in _OPERATIONS:
        block.find([tag]).erase()
    try:
        named: Structure | None = _parse_any(document.as_string())[0]
    except (ValueError, LookupError, TypeError):  # no such group, or not of this cell
        named = None
    if named is not None and (not wanted or named.composition.get_el_amt_dict() in wanted):
        return named
    if listed is not None and whole != [_IDENTITY]:
        return listed
    found = " or ".join(s.composition.formula for s in (listed, named) if s is not None) or "no structure"
    raise ValueError(
        f"its sites make {found} by the listed operations or by space group {names}, but it declares "
        f"{declared}"
    )


def _declared_contents(block: gemmi.cif.Block) -> list[dict[str, float]]:
    """Atoms in the cell by the formula, empty without one.

    With a number of formula units the formula may be that of a unit, or of the cell as pymatgen writes it.
    """
    units = gemmi.cif.as_number(block.find_value(_UNITS) or "?")
    try:
        formula = Composition(gemmi.cif.as_string(block.find_value(_FORMULA) or ""))
    except ValueError:
        return []
    if not formula:
        return []
    if not units > 0:  # NaN without one
        return [formula.get_el_amt_dict()]
    reduced = Composition(formula.reduced_formula)
    return [(unit * units).get_el_amt_dict() for unit in (reduced, formula)]


def _parse_p1(block: gemmi.cif.Block) -> Structure | None:
    """Read an ordered P1 block of plain elements; None if it is anything else."""
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
    if operations := _operations(block):
        return [_operation(operation) for operation in operations] == [_IDENTITY]
    return bool(names := _group_names(block)) and names <= _P1


def _operations(block: gemmi.cif.Block) -> list[str]:
    return [gemmi.cif.as_string(value) for tag in _OPERATIONS for value in _values(block, tag)]


def _values(block: gemmi.cif.Block, tag: str) -> list[str]:
    single = block.find_value(tag)
    return [*block.find_values(tag)] or ([single] if single else [])


def _operation(text: str) -> str | None:
    """An operation in one way of writing, None if it is none."""
    try:
        return gemmi.Op(text).triplet()
    except (ValueError, RuntimeError):
        return None


def _group_names(block: gemmi.cif.Block) -> set[str]:
    """Name and number of the space group as written, without blanks; empty if there is none."""
    values = [block.find_value(tag) for tag in (*_GROUP_NAMES, *_GROUP_NUMBERS)]
    return {"".join(gemmi.cif.as_string(value).split()) for value in values if value} - {""}


def _has_coincident_sites(frac_coords: np.ndarray) -> bool:
    """Whether two of N sites are at the same point: CifParser then merges them or refuses."""
    difference = frac_coords[:, None] - frac_coords[None]
    difference -= np.round(difference)
    same = (np.abs(difference) < _SITE_TOLERANCE).all(axis=-1)
    return int(same.sum()) > len(frac_coords)
