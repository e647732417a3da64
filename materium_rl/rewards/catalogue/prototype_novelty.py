"""The ``prototype_novelty`` reward: how rare an arrangement is among the known structures, elements aside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PrivateAttr, field_validator

from materium_rl.resources import training_index
from materium_rl.rewards.base import Invalid, Measurement, Result, Reward
from materium_rl.rewards.catalogue.validity import Validity
from materium_rl.rewards.fingerprint import Fingerprint, fingerprints
from materium_rl.rewards.prototypes import Prototype, prototypes
from materium_rl.rewards.references import ReferenceIndex
from materium_rl.rewards.shaping import Identity

if TYPE_CHECKING:
    from pymatgen.core import Structure


class PrototypeNovelty(Reward):
    """1 / (1 + n) for n references of the same prototype or framework: 1 new, 1/2 seen once, near 0 common.

    A prototype is anonymous formula, space group and occupied orbits, rare earths being one element; a
    framework is the same with all elements being one. No swap of elements can raise the value; by
    ``prototype`` a known framework coloured with more elements can. A small distortion breaks the symmetry
    and so changes the label; therefore a label without references counts as that of its nearest relative,
    where it has one within ``min_distance``. Nothing is easier than a new arrangement that is no crystal:
    what would be new is invalid where ``validity`` turns it down (by its default limits).

    Where ``novelty`` pays for new formulas first and for new prototypes most, this pays for the arrangement
    alone.
    """

    name: ClassVar[str] = "prototype_novelty"
    citation: ClassVar[str] = "Widdowson et al., MATCH Commun. Math. Comput. Chem. 87, 529 (2022)"
    seeks_novelty: ClassVar[bool] = True
    requires: ClassVar[tuple[str, ...]] = ("prototype", "fingerprint")

    by: Literal["framework", "prototype"] = Field(
        default="framework", description="whether the decoration with elements counts (prototype) or not"
    )
    min_distance: float = Field(
        default=0.1,
        ge=0,
        description="fingerprint distance within which an unknown label may be a distortion of a known one",
    )
    reference: str | None = Field(
        default=None, description="policy or .npz index whose structures are known; none: the bundled ones"
    )

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

    def shaping(self) -> Identity:
        """The value is the score."""
        return Identity()

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Measure N structures; ``Invalid`` where prototype or fingerprint cannot be told."""
        if self._references is None:
            self.load()
        return [
            self._measure(structure, prototype, fingerprint)
            for structure, prototype, fingerprint in zip(
                structures, prototypes(structures), fingerprints(structures), strict=True
            )
        ]

    def _measure(
        self, structure: Structure, prototype: Prototype | Invalid, fingerprint: Fingerprint | None
    ) -> Result:
        if isinstance(prototype, Invalid):
            return prototype
        if fingerprint is None:
            return Invalid("the cell is a needle or a sheet: its neighbours cannot be listed")
        assert self._references is not None
        if self.by == "prototype":
            label, count = prototype.merged_label, self._references.prototype_count
        else:
            label, count = prototype.framework_label, self._references.framework_count
        known = count(structure, prototype, fingerprint, self.min_distance)
        if known == 0:
            (crystal,) = Validity().measure([structure])
            if isinstance(crystal, Invalid):
                return crystal
        return Measurement(1.0 / (1.0 + known), details={self.by: label, f"references_of_{self.by}": known})
