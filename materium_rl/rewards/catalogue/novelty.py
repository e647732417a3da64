"""How far a structure is from everything known, in tiers that element swaps cannot climb."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, PrivateAttr, field_validator

from materium_rl.resources import training_index
from materium_rl.rewards.base import Invalid, Measurement, Result, Reward
from materium_rl.rewards.fingerprint import Fingerprint, fingerprints
from materium_rl.rewards.prototypes import Prototype, prototypes
from materium_rl.rewards.references import Nearest, ReferenceIndex, Relative
from materium_rl.rewards.shaping import Identity
from materium_rl.structures import shortest_distance

if TYPE_CHECKING:
    from pymatgen.core import Structure

OVERLAP = 0.5
"""Å. Sites closer than any bond: a sum of points, not a crystal (H-H in H2 is 0.74 Å)."""
HALFWAY = 0.05
"""Fingerprint distance at which half of a tier's band is paid."""
FARTHEST = 0.2
"""Distances beyond it pay no more: hardly a real structure reaches it, vacuum and needles do."""


class Tier(StrEnum):
    """The rungs of novelty, lowest first."""

    KNOWN = "known"
    NEW_ARRANGEMENT = "new_arrangement"
    SUBSTITUTION = "substitution"
    KNOWN_PROTOTYPE = "known_prototype"
    NEW_PROTOTYPE = "new_prototype"


BANDS: dict[Tier, tuple[float, float]] = {
    Tier.KNOWN: (0.0, 0.0),
    Tier.NEW_ARRANGEMENT: (0.1, 0.3),
    Tier.SUBSTITUTION: (0.3, 0.5),
    Tier.KNOWN_PROTOTYPE: (0.5, 0.7),
    Tier.NEW_PROTOTYPE: (0.7, 1.0),
}
"""Lowest value of each tier and the limit its distance term approaches."""


class Novelty(Reward):
    """Novelty against the Materials Project's formulas and the training structures, in [0, 1].

    - ``known`` (0): the same structure is a reference, whatever its cell, origin, site order, volume or
      oxidation states.
    - ``new_arrangement`` (0.1 to 0.3): the formula is known, this arrangement is not. Of the Materials
      Project outside the training structures only formulas are at hand, so this tier can hold structures
      that are known there.
    - ``substitution`` (0.3 to 0.5): the formula is new, but a reference of the same prototype has an
      element of the same chemical family on every place; all rare earths count as one element.
    - ``known_prototype`` (0.5 to 0.7): known prototype, elements that no relative of it has.
    - ``new_prototype`` (0.7 to 1.0): no reference has the prototype, **and** none of the same
      anonymous formula lies within ``min_distance`` or, up to twice that, has its sites within
      StructureMatcher's reach. Without the second condition a small distortion, which lowers the
      symmetry and so changes the label, would pay.

    Within a tier the value rises with the fingerprint distance d to the nearest reference as
    d / (d + 0.05), up to d = 0.2, so that at most 0.8 of a band is paid. Nearest of the same formula
    or else anonymous formula; for a new prototype nearest of all, elements ignored, so that colouring
    a known framework with more elements pays least.

    Args:
        min_distance: Fingerprint distance, in units of (volume per atom)^(1/3), below which an
            unknown prototype counts as a distortion of a known one. Moving every atom of 400
            reference structures by 0.2 Å in random directions gives 0.06 in the median and more than
            0.1 in 5 %; straining them by 5 % gives 0.04. Real structures whose prototype is not
            among the references lie 0.12 away in the median.
        reference: Policy whose training structures are the references in place of the bundled ones, or
            an ``.npz`` index; then no other formulas are known.
    """

    name: ClassVar[str] = "novelty"
    citation: ClassVar[str] = (
        "Widdowson et al., MATCH Commun. Math. Comput. Chem. 87, 529 (2022); "
        "Jain et al., APL Materials 1, 011002 (2013)"
    )
    seeks_novelty: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("prototype", "fingerprint")

    min_distance: float = Field(default=0.1, ge=0)
    reference: str | None = None

    _references: ReferenceIndex | None = PrivateAttr(default=None)

    @field_validator("reference")
    @classmethod
    def _has_an_index(cls, reference: str | None) -> str | None:
        if reference is not None:
            training_index(reference)
        return reference

    def load(self) -> None:
        """Read the reference index."""
        self._references = (
            ReferenceIndex.bundled()
            if self.reference is None
            else ReferenceIndex.load(training_index(self.reference))
        )

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Measure N structures; ``Invalid`` where sites overlap or the cell is unreadable."""
        references = self._loaded()
        return [
            self._measure(references, structure, prototype, print_)
            for structure, prototype, print_ in zip(
                structures, prototypes(structures), fingerprints(structures), strict=True
            )
        ]

    def against(self, references: ReferenceIndex) -> Novelty:
        """The same reward with another index in place of its own."""
        other = self.model_copy()
        other._references = references
        return other

    def shaping(self) -> Identity:
        """The value is the score."""
        return Identity()

    def _loaded(self) -> ReferenceIndex:
        if self._references is None:
            self.load()
        assert self._references is not None
        return self._references

    def _measure(
        self,
        references: ReferenceIndex,
        structure: Structure,
        prototype: Prototype | Invalid,
        fingerprint: Fingerprint | None,
    ) -> Result:
        if isinstance(prototype, Invalid):
            return prototype
        if fingerprint is None:
            return Invalid("the cell is a needle or a sheet: its neighbours cannot be listed")
        shortest = shortest_distance(structure)
        if shortest < OVERLAP:
            return Invalid(f"two sites are {shortest:.2f} Å apart; the limit is {OVERLAP} Å")
        tier, nearest = self._place(references, structure, prototype, fingerprint)
        return Measurement(
            _value(tier, nearest.distance), details=_details(references, tier, nearest, prototype)
        )

    def _place(
        self, references: ReferenceIndex, structure: Structure, prototype: Prototype, fingerprint: Fingerprint
    ) -> tuple[Tier, Nearest]:
        """Tier of one structure and the reference its distance counts from."""

        def ranked(tier: Tier) -> tuple[Tier, Nearest]:
            return tier, references.nearest(fingerprint, prototype)

        if references.known_formula(prototype.formula):
            same = references.matches(structure, prototype, fingerprint)
            return ranked(Tier.NEW_ARRANGEMENT) if same is None else (Tier.KNOWN, same)
        if references.known_substitution(prototype):
            return ranked(Tier.SUBSTITUTION)
        relative = references.relative(structure, prototype, fingerprint, self.min_distance)
        if relative is Relative.OF_FAMILY:
            return ranked(Tier.SUBSTITUTION)
        if relative is Relative.OTHER or references.known_prototype(prototype):
            return ranked(Tier.KNOWN_PROTOTYPE)
        return Tier.NEW_PROTOTYPE, references.nearest(fingerprint)


def _value(tier: Tier, distance: float) -> float:
    lowest, limit = BANDS[tier]
    paid = min(distance, FARTHEST)
    return lowest + (limit - lowest) * paid / (paid + HALFWAY)


def _details(
    references: ReferenceIndex, tier: Tier, nearest: Nearest, prototype: Prototype
) -> dict[str, Any]:
    return {
        "tier": tier.value,
        "nearest_id": nearest.material_id,
        "nearest_formula": nearest.formula,
        "distance": nearest.distance,
        "formula": prototype.formula,
        "prototype": prototype.label,
        "framework": prototype.framework_label,
        "new_framework": not references.known_framework(prototype),
    }
