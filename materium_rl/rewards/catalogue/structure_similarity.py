"""The ``structure_similarity`` reward: geometric distance from a given structure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, PrivateAttr, field_validator

from materium_rl.errors import RewardError, StructureFileError
from materium_rl.rewards.base import Invalid, Measurement, Result, Reward
from materium_rl.rewards.fingerprint import Fingerprint, fingerprints
from materium_rl.rewards.shaping import SoftDecay
from materium_rl.rewards.symmetry import unreadable
from materium_rl.structure_files import read_structures
from materium_rl.structures import structures_match

if TYPE_CHECKING:
    from pymatgen.core import Structure

NEAR = 0.2
"""Fingerprint distance beyond which StructureMatcher is not asked: it matches nothing there."""


class StructureSimilarity(Reward):
    """Fingerprint distance from the structure in a file: 0 for the same arrangement of whatever elements.

    The fingerprint (see ``novelty``) holds the sorted neighbour distances, averaged over the sites, in
    units of (volume per atom)^(1/3), once to all atoms and once to those of the site's own element. It does
    not see the cell, the volume or the names of the elements: rock salt is rock salt. Ask for the elements
    with ``composition_similarity`` and the volume with ``volume_per_atom``. The distance of two different
    arrangements can be 0 in contrived cases. The score is 1 at 0 and 1/2 at ``width``; the detail
    ``same_structure`` says whether it is the very crystal, elements included, within
    StructureMatcher's default tolerances.
    """

    name: ClassVar[str] = "structure_similarity"
    unit: ClassVar[str] = "(volume per atom)^(1/3)"
    citation: ClassVar[str] = (
        "Widdowson et al., MATCH Commun. Math. Comput. Chem. 87, 529 (2022); Ong et al., Comput. Mater. Sci. "
        "68, 314 (2013)"
    )
    requires: ClassVar[tuple[str, ...]] = ("fingerprint",)

    target: str = Field(description="file that holds the one structure", examples=["target.cif"])
    width: float = Field(default=0.1, gt=0, description="distance at which the score is 1/2")

    _wanted: tuple[Structure, Fingerprint] | None = PrivateAttr(default=None)

    @field_validator("target")
    @classmethod
    def _is_a_structure(cls, target: str) -> str:
        _read(target)
        return target

    def load(self) -> None:
        """Read the structure and take its fingerprint.

        Raises:
            RewardError: The file no longer holds one structure with a fingerprint.
        """
        try:
            structure = _read(self.target)
        except ValueError as error:
            raise RewardError(f"structure_similarity: {error}") from None
        (fingerprint,) = fingerprints([structure])
        assert fingerprint is not None
        self._wanted = structure, fingerprint

    def shaping(self) -> SoftDecay:
        """Near is good."""
        return SoftDecay(full=0.0, half=self.width)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Distances of N structures; ``Invalid`` where there is no fingerprint."""
        if self._wanted is None:
            self.load()
        return [
            self._result(structure, found)
            for structure, found in zip(structures, fingerprints(structures), strict=True)
        ]

    def _result(self, structure: Structure, found: Fingerprint | None) -> Result:
        if found is None:
            problem = unreadable(structure)
            return Invalid(problem or "the cell is a needle or a sheet: its neighbours cannot be listed")
        assert self._wanted is not None
        wanted, fingerprint = self._wanted
        distance = float(np.abs(found - fingerprint).max())
        same = distance < NEAR and structures_match(structure, wanted)
        return Measurement(distance, details={"same_structure": same})


def _read(path: str) -> Structure:
    """The one structure of a file.

    Raises:
        ValueError: The file is missing or holds none, several, or one without a fingerprint.
    """
    try:
        rows = read_structures(Path(path).expanduser()).require_any(path).rows
    except StructureFileError as error:
        raise ValueError(str(error)) from None
    if len(rows) > 1:
        raise ValueError(f"{path} holds {len(rows)} structures; expected one")
    if fingerprints([rows[0].structure])[0] is None:
        problem = unreadable(rows[0].structure) or "its neighbours cannot be listed"
        raise ValueError(f"the structure in {path} cannot be compared: {problem}")
    return rows[0].structure
