"""The ``hhi`` reward: how concentrated the supply of the elements is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from materium_rl.rewards.base import Failure, Invalid, Measurement, Result
from materium_rl.rewards.catalogue.targeted import TargetedReward
from materium_rl.rewards.shaping import Shaping, SoftDecay

if TYPE_CHECKING:
    from pymatgen.core import Structure


class HHI(TargetedReward):
    """Herfindahl-Hirschman index of the elements, averaged by mass; 0 to 10,000.

    The index of an element is the sum of the squared market shares, in percent, of the countries that
    produce it (or hold its reserves), from data of about 2011. Without a target, low is good: 1 up to
    1,500, 1/2 at 2,500, the bounds between which the U.S. Department of Justice calls a market moderately
    concentrated (Horizontal Merger Guidelines, 2010).

    It depends on the composition alone. An element that the table lacks (H, Ne, Ar, Kr, Tc, Xe, and
    everything from polonium on) is a failure.
    """

    name: ClassVar[str] = "hhi"
    prompted_by: ClassVar[tuple[str, ...]] = ("hhi",)
    citation: ClassVar[str] = "Gaultois et al., Chem. Mater. 25, 2911 (2013), as tabulated in pymatgen"
    untargeted: ClassVar[Shaping] = SoftDecay(full=1500.0, half=2500.0)

    target: float | None = Field(default=None, ge=0, le=10_000, description="wanted index; none: low is good")
    width: float = Field(
        default=500.0, gt=0, description="distance from the target at which the score is 1/2"
    )
    kind: Literal["production", "reserve"] = Field(
        default="production", description="concentration of the production or of the reserves"
    )

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Indices of N structures; oxidation states are ignored."""
        return [self._index(structure) for structure in structures]

    def _index(self, structure: Structure) -> Result:
        from pymatgen.analysis.hhi import HHIModel

        if len(structure) == 0:
            return Invalid("the structure has no sites")
        table = HHIModel().symbol_hhip_hhir  # type: ignore[no-untyped-call]  # a singleton: read once
        symbols = {getattr(specie, "symbol", str(specie)) for specie in structure.composition}
        unknown = symbols - table.keys()
        if unknown:
            return Failure(f"no market data for {', '.join(sorted(unknown))}")
        composition = structure.composition.element_composition
        column = ("production", "reserve").index(self.kind)
        weights = {element.symbol: composition.get_wt_fraction(element) for element in composition}
        return Measurement(float(sum(table[symbol][column] * share for symbol, share in weights.items())))
