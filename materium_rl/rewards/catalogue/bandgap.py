"""The ``bandgap`` reward: predicted electronic band gap close to a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from materium_rl.rewards.base import Failure, Measurement, Result, Reward
from materium_rl.rewards.shaping import TargetWindow

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from materium_rl.rewards.megnet_ensemble import MEGNetEnsemble

MEMBERS = {"all": "012345", "reward": "012", "evaluation": "345"}


class BandGap(Reward):
    """Band gap from an ensemble of multi-fidelity graph networks, scored around a target.

    The value is the mean over the ensemble, at least 0; the uncertainty is the standard deviation over
    the ensemble. The default target is the optimum of a single-junction solar cell, 1.34 eV.

    A site without a neighbour within 5 Å, an element that no member was trained on (Ne, Ar, Po, At,
    Rn, Fr, Ra and beyond Pu) and a disordered site are failures: the network has nothing to say.
    Overlapping sites and cells of impossible density are invalid.
    """

    name: ClassVar[str] = "bandgap"
    prompted_by: ClassVar[tuple[str, ...]] = ("band_gap",)
    unit: ClassVar[str] = "eV"
    citation: ClassVar[str] = (
        "Model: Chen, Zuo, Ye, Li and Ong, Nat. Comput. Sci. 1, 46 (2021). Target: Shockley and Queisser, "
        "J. Appl. Phys. 32, 510 (1961); 1.34 eV under AM1.5G: Rühle, Solar Energy 130, 139 (2016)."
    )

    target: float = Field(default=1.34, ge=0, description="Wanted band gap in eV")
    width: float = Field(default=0.3, gt=0, description="Distance from it in eV at which the score is 1/2")
    fidelity: Literal["pbe", "gllb-sc", "hse", "experiment"] = Field(
        default="pbe", description="Kind of band gap that the network imitates"
    )
    members: Literal["all", "reward", "evaluation"] = Field(
        default="reward",
        description="Networks that score: all six, three to train with, or the other three to judge",
    )

    _ensemble: MEGNetEnsemble | None = PrivateAttr(default=None)

    def load(self) -> None:
        """Read the chosen members of the bundled ensemble."""
        from materium_rl.rewards.megnet_ensemble import MEGNetEnsemble

        self._ensemble = MEGNetEnsemble("bandgap", MEMBERS[self.members])

    def shaping(self) -> TargetWindow:
        """A window around the target."""
        return TargetWindow(target=self.target, width=self.width)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Band gaps in eV of N structures; oxidation states are ignored."""
        predictions = self._loaded().measure(structures, self.fidelity)
        return [self._result(item) if isinstance(item, np.ndarray) else item for item in predictions]

    def _loaded(self) -> MEGNetEnsemble:
        if self._ensemble is None:
            self.load()
        assert self._ensemble is not None
        return self._ensemble

    def _result(self, gaps: np.ndarray) -> Result:
        """The outcome from the gaps (members,) of one structure."""
        mean, spread = float(gaps.mean()), float(gaps.std())
        if not math.isfinite(mean):
            return Failure(f"the band-gap network returned {mean}")
        return Measurement(max(0.0, mean), spread, {"band_gap_unclipped": mean})
