"""Ids of tokens: their classes, their ranges, and the numbers that they stand for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

PROMPT_LENGTH = 2
"""``[SOS] [ATOMS]``."""
CELL_NUMBERS = 6


class TokenClass(IntEnum):
    """Classes of tokens, in the order of their id ranges."""

    PAD = 0
    SOS = 1
    ATOMS = 2
    LATTICE = 3
    EOS = 4
    SPECIES = 5
    COORDINATE = 6
    LENGTH = 7
    ANGLE = 8


@dataclass(frozen=True)
class TokenLayout:
    """Sizes of the id ranges, the numbers that their tokens stand for, and what species allow.

    Args:
        species_rank: Place of each species token in the site order; equal where any order goes.
        species_element: Symbol of the element of each species token.
        radii: Covalent radius of each species token in Å.
        grid: Points of the periodic coordinate grid.
        length_min: Smallest length token in Å.
        length_step: Step of the length tokens in Å.
        n_lengths: Number of length tokens.
        angle_min: Smallest angle token in degrees.
        angle_step: Step of the angle tokens in degrees.
        n_angles: Number of angle tokens.
        max_sites: Largest number of sites.
        min_distance: Least distance of two sites over the sum of their covalent radii; 0 for no limit.
    """

    species_rank: tuple[int, ...]
    species_element: tuple[str, ...]
    radii: tuple[float, ...]
    grid: int
    length_min: float
    length_step: float
    n_lengths: int
    angle_min: float
    angle_step: float
    n_angles: int
    max_sites: int
    min_distance: float

    @property
    def n_species(self) -> int:
        """Number of species tokens."""
        return len(self.species_rank)

    @property
    def species_start(self) -> int:
        """Id of the first species token."""
        return int(TokenClass.SPECIES)

    @property
    def coordinate_start(self) -> int:
        """Id of coordinate 0."""
        return self.species_start + self.n_species

    @property
    def length_start(self) -> int:
        """Id of the smallest length."""
        return self.coordinate_start + self.grid

    @property
    def angle_start(self) -> int:
        """Id of the smallest angle."""
        return self.length_start + self.n_lengths

    @property
    def vocab_size(self) -> int:
        """Number of token ids V."""
        return self.angle_start + self.n_angles

    @property
    def max_completion_length(self) -> int:
        """Tokens after the prompt ``[SOS] [ATOMS]`` at the largest number of sites."""
        return 4 * self.max_sites + 2 + CELL_NUMBERS
