"""The ``bulk_modulus`` and ``shear_modulus`` rewards: elastic moduli from MEGNet networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field, PrivateAttr

from materium_rl.rewards.base import Failure, Measurement, Result
from materium_rl.rewards.catalogue.targeted import TargetedReward
from materium_rl.rewards.shaping import Shaping, SoftStep

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from materium_rl.rewards.megnet_ensemble import MEGNetEnsemble

LOG10_RANGE = (-1.0, 3.0)
"""log10(GPa); diamond has 2.65 and 2.73, molecular crystals about 0."""


class _Modulus(TargetedReward):
    """What both moduli share; ``name`` is also the name of the network."""

    unit: ClassVar[str] = "GPa"
    citation: ClassVar[str] = (
        "Model: Chen, Ye, Zuo, Zheng and Ong, Chem. Mater. 31, 3564 (2019). Data: de Jong et al., "
        "Sci. Data 2, 150009 (2015)."
    )

    _ensemble: MEGNetEnsemble | None = PrivateAttr(default=None)

    def load(self) -> None:
        """Read the bundled network."""
        from materium_rl.rewards.megnet_ensemble import MEGNetEnsemble

        self._ensemble = MEGNetEnsemble("moduli", [self.name])

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Moduli in GPa of N structures; oxidation states are ignored."""
        if self._ensemble is None:
            self.load()
        assert self._ensemble is not None
        (fidelity,) = self._ensemble.config.fidelities
        predictions = self._ensemble.measure(structures, fidelity)
        return [_result(item) if isinstance(item, np.ndarray) else item for item in predictions]


class BulkModulus(_Modulus):
    """Bulk modulus in GPa (Voigt-Reuss-Hill average) from a graph network that predicts its logarithm.

    Without a target, high is good: the score rises linearly to 1 at 400 GPa (diamond: 440).

    The network learned from relaxed crystals, so a squeezed cell looks stiff: keep the stability gate on.
    A site without a neighbour within 4 Å (bulky cations, molecules), an element that the network was not
    trained on (noble gases but Kr, Po, At, Fr, Ra and beyond Pu) and a disordered site are failures.
    Overlapping sites and cells of impossible density are invalid.
    """

    name: ClassVar[str] = "bulk_modulus"
    prompted_by: ClassVar[tuple[str, ...]] = ("bulk_modulus",)
    untargeted: ClassVar[Shaping] = SoftStep(full=400.0, zero=0.0)

    target: float | None = Field(
        default=None, gt=0, description="wanted bulk modulus, GPa; none: high is good"
    )
    width: float = Field(
        default=20.0, gt=0, description="distance from the target at which the score is 1/2, GPa"
    )


class ShearModulus(_Modulus):
    """Shear modulus in GPa (Voigt-Reuss-Hill average) from a graph network that predicts its logarithm.

    Without a target, high is good: the score rises linearly to 1 at 250 GPa (diamond: 530, SiC: 190).
    What cannot be measured is the same as for ``bulk_modulus``.
    """

    name: ClassVar[str] = "shear_modulus"
    untargeted: ClassVar[Shaping] = SoftStep(full=250.0, zero=0.0)

    target: float | None = Field(
        default=None, gt=0, description="wanted shear modulus, GPa; none: high is good"
    )
    width: float = Field(
        default=15.0, gt=0, description="distance from the target at which the score is 1/2, GPa"
    )


def _result(prediction: np.ndarray) -> Result:
    """The outcome from log10 of a modulus in GPa, shape (1,)."""
    logarithm = float(prediction[0])
    low, high = LOG10_RANGE
    if not low <= logarithm <= high:
        return Failure(f"the network returned 10^{logarithm:.4g} GPa, outside 10^{low:g} to 10^{high:g}")
    return Measurement(10**logarithm)
