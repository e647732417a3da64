"""Groups of elements that rewards, guards and evaluation name alike, and what a structure holds of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from materium_rl.rewards.base import Failure, Invalid

if TYPE_CHECKING:
    from pymatgen.core import Structure

RARE_EARTHS = frozenset(
    {"Sc", "Y", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu"}
)
"""Scandium, yttrium and the lanthanides: the commonest way to a new formula without a new crystal."""

ANION_FORMERS = frozenset({"N", "O", "F", "S", "Cl", "Se", "Br", "Te", "I"})
"""Elements that make a compound of what would else be an intermetallic."""


def element_amounts(structure: Structure) -> dict[str, int] | Invalid | Failure:
    """Atoms of each element in the cell, oxidation states ignored, isotopes joined."""
    from pymatgen.core import DummySpecies

    if len(structure) == 0:
        return Invalid("the structure has no sites")
    if not structure.is_ordered:
        return Invalid("a site is shared by several species")
    unknown = {str(site.specie) for site in structure if isinstance(site.specie, DummySpecies)}
    if unknown:
        return Failure(f"{', '.join(sorted(unknown))}: not an element")
    amounts: dict[str, int] = {}
    for site in structure:
        amounts[site.specie.symbol] = amounts.get(site.specie.symbol, 0) + 1
    return amounts


def reduced_formula(amounts: dict[str, int]) -> str:
    """Formula of the smallest whole formula unit, as pymatgen writes it."""
    from pymatgen.core import Composition

    return str(Composition(amounts).reduced_formula)
