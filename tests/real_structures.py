"""Real crystals for tests: the AFLOW prototypes that pymatgen ships, and textbook cells."""

from __future__ import annotations

from functools import cache

from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY
from pymatgen.core import Lattice, Structure


@cache
def aflow_structures(max_sites: int = 20) -> tuple[Structure, ...]:
    """Ordered AFLOW prototype structures of at most ``max_sites`` sites."""
    structures = (entry["snl"].structure for entry in AFLOW_PROTOTYPE_LIBRARY)
    return tuple(s for s in structures if s.is_ordered and len(s) <= max_sites)


def rock_salt() -> Structure:
    """NaCl, conventional cell."""
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def rutile() -> Structure:
    """TiO2 rutile, space group 136."""
    return Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.3053, 0.3053, 0]]
    )
