"""Read, write, reduce and compare crystal structures."""

from __future__ import annotations

from pymatgen.core import Structure


def strip_oxidation_states(structure: Structure) -> Structure:
    """Return a copy whose species are plain elements (no oxidation states, no site properties)."""
    return Structure(
        structure.lattice,
        [site.specie.symbol if hasattr(site.specie, "symbol") else str(site.specie) for site in structure],
        structure.frac_coords,
    )


def to_primitive_niggli(structure: Structure, *, tolerance: float = 0.05) -> Structure:
    """Return the primitive cell in Niggli setting, fractional coordinates in [0, 1).

    Args:
        structure: Ordered structure.
        tolerance: Site tolerance in Å of the primitive-cell search.
    """
    primitive = structure.get_primitive_structure(tolerance=tolerance)
    reduced = primitive.get_reduced_structure(reduction_algo="niggli")
    return Structure(reduced.lattice, reduced.species, reduced.frac_coords % 1.0)
