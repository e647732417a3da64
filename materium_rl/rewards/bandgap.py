"""The ``bandgap`` reward: predicted electronic band gap close to a target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr

from materium_rl.resources import asset_path
from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.shaping import TargetWindow

if TYPE_CHECKING:
    from pymatgen.core import Structure

    from materium_rl.rewards.megnet import CrystalGraph, MEGNetConfig, MEGNetEnsemble

MEMBERS = {"all": range(6), "reward": range(3), "evaluation": range(3, 6)}
BATCH_SIZE = 64
CLOSEST_CONTACT = 0.5
"""Å; nothing in nature comes closer (H2 has 0.74)."""
HIGHEST_DENSITY = 0.5
"""Sites per Å³; diamond has 0.18."""
MOST_IMAGES = 200_000
"""Periodic images of sites in the search for neighbours; a 20-site cell seldom has 3,000."""
HYDROGEN = ("D", "T")
"""Isotopes that the network treats as hydrogen."""


class BandGap(Reward):
    """Band gap from an ensemble of multi-fidelity graph networks, scored around a target.

    The value is the mean over the ensemble, at least 0; the uncertainty is the standard deviation over
    the ensemble. The default target is the optimum of a single-junction solar cell, 1.34 eV.

    A site without a neighbour within 5 Å, an element that no member was trained on (Ne, Ar, Po, At,
    Rn, Fr, Ra and beyond Pu) and a disordered site are failures: the network has nothing to say.
    Overlapping sites and cells of impossible density are invalid.
    """

    name: ClassVar[str] = "bandgap"
    unit: ClassVar[str] = "eV"
    citation: ClassVar[str] = (
        "Model: Chen, Zuo, Ye, Li and Ong, Nat. Comput. Sci. 1, 46 (2021). Target: Shockley and Queisser, "
        "J. Appl. Phys. 32, 510 (1961); 1.34 eV under AM1.5G: Rühle, Solar Energy 130, 139 (2016)."
    )

    target: float = Field(default=1.34, ge=0, description="Wanted band gap in eV")
    width: float = Field(default=0.3, gt=0, description="Standard deviation of the score around it in eV")
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
        from materium_rl.rewards.megnet import MEGNetEnsemble

        weights, config = asset_path("bandgap/model.safetensors"), asset_path("bandgap/config.json")
        self._ensemble = MEGNetEnsemble(weights, config, MEMBERS[self.members])

    def shaping(self) -> TargetWindow:
        """A Gaussian window around the target."""
        return TargetWindow(target=self.target, width=self.width)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Band gaps in eV of N structures; oxidation states are ignored."""
        from materium_rl.rewards.megnet import CrystalGraph

        ensemble = self._loaded()
        prepared = [prepare(structure, ensemble.config) for structure in structures]
        graphs = [item for item in prepared if isinstance(item, CrystalGraph)]
        batches = (graphs[i : i + BATCH_SIZE] for i in range(0, len(graphs), BATCH_SIZE))
        measured = (result for batch in batches for result in self._predict(ensemble, batch))
        return [next(measured) if isinstance(item, CrystalGraph) else item for item in prepared]

    def _loaded(self) -> MEGNetEnsemble:
        if self._ensemble is None:
            self.load()
        assert self._ensemble is not None
        return self._ensemble

    def _predict(self, ensemble: MEGNetEnsemble, graphs: Sequence[CrystalGraph]) -> list[Result]:
        gaps = ensemble.predict(graphs, self.fidelity)  # (members, G)
        results: list[Result] = []
        for mean, spread in zip(gaps.mean(axis=0).tolist(), gaps.std(axis=0).tolist(), strict=True):
            if math.isfinite(mean):
                results.append(Measurement(max(0.0, mean), spread, {"band_gap_unclipped": mean}))
            else:
                results.append(Failure(f"the band-gap network returned {mean}"))
        return results


def prepare(structure: Structure, config: MEGNetConfig) -> CrystalGraph | Invalid | Failure:
    """Build the graph of one structure, or say why it has none."""
    from materium_rl.rewards.megnet import crystal_graph

    problem = _unphysical_cell(structure, config.cutoff) or _unknown_species(structure, config)
    if problem is not None:
        return problem
    graph = crystal_graph(structure, config.cutoff)
    if len(graph.distances) and graph.distances.min() < CLOSEST_CONTACT:
        return Invalid(f"two sites are {graph.distances.min():.2f} Å apart; the limit is {CLOSEST_CONTACT} Å")
    isolated = np.setdiff1d(np.arange(len(structure)), graph.source)
    if len(isolated):
        site = structure[int(isolated[0])]
        return Failure(f"{site.specie} at site {isolated[0]} has no neighbour within {config.cutoff:g} Å")
    return graph


def _unphysical_cell(structure: Structure, cutoff: float) -> Invalid | None:
    """Refuse cells whose neighbour list is meaningless or would not end."""
    matrix, sites = structure.lattice.matrix, len(structure)
    if not (np.isfinite(matrix).all() and np.isfinite(structure.frac_coords).all()):
        return Invalid("a lattice vector or coordinate is not finite")
    if sites == 0:
        return Invalid("the structure has no sites")
    if sites > HIGHEST_DENSITY * structure.volume:
        return Invalid(f"{sites} sites in {structure.volume:.3g} Å³; the limit is {HIGHEST_DENSITY} per Å³")
    heights = 1.0 / np.linalg.norm(np.linalg.inv(matrix), axis=0)
    images = sites * float(np.prod(2 * np.ceil(cutoff / heights) + 1))
    if images > MOST_IMAGES:
        return Invalid(f"a cell only {heights.min():.2g} Å thick has {images:.0f} periodic images to look at")
    return None


def _unknown_species(structure: Structure, config: MEGNetConfig) -> Failure | None:
    if not structure.is_ordered:
        return Failure("the band-gap network knows ordered structures only; this one has mixed sites")
    for specie in structure.composition:
        symbol = getattr(specie, "symbol", str(specie))
        if symbol not in config.trained_elements and symbol not in HYDROGEN:
            return Failure(f"the band-gap network was not trained on {symbol}")
    return None
