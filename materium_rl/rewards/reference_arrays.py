"""The arrays of an index of known structures: what ``references.npz`` and its like hold."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from materium_rl.errors import AssetError
from materium_rl.rewards.base import Invalid
from materium_rl.rewards.fingerprint import SIZE, fingerprints
from materium_rl.rewards.prototypes import Prototype, prototypes

if TYPE_CHECKING:
    from pymatgen.core import Structure

GRID = 65536
"""Coordinates are whole numbers of this part of a cell edge."""
CODED = ("label", "merged_label", "framework_label", "merged_anonymous_formula")
"""Texts that repeat: kept once each, and by number for every row."""
_TEXTS = ("material_id", "formula", "family_formula")

Arrays = dict[str, NDArray[Any]]


def read_arrays(path: Path) -> Arrays:
    """Read an index that ``scripts/build_references.py`` or ``materium-rl policies index`` wrote.

    Raises:
        AssetError: If the file is no such index, or one of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile):
        arrays = {}
    if "fingerprints" not in arrays or arrays["fingerprints"].shape[1:] != (SIZE,):
        raise AssetError(
            f"{path} is no reference index of this version; rebuild the bundled one with "
            "scripts/build_references.py, that of a policy with materium-rl policies index"
        )
    return arrays


def build_arrays(
    structures: Sequence[Structure], material_ids: Sequence[str], formulas: Iterable[str]
) -> Arrays:
    """Index R structures and further known reduced formulas.

    Raises:
        AssetError: If a structure is invalid or too thin to fingerprint; names its id.
    """
    found = prototypes(structures)
    prints = fingerprints(structures)
    for material_id, prototype, print_ in zip(material_ids, found, prints, strict=True):
        if isinstance(prototype, Invalid) or print_ is None:
            reason = prototype.reason if isinstance(prototype, Invalid) else "no fingerprint"
            raise AssetError(f"reference {material_id} cannot be indexed: {reason}; remove it")
    known = [prototype for prototype in found if isinstance(prototype, Prototype)]
    hashes = {formula_hash(formula) for formula in (*formulas, *(p.formula for p in known))}
    arrays: Arrays = {
        "formula_hashes": np.array(sorted(hashes), dtype=np.uint64),
        "fingerprints": np.array(prints, dtype=np.float16),
        "lattices": np.array([s.lattice.matrix for s in structures], dtype=np.float32),
        "coords": (np.concatenate([s.frac_coords for s in structures]) * GRID).round().astype(np.int64)
        % GRID,
        "numbers": np.array([site.specie.Z for s in structures for site in s], dtype=np.uint8),
        "n_sites": np.array([len(s) for s in structures], dtype=np.uint16),
    }
    arrays["coords"] = arrays["coords"].astype(np.uint16)
    texts = {"material_id": list(material_ids)}
    texts |= {name: [getattr(p, name) for p in known] for name in (*_TEXTS[1:], *CODED)}
    arrays |= {name: _pack(texts[name]) for name in _TEXTS}
    for name in CODED:
        values, codes = np.unique(texts[name], return_inverse=True)
        arrays |= {name: _pack(values.tolist()), f"{name}_code": codes.astype(np.int32)}
    return arrays


class Composed(NamedTuple):
    """What the atoms of a reference structure are, and its space group."""

    formula: str
    n_sites: int
    space_group: int


def read_composed(path: Path) -> list[Composed]:
    """The structures of an index, without their geometry.

    Raises:
        AssetError: If the file is no such index.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = ("formula", "n_sites", "label", "label_code")
            arrays = {name: archive[name] for name in names}
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        raise AssetError(f"{path} is no index of structures; see materium-rl policies index") from None
    groups = [int(label.split("_")[1]) for label in unpack(arrays["label"])]  # AB2_225_...
    return [
        Composed(formula, int(n_sites), groups[code])
        for formula, n_sites, code in zip(
            unpack(arrays["formula"]), arrays["n_sites"], arrays["label_code"], strict=True
        )
    ]


def formula_hash(reduced_formula: str) -> int:
    """First 64 bits of BLAKE2b; among 100,000 formulas a random one collides once in 2e14."""
    return int.from_bytes(hashlib.blake2b(reduced_formula.encode(), digest_size=8).digest(), "big")


def _pack(texts: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer("\n".join(texts).encode(), dtype=np.uint8)


def unpack(packed: NDArray[np.uint8]) -> list[str]:
    """The texts of a column."""
    return packed.tobytes().decode().split("\n")


def decode(arrays: Arrays, name: str) -> list[str]:
    """The texts of a column of ``CODED``, one for each row."""
    values = unpack(arrays[name])
    return [values[code] for code in arrays[f"{name}_code"]]
