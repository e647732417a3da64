"""Groups of elements that rewards, guards and evaluation name alike."""

from __future__ import annotations

RARE_EARTHS = frozenset(
    {"Sc", "Y", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu"}
)
"""Scandium, yttrium and the lanthanides: the commonest way to a new formula without a new crystal."""

ANION_FORMERS = frozenset({"N", "O", "F", "S", "Cl", "Se", "Br", "Te", "I"})
"""Elements that make a compound of what would else be an intermetallic."""
