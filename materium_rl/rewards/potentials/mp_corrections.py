"""From plain PBE(+U) energies to those that the hull is made of.

The Materials Project adds to its energies what makes oxides, sulfides, halides and mixed PBE and PBE+U
calculations comparable (MP2020: Wang et al., Sci. Rep. 11, 15496, 2021). A potential that was trained on its
plain energies needs the same. pymatgen applies the scheme to entries that say how they were computed; here
that is what the Materials Project would have chosen: a Hubbard U on V, Cr, Mn, Fe, Co, Ni, Mo and W where
oxygen or fluorine is the most electronegative element.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pymatgen.core import Structure


def mp2020_correction(structure: Structure) -> float:
    """What MP2020 adds to the PBE(+U) energy of a structure, in eV/atom.

    Args:
        structure: Any cell; oxidation states are ignored. Its distances tell oxides from peroxides.

    Raises:
        CompatibilityError: pymatgen's scheme does not cover it.
    """
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    scheme = _scheme()
    plain = structure.copy()
    plain.remove_oxidation_states()
    elements = sorted(plain.composition.elements, key=lambda element: element.X)
    u_of_anion = scheme.u_settings.get(elements[-1].symbol, {})
    hubbards = {e.symbol: u_of_anion[e.symbol] for e in elements if u_of_anion.get(e.symbol)}
    entry = ComputedStructureEntry(
        plain,
        0.0,
        parameters={
            "run_type": "GGA+U" if hubbards else "GGA",
            "hubbards": hubbards,
            "software": "potential",
        },
        data={"oxidation_states": _oxidation_states(plain.composition.reduced_formula)},
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # "failed to guess oxidation states": its rule for that is the one wanted
        adjustments = scheme.get_adjustments(entry)
    return float(sum(adjustment.value for adjustment in adjustments)) / len(plain)


@lru_cache(maxsize=1)
def _scheme() -> Any:
    from pymatgen.entries.compatibility import MaterialsProject2020Compatibility

    return MaterialsProject2020Compatibility(check_potcar=False)


@lru_cache(maxsize=20_000)
def _oxidation_states(formula: str) -> dict[str, float]:
    """Pymatgen's likeliest oxidation states, as its scheme would guess them; empty if there are none."""
    from pymatgen.core import Composition

    try:
        guesses = Composition(formula).oxi_state_guesses(max_sites=-20)
    except ValueError:  # too many sites
        return {}
    return dict(guesses[0]) if guesses else {}
