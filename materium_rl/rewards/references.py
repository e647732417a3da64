"""The known structures that novelty is measured against.

Two sources. Of the Materials Project at large only the reduced formulas are bundled (as 64-bit
hashes). Of the training structures everything a comparison needs is: formulas, prototype and
framework labels, fingerprints, and the cells themselves (coordinates to 1/65536 of a cell edge).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from materium_rl.rewards.fingerprint import N_ALL, Fingerprint
from materium_rl.rewards.nearest import NearestRows
from materium_rl.rewards.prototypes import Prototype
from materium_rl.rewards.reference_arrays import (
    CODED,
    GRID,
    Arrays,
    build_arrays,
    decode,
    formula_hash,
    read_arrays,
    unpack,
)
from materium_rl.structures import cells_match, element_symbols, matching_cell, structure_matcher

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from pymatgen.core.structure_matcher import StructureMatcher

ASSET = "references.npz"
SAME_FINGERPRINT = 0.01
"""Two structures of one formula and one prototype label are the same below this distance, without
asking StructureMatcher; fifty times below where it stops matching."""
_CELLS = 8192
"""Reduced cells of references that are kept, of about 20 kB each."""

_NO_ROWS: NDArray[np.int64] = np.empty(0, dtype=np.int64)

Column = Literal["formula", "label", "merged_label", "framework_label"]


@dataclass(frozen=True, slots=True)
class Nearest:
    """A reference and its fingerprint distance, in units of (volume per atom)^(1/3)."""

    row: int
    material_id: str
    formula: str
    distance: float


class Relative(Enum):
    """Whether a structure may be a distortion of a reference."""

    NONE = "none"
    OTHER = "of other elements"
    OF_FAMILY = "with an element of the same chemical family on every place"


class ReferenceIndex:
    """Known formulas, prototypes and structures; R reference structures in all.

    Args:
        arrays: What ``build_arrays`` returned, or the content of the bundled asset.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._formula_hashes = arrays["formula_hashes"]
        self.material_ids = unpack(arrays["material_id"])
        self.formulas = unpack(arrays["formula"])
        self.family_formulas = unpack(arrays["family_formula"])
        columns = {name: decode(arrays, name) for name in CODED}
        self._labels = columns["label"]
        self._known_labels = set(columns["label"]) | set(columns["merged_label"])
        self._known_frameworks = set(columns["framework_label"])
        self._known_substitutions = set(zip(columns["merged_label"], self.family_formulas, strict=True))
        self._merged_labels, self._framework_labels = columns["merged_label"], columns["framework_label"]
        self._per_prototype = Counter(self._merged_labels)
        self._per_framework = Counter(self._framework_labels)
        self._framework_codes = arrays["framework_label_code"]
        self._columns = columns
        self._rows_of = {"formula": _rows(self.formulas)}  # those of other columns when they are asked for
        of_anonymous = _rows(columns["merged_anonymous_formula"])
        self._family_codes = {text: code for code, text in enumerate(dict.fromkeys(self.family_formulas))}
        self._family_of_row = np.array([self._family_codes[text] for text in self.family_formulas])
        self._fingerprints = arrays["fingerprints"].astype(np.float32)
        self._all = NearestRows(self._fingerprints, size=N_ALL)
        self._nearest_of_anonymous = {
            formula: NearestRows(self._fingerprints, rows) for formula, rows in of_anonymous.items()
        }
        self._lattices, self._coords, self._numbers = arrays["lattices"], arrays["coords"], arrays["numbers"]
        self._n_sites = arrays["n_sites"]
        self._first_site = np.concatenate([[0], np.cumsum(arrays["n_sites"], dtype=np.int64)])
        self._cells: dict[tuple[int, bool], Structure] = {}
        self._asked: tuple[Structure, dict[bool, Structure]] | None = None
        structure_matcher(), _framework_matcher()  # loaded with the index, not by the first question

    def __len__(self) -> int:
        return len(self.material_ids)

    @classmethod
    def load(cls, path: Path) -> ReferenceIndex:
        """Read an index that ``scripts/build_references.py`` or ``materium-rl policies index`` wrote.

        Raises:
            AssetError: If the file is no such index, or one of another version.
        """
        return cls(read_arrays(path))

    @classmethod
    def bundled(cls) -> ReferenceIndex:
        """The index that comes with the package, read once per process."""
        return _bundled()

    @classmethod
    def from_structures(
        cls, structures: Sequence[Structure], material_ids: Sequence[str], formulas: Iterable[str] = ()
    ) -> ReferenceIndex:
        """Index structures of one's own; ``formulas`` are further known reduced formulas."""
        return cls(build_arrays(structures, material_ids, formulas))

    @property
    def prototype_labels(self) -> list[str]:
        """Prototype of each of the R references."""
        return self._labels

    @property
    def n_sites(self) -> NDArray[np.int64]:
        """Sites of each of the R references."""
        return self._n_sites.astype(np.int64)

    @property
    def volumes(self) -> NDArray[np.float64]:
        """Volume of each of the R cells in Å³."""
        return np.asarray(np.abs(np.linalg.det(self._lattices.astype(np.float64))))

    @property
    def masses(self) -> NDArray[np.float64]:
        """Mass of each of the R cells in atomic units."""
        from ase.data import atomic_masses

        return np.asarray(np.add.reduceat(atomic_masses[self._numbers], self._first_site[:-1]))

    def rows_of(self, column: Column, value: str) -> NDArray[np.int64]:
        """Rows (M,) of the references with this formula or label, in rising order."""
        if column not in self._rows_of:
            self._rows_of[column] = _rows(self._columns[column])
        return self._rows_of[column].get(value, _NO_ROWS)

    def amds(self) -> NDArray[np.float32]:
        """Average minimum distances of all references in Å, (R, N_ALL); rounded to 1 in 2,000."""
        spacing = np.cbrt(np.abs(np.linalg.det(self._lattices)) / self._n_sites)
        return self._fingerprints[:, :N_ALL] * spacing[:, None].astype(np.float32)  # type: ignore[no-any-return]

    def known_formula(self, reduced_formula: str) -> bool:
        """Whether the reduced formula is in the Materials Project or among the R references."""
        value = formula_hash(reduced_formula)
        place = int(np.searchsorted(self._formula_hashes, value))
        return place < len(self._formula_hashes) and bool(self._formula_hashes[place] == value)

    def known_prototype(self, prototype: Prototype) -> bool:
        """Whether a reference has this prototype, all rare earths being one element."""
        return prototype.merged_label in self._known_labels

    def known_framework(self, prototype: Prototype) -> bool:
        """Whether a reference has this arrangement of sites, all elements being one."""
        return prototype.framework_label in self._known_frameworks

    def known_substitution(self, prototype: Prototype) -> bool:
        """Whether a reference of this prototype has each element from the same chemical family."""
        return (prototype.merged_label, prototype.family_formula) in self._known_substitutions

    def matches(self, structure: Structure, prototype: Prototype, fingerprint: Fingerprint) -> Nearest | None:
        """The reference that is the same structure, or None.

        Same means what ``structures.structures_match`` says by its default tolerances. Only the
        references of the same formula are asked, the nearest first.
        """
        for row, distance, certain in self.same_formula(prototype, fingerprint):
            if certain or self.cells_match(structure, row, structure_matcher()):
                return Nearest(row, self.material_ids[row], self.formulas[row], distance)
        return None

    def same_formula(
        self, prototype: Prototype, fingerprint: Fingerprint
    ) -> Iterator[tuple[int, float, bool]]:
        """References of the same formula, the nearest first, for as long as none is the same structure.

        Yields:
            Row, fingerprint distance, and whether this alone says that it is the same. Of references that
            are the same by that test only the first comes: what does not match it does not match them.
        """
        rows = self.rows_of("formula", prototype.formula)
        passed: list[int] = []
        for row, distance in NearestRows(self._fingerprints, rows).nearest(fingerprint, len(rows)):
            label = self._labels[row]
            if distance < SAME_FINGERPRINT and label == prototype.label:
                yield row, distance, True
                return
            twins = [other for other in passed if self._labels[other] == label]
            gaps = np.abs(self._fingerprints[twins] - self._fingerprints[row]).max(axis=1)
            if (gaps >= SAME_FINGERPRINT).all():
                passed.append(row)
                yield row, distance, False

    def cells_match(
        self, structure: Structure, row: int, matcher: StructureMatcher, *, blank: bool = False
    ) -> bool:
        """What ``matcher.fit`` says of a structure and one row, of their sites alone if ``blank``."""
        asked = self._asked_cell(structure, blank=blank)
        if self._n_sites[row] % len(asked):  # then no primitive cell of the row has as many sites
            return False
        return cells_match(asked, self._cell(row, blank=blank), matcher)

    def nearest(self, fingerprint: Fingerprint, prototype: Prototype | None = None) -> Nearest:
        """Nearest reference by fingerprint (largest difference of any entry).

        With a prototype: nearest among the references of its formula, else among those of its
        anonymous formula, by the whole fingerprint. Without one, or where there is no such
        reference: nearest of all R by the species-blind part alone.
        """
        group = self._all
        if prototype is not None:
            rows = self.rows_of("formula", prototype.formula)
            same = NearestRows(self._fingerprints, rows) if len(rows) else self._anonymous(prototype)
            group = same or group
        ((row, distance),) = group.nearest(fingerprint)
        return Nearest(row, self.material_ids[row], self.formulas[row], distance)

    def relative(
        self, structure: Structure, prototype: Prototype, fingerprint: Fingerprint, radius: float
    ) -> Relative:
        """Whether there is a reference that the structure may be a distortion of."""
        return self.nearest_relative(structure, prototype, fingerprint, radius)[0]

    def nearest_relative(
        self, structure: Structure, prototype: Prototype, fingerprint: Fingerprint, radius: float
    ) -> tuple[Relative, int | None]:
        """Whether there is a reference that the structure may be a distortion of, and its row.

        One of its anonymous formula whose whole fingerprint is nearer than ``radius``. Where there
        is none, one of the three nearest within twice the radius on whose sites StructureMatcher
        puts it, elements ignored and with half the usual site tolerance. (Of the 59
        real structures in that range that the tolerance was chosen on it does so with none, of 9
        references distorted by 0.2 Å with 8; 20 ms each.)
        """
        group = self._anonymous(prototype)
        if group is None:
            return Relative.NONE, None
        family = self._family_codes.get(prototype.family_formula, -1)
        three = group.nearest(fingerprint, 3)
        if within := [row for row, distance in three if distance < radius]:
            kin = self._first_of_family(within, family)
            more = len(within) == len(three) and bool((self._family_of_row[group.rows] == family).any())
            if kin is None and more:
                kin = self._first_of_family([row for row, _ in group.within(fingerprint, radius)], family)
            return (Relative.OTHER, within[0]) if kin is None else (Relative.OF_FAMILY, kin)
        near = [row for row, distance in three if distance < 2 * radius]
        near.sort(key=lambda row: self._family_of_row[row] != family)  # kin first: one match is enough
        for row in near:
            if self._same_sites(structure, row):
                return Relative.OF_FAMILY if self._family_of_row[row] == family else Relative.OTHER, row
        return Relative.NONE, None

    def _first_of_family(self, rows: list[int], family: int) -> int | None:
        return next((row for row in rows if self._family_of_row[row] == family), None)

    def _anonymous(self, prototype: Prototype) -> NearestRows | None:
        """The references of the same anonymous formula, None if there is none."""
        return self._nearest_of_anonymous.get(prototype.merged_anonymous_formula)

    def prototype_count(
        self, structure: Structure, prototype: Prototype, fingerprint: Fingerprint, radius: float
    ) -> int:
        """How many references have this prototype, all rare earths being one element.

        Where none has, the largest such number of the prototypes that it may be a distortion of, as
        ``relative`` finds them.
        """
        found, group = self._per_prototype[prototype.merged_label], self._anonymous(prototype)
        if found or group is None:
            return found
        rows = [row for row, _ in group.within(fingerprint, radius)]
        if not rows:
            near = [row for row, distance in group.nearest(fingerprint, 3) if distance < 2 * radius]
            rows = [row for row in near if self._same_sites(structure, row)]
        return max((self._per_prototype[self._merged_labels[row]] for row in rows), default=0)

    def framework_count(
        self, structure: Structure, prototype: Prototype, fingerprint: Fingerprint, radius: float
    ) -> int:
        """How many references have this arrangement of sites, all elements being one.

        Where none has, the number of the framework that it is a distortion of: StructureMatcher tries the
        nearest reference of each of the twenty nearest frameworks within ``radius``, elements ignored. (Of
        200 references whose atoms were moved by 0.1 Å 38 got a new label, and for 37 of them it finds a
        framework; by 0.2 Å 36 and 30. Of 30 real structures of a new label 4 are taken for distortions,
        three of them nearer than 0.03.)
        """
        found = self._per_framework[prototype.framework_label]
        if found:
            return found
        row = self.framework_relative(structure, fingerprint, radius)
        return 0 if row is None else self._per_framework[self._framework_labels[row]]

    def framework_relative(self, structure: Structure, fingerprint: Fingerprint, radius: float) -> int | None:
        """A row of whose framework the structure may be a distortion, as ``framework_count`` finds it."""
        near = [row for row, _ in self._all.within(fingerprint, radius)]
        firsts = np.unique(self._framework_codes[near], return_index=True)[1]
        rows = (near[place] for place in np.sort(firsts)[:20])
        return next((row for row in rows if self._same_framework(structure, row)), None)

    def structure(self, row: int) -> Structure:
        """The reference structure of one row, as it was stored."""
        from pymatgen.core import Structure

        lattice, coords = self.cell(row)
        return Structure(lattice, self._symbols(row), coords)

    def cell(self, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lattice vectors as rows in Å, (3, 3), and fractional coordinates of N sites, (N, 3), of one row."""
        return self._lattices[row].astype(float), self._coords[self._sites(row)].astype(float) / GRID

    def _sites(self, row: int) -> slice:
        return slice(int(self._first_site[row]), int(self._first_site[row + 1]))

    def _same_sites(self, structure: Structure, row: int) -> bool:
        """Whether the sites are those of a reference, elements ignored."""
        return self.cells_match(structure, row, _framework_matcher())

    def _same_framework(self, structure: Structure, row: int) -> bool:
        """The same; the cell of the one may be reducible only as long as it is not distorted."""
        matched = self.cells_match(structure, row, _framework_matcher(), blank=True)
        return matched or self._same_sites(structure, row)

    def _cell(self, row: int, *, blank: bool = False) -> Structure:
        """The cell of a row for StructureMatcher, of its sites alone if ``blank``."""
        if (row, blank) not in self._cells:
            if len(self._cells) >= _CELLS:
                self._cells.clear()
            self._cells[row, blank] = _matching_cell(*self.cell(row), self._symbols(row), blank)
        return self._cells[row, blank]

    def _asked_cell(self, structure: Structure, *, blank: bool = False) -> Structure:
        """The same of a structure; the last one is remembered, since several references are asked."""
        if self._asked is None or self._asked[0] is not structure:
            self._asked = structure, {}
        cells = self._asked[1]
        if blank not in cells:
            cell = structure.lattice.matrix, structure.frac_coords
            cells[blank] = _matching_cell(*cell, element_symbols(structure), blank)
        return cells[blank]

    def _symbols(self, row: int) -> list[str]:
        from pymatgen.core import Element

        return [Element.from_Z(int(number)).symbol for number in self._numbers[self._sites(row)]]


@cache
def _bundled() -> ReferenceIndex:
    from materium_rl.resources import asset_path

    return ReferenceIndex.load(asset_path(ASSET))


def _matching_cell(
    basis: NDArray[np.float64], positions: NDArray[np.float64], symbols: Sequence[str], blank: bool
) -> Structure:
    """``matching_cell``; if ``blank`` all sites are of one element, and it is that of the framework."""
    return matching_cell(basis, ["H"] * len(symbols) if blank else symbols, positions)


@cache
def _framework_matcher() -> StructureMatcher:
    from pymatgen.core.structure_matcher import FrameworkComparator, StructureMatcher

    return StructureMatcher(ltol=0.2, stol=0.15, angle_tol=5, comparator=FrameworkComparator())


def _rows(values: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, value in enumerate(values):
        rows[value].append(row)
    return {value: np.array(found, dtype=np.int64) for value, found in rows.items()}
