"""What novelty is judged against: a named set of known structures, from whatever source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from materium_rl.errors import ConfigError
from materium_rl.evaluation.discoveries.sources import CIF, read_samples
from materium_rl.evaluation.novelty.distances import Floats, amd_distance, cell_pdd
from materium_rl.resources import training_index
from materium_rl.rewards.base import Invalid
from materium_rl.rewards.fingerprint import N_ALL, fingerprints
from materium_rl.rewards.nearest import NearestRows
from materium_rl.rewards.prototypes import prototypes
from materium_rl.rewards.references import ReferenceIndex
from materium_rl.rewards.shared import sharing
from materium_rl.structure_files import read_structures

if TYPE_CHECKING:
    from pymatgen.core import Structure

FEW = 12
"""Structures that are asked for their PDD at most, the nearest by AMD."""
_MOST_PDDS = 4096  # kept at once; about 10 kB each


class Reference:
    """A named set of R known structures; or of formulas alone, where no more is at hand.

    Args:
        name: Short name, used in columns: letters, digits and underscores.
        title: As it reads in a sentence, such as ``the training data``.
        index: The structures; None for an empty set.
        formulas_only: Judge by the reduced formulas that the index knows, not by its structures.
        left_out: What could not be indexed, one text each, with the reason.

    Raises:
        ConfigError: The name is no name.
    """

    def __init__(
        self,
        name: str,
        title: str,
        index: ReferenceIndex | None,
        *,
        formulas_only: bool = False,
        left_out: Iterable[str] = (),
    ) -> None:
        if not name.isidentifier():
            raise ConfigError(
                f"{name!r} cannot name a reference: it becomes part of column names; use letters, digits and "
                "underscores, as in icsd_2024"
            )
        self.name, self.title, self.index = name, title, index
        self.formulas_only, self.left_out = formulas_only, tuple(left_out)
        self._pdds: dict[int, Floats] = {}
        if index is not None and not formulas_only:
            self._amds = index.amds()
            self._nearest = NearestRows(self._amds)

    def __len__(self) -> int:
        """Number of structures R; 0 for formulas alone."""
        return 0 if self.index is None or self.formulas_only else len(self.index)

    def __bool__(self) -> bool:
        """An empty reference is one, too."""
        return True

    @classmethod
    def training(cls, policy: str | None = None) -> Reference:
        """``training``: the training structures of a policy, those of the bundled policy if None.

        Raises:
            ConfigError: The policy has no index of its training structures.
            AssetError: The index is damaged or of another version.
        """
        index = ReferenceIndex.bundled() if policy is None else ReferenceIndex.load(training_index(policy))
        return cls("training", "the training data", index)

    @classmethod
    def materials_project(cls) -> Reference:
        """``materials_project``: formulas alone, those of the Materials Project that are bundled."""
        index = ReferenceIndex.bundled()
        return cls("materials_project", "the Materials Project", index, formulas_only=True)

    @classmethod
    def from_file(cls, name: str, path: str | Path, title: str | None = None) -> Reference:
        """Any structure file, folder or archive, or an ``.npz`` index (much faster to load).

        About 3 ms a structure. What cannot be read or indexed is left out and told in ``left_out``. The id
        of a structure is its ``material_id``, else its place in the file.

        Args:
            name: As in ``Reference``.
            path: What ``read_structures`` reads, or an index.
            title: As in ``Reference``; the name of the file if None.

        Raises:
            StructureFileError: The file is missing, unreadable, or holds no usable structure.
            ConfigError: There is no such index.
            AssetError: The ``.npz`` is no index of this version.
        """
        path = Path(path).expanduser()
        title = title or path.name
        if path.suffix == ".npz":
            return cls(name, title, ReferenceIndex.load(training_index(path)))
        read = read_structures(path).require_any(path)
        ids = [str(row.properties.get("material_id", row.source)) for row in read.rows]
        made = cls.from_structures(name, [row.structure for row in read.rows], ids, title)
        unread = [f"{drop.source}: {drop.message}" for drop in read.dropped]
        return cls(name, title, made.index, left_out=[*unread, *made.left_out])

    @classmethod
    def from_structures(
        cls,
        name: str,
        structures: Sequence[Structure | None],
        ids: Sequence[str] | None = None,
        title: str | None = None,
    ) -> Reference:
        """Structures at hand; an empty set is one that everything is new to.

        Args:
            name: As in ``Reference``.
            structures: R structures; None and what cannot be indexed is left out and told.
            ids: One each; their places (``0``, ``1``, ...) if None.
            title: As in ``Reference``; the name if None.
        """
        ids = [str(place) for place in range(len(structures))] if ids is None else ids
        faults = []
        kept: list[tuple[str, Structure]] = []
        with sharing():  # what is computed here is not computed again for the index
            for key, structure in zip(ids, structures, strict=True):
                fault = "no structure" if structure is None else _fault(structure)
                if structure is None or fault is not None:
                    faults.append(f"{key}: {fault}")
                else:
                    kept.append((key.replace("\n", " "), structure))
            found = [structure for _, structure in kept]
            index = ReferenceIndex.from_structures(found, [key for key, _ in kept]) if kept else None
        return cls(name, title or name, index, left_out=faults)

    @classmethod
    def of_run(cls, run: Path, *, before: int | None = None) -> Reference:
        """``archive``: the structures that a run has written, those of the steps below ``before``.

        What was written twice alike is kept once. The id is ``step 12, sample 3``.

        Raises:
            StructureFileError: The run has no samples; none below ``before`` is an empty set, no error.
        """
        samples = read_samples(run)
        frame = samples.frame
        if before is not None and "step" in frame:
            frame = frame[frame["step"] < before]
        rows = frame[CIF].dropna().drop_duplicates().index
        found = {samples.place(row): samples.structure(row) for row in rows}
        made = cls.from_structures("archive", list(found.values()), list(found), "what the run wrote before")
        return cls(made.name, made.title, made.index, left_out=[*samples.unread, *made.left_out])

    def known_formula(self, formula: str) -> bool:
        """Whether the reduced formula is among the structures, or the formulas where they count alone."""
        if self.index is None:
            return False
        if self.formulas_only:
            return self.index.known_formula(formula)
        return len(self.index.rows_of("formula", formula)) > 0

    def closest(self, amd: Floats) -> list[tuple[int, float]]:
        """The ``FEW`` nearest of all, elements ignored, by the first ``N_ALL`` distances of the AMD.

        Args:
            amd: Average minimum distances of a structure, (K,) in Å.

        Returns:
            Rows and distances in Å, the nearest first. No PDD distance is smaller, but for rounding.
        """
        return self._nearest.nearest(amd[:N_ALL].astype(np.float32), FEW)

    def nearest_of(self, rows: NDArray[np.int64], amd: Floats) -> int:
        """The nearest of some rows, by the first ``N_ALL`` average minimum distances."""
        differences = np.abs(self._amds[rows] - amd[:N_ALL]).max(axis=1)
        return int(rows[differences.argmin()])

    def amd_distance(self, amd: Floats, row: int) -> float:
        """AMD distance to one row in Å."""
        return amd_distance(amd, self.pdd(row).mean(axis=0))

    def pdd(self, row: int) -> Floats:
        """Pointwise distance distribution of one row."""
        assert self.index is not None
        if row not in self._pdds:
            if len(self._pdds) >= _MOST_PDDS:
                del self._pdds[next(iter(self._pdds))]
            self._pdds[row] = cell_pdd(*self.index.cell(row))
        return self._pdds[row]


def _fault(structure: Structure) -> str | None:
    """Why a structure cannot be indexed; None if it can."""
    (prototype,), (print_,) = prototypes([structure]), fingerprints([structure])
    if isinstance(prototype, Invalid):
        return prototype.reason
    return "the cell is a needle or a sheet: its neighbours cannot be listed" if print_ is None else None
