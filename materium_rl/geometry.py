"""Which lengths and angles make a cell, of a volume if need be, and where the atoms keep apart."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from materium_rl.token_layout import CELL_NUMBERS, PROMPT_LENGTH, TokenLayout

MIN_VOLUME_FACTOR = 0.05
"""Smallest sqrt(1 - cos² α - cos² β - cos² γ + 2 cos α cos β cos γ) of a cell that may be written."""
REDUCED_VOLUME_FACTOR = 0.5
"""A bound below that of reduced cells, 1/sqrt 2: lengths that ask for less do not fit a volume."""
Y_LINES = 48
"""Values of y at which free places are looked for."""
Z_BIN = 8
"""Grid points of z that are looked at together then."""
ROWS_AT_ONCE = 64
"""Sequences whose lines are looked at together: about 100 MB."""
# Cell translations within the a-b plane; the images along c are on the circle of z.
_PLANE_SHIFTS = tuple(product((-1.0, 0.0, 1.0), repeat=2))


def _squared(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Squared volume over that of a cuboid, from the cosines of the angles."""
    return 1 - a**2 - b**2 - c**2 + 2 * a * b * c


class Geometry:
    """Cells and distances of the sequences of one token layout."""

    def __init__(self, layout: TokenLayout) -> None:
        self.layout = layout
        self.radius = torch.zeros(layout.vocab_size, dtype=torch.float64)
        self.radius[layout.species_start : layout.coordinate_start] = torch.tensor(
            layout.radii, dtype=torch.float64
        )
        angles = layout.angle_min + layout.angle_step * torch.arange(layout.n_angles, dtype=torch.float64)
        self.cosines = torch.cos(torch.deg2rad(angles))
        steps = torch.arange(layout.n_lengths, dtype=torch.float64)
        self.lengths = layout.length_min + layout.length_step * steps
        self.plane_shifts = torch.tensor(_PLANE_SHIFTS, dtype=torch.float64)

    def to(self, device: torch.device) -> Geometry:
        """Move the tables to ``device``."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def long_enough(self, ids: Tensor) -> Tensor:
        """Lengths that keep each atom of (R, T) sequences from its own image: bool (R, n_lengths)."""
        apart = 2 * self.layout.min_distance * self.radius[ids].max(dim=1).values
        return self.lengths[None] >= apart[:, None]

    def closing_angles(self, before: Tensor) -> Tensor:
        """Last angles that give a cell of positive volume: offsets (R, 2) -> bool (R, n_angles)."""
        return self._squared_factor(before) >= MIN_VOLUME_FACTOR**2

    def fitting_lengths(self, ids: Tensor, positions: Tensor, lattice: Tensor, volumes: Tensor) -> Tensor:
        """Lengths with which a cell can still come to a volume, of those that are ``long_enough``.

        Should there be none, as for a density that the least distances rule out, all of those.

        Args:
            ids: Sequences (R, T).
            positions: Index of the token that is followed by a length, (R,).
            lattice: Index of ``[LATTICE]``, (R,).
            volumes: Smallest and largest volume in Å3, (R, 2).

        Returns:
            bool (R, n_lengths).
        """
        enough = self.long_enough(ids)
        shortest = self.lengths[enough.long().argmax(dim=1)]
        area, written = self._product(ids, lattice, positions)
        after = 2 - written
        smallest, largest = volumes.T
        low = smallest / (area * self.lengths[-1] ** after)
        high = largest / (area * REDUCED_VOLUME_FACTOR * shortest**after)
        fits = enough & (self.lengths >= low[:, None]) & (self.lengths <= high[:, None])
        return torch.where(fits.any(dim=1, keepdim=True), fits, enough)

    def fitting_angles(self, ids: Tensor, positions: Tensor, lattice: Tensor, volumes: Tensor) -> Tensor:
        """Angles with which the cell can still come to a volume; all if there are none: bool (R, n_angles).

        The square of the volume over that of a cuboid is concave in each cosine: its least value is at
        angles that are the smallest or largest, its greatest, given some of the cosines, at (0, 0) or at
        the product of the two others. Between the two it takes every value.
        """
        product, _ = self._product(ids, lattice, lattice + 3)
        squared = (volumes / product[:, None]) ** 2
        written = positions - lattice - 3
        fits = torch.ones((len(ids), len(self.cosines)), dtype=torch.bool, device=ids.device)
        for k in range(3):
            rows = (written == k).nonzero()[:, 0]
            if len(rows) == 0:
                continue
            columns = (lattice[rows] + 4)[:, None] + torch.arange(k, device=ids.device)
            offsets = ids[rows].gather(1, columns) - self.layout.angle_start
            least, greatest = self._reach(offsets)
            fits[rows] = (greatest >= squared[rows, :1]) & (least <= squared[rows, 1:])
        return fits | ~fits.any(dim=1, keepdim=True)

    def _reach(self, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest squared factor after k angles (R, k) and each next one: (R, n_angles) both."""
        if offsets.shape[1] == 2:
            squared = self._squared_factor(offsets)
            return squared, squared
        ends = [0, len(self.cosines) - 1]
        sine = 1 - self.cosines**2
        if offsets.shape[1] == 1:
            before = self.cosines[offsets]
            greatest = (1 - before**2) * sine
            others = self.cosines[ends]
            least = _squared(before[..., None], self.cosines[:, None], others).amin(dim=2)
            return least, greatest
        others = self.cosines[ends]
        least = _squared(self.cosines[:, None, None], others[:, None], others).amin(dim=(1, 2))
        return least.expand(len(offsets), -1), sine.expand(len(offsets), -1)

    def _squared_factor(self, before: Tensor) -> Tensor:
        """Squared volume over that of a cuboid for each last angle: offsets (R, 2) -> (R, n_angles)."""
        return _squared(self.cosines[before[:, :1]], self.cosines[before[:, 1:]], self.cosines[None, :])

    def _product(self, ids: Tensor, lattice: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Product in Å, Å2 or Å3 of the lengths written up to ``positions``, and how many those are: (R,)."""
        steps = torch.arange(1, 4, device=ids.device)
        columns = (lattice[:, None] + steps).clamp(max=ids.shape[1] - 1)
        written = steps <= (positions - lattice)[:, None]
        offsets = torch.where(written, ids.gather(1, columns) - self.layout.length_start, 0)
        lengths = torch.where(written, self.lengths[offsets], 1.0)
        return lengths.prod(dim=1), written.sum(dim=1)

    def free_z(self, ids: Tensor, positions: Tensor, lattice: Tensor) -> Tensor:
        """Grid points of z at which a site keeps its distance from all before it: -> bool (R, grid)."""
        grid = self.layout.grid
        xy = ids.gather(1, positions[:, None] - torch.tensor([[1, 0]], device=ids.device))
        lines = (xy - self.layout.coordinate_start).double()[:, None] / grid
        free = ~self.closed(ids, positions, lattice, lines, slack=None, bins=grid)[:, 0]
        return free | ~free.any(dim=1, keepdim=True)

    def free_y(self, ids: Tensor, positions: Tensor, lattice: Tensor) -> Tensor:
        """Grid points of y that leave the site a place on the line along z: -> bool (R, grid).

        Looked at on ``Y_LINES`` lines, each for the points next to it: the distance that has to be kept
        is shortened by how far those are, so that no y is closed off that has a free z.
        """
        grid, rows = self.layout.grid, len(ids)
        x = (ids.gather(1, positions[:, None]) - self.layout.coordinate_start).double() / grid
        y = torch.arange(Y_LINES, dtype=torch.float64, device=ids.device) / Y_LINES
        lines = torch.stack([x.expand(rows, Y_LINES), y.expand(rows, Y_LINES)], dim=2)
        b = self.lengths[ids.gather(1, lattice[:, None] + 2) - self.layout.length_start]
        bins = grid // Z_BIN
        free = torch.cat(
            [
                ~self.closed(*part, slack=part_b / (2 * Y_LINES), bins=bins).all(dim=2)
                for *part, part_b in zip(
                    *(value.split(ROWS_AT_ONCE) for value in (ids, positions, lattice, lines, b)), strict=True
                )
            ]
        )
        nearest = torch.round(torch.arange(grid, device=ids.device) * (Y_LINES / grid)).long() % Y_LINES
        free = free[:, nearest]
        return free | ~free.any(dim=1, keepdim=True)

    def closed(
        self,
        ids: Tensor,
        positions: Tensor,
        lattice: Tensor,
        lines: Tensor,
        *,
        slack: Tensor | None,
        bins: int,
    ) -> Tensor:
        """Parts of lines along z that are too near to an earlier site.

        For each earlier site and each translation in the a-b plane that is an interval on the circle of z.

        Args:
            ids: Sequences (R, T).
            positions: Index of a coordinate of the site that is written, (R,).
            lattice: Index of ``[LATTICE]``, (R,).
            lines: x and y of K lines, (R, K, 2).
            slack: Å that the least distance is shortened by, (R, 1).
            bins: Parts of a line, dividing the grid.

        Returns:
            Whether the whole of each part is closed, bool (R, K, bins).
        """
        rows, k, grid = len(ids), lines.shape[1], self.layout.grid
        site = (positions - lattice - CELL_NUMBERS) // 3
        most = max(int(site.max()), 1) if rows else 1
        columns = (lattice + CELL_NUMBERS + 1)[:, None] + torch.arange(3 * most, device=ids.device)[None]
        earlier = torch.arange(most, device=ids.device)[None] < site[:, None]
        others = ids.gather(1, columns.clamp(max=ids.shape[1] - 1)).view(rows, most, 3)
        others = (others - self.layout.coordinate_start).double() / grid
        own = self.radius[ids.gather(1, PROMPT_LENGTH + site[:, None])]
        species = ids[:, PROMPT_LENGTH : PROMPT_LENGTH + most]
        apart = self.layout.min_distance * (self.radius[species] + own)
        if slack is not None:
            apart = (apart - slack).clamp(min=0)
        cell = ids.gather(1, lattice[:, None] + torch.arange(1, 1 + CELL_NUMBERS, device=ids.device))
        a, b, c = (self.lengths[cell[:, i] - self.layout.length_start][:, None, None, None] for i in range(3))
        alpha, beta, gamma = (
            self.cosines[cell[:, i] - self.layout.angle_start][:, None, None, None] for i in range(3, 6)
        )
        offset = lines[:, :, None] - others[:, None, :, :2]
        u = (offset - offset.round())[:, :, :, None] + self.plane_shifts  # (R, K, J, 9, 2), parts of a and b
        ua, ub = u[..., 0] * a, u[..., 1] * b
        along = ua * beta + ub * alpha  # component along c, Å
        half = apart[:, None, :, None] ** 2 - (ua**2 + ub**2 + 2 * ua * ub * gamma) + along**2
        row, line, other, shift = ((half > 0) & earlier[:, None, :, None]).nonzero(as_tuple=True)
        length = c[row, 0, 0, 0]
        reach = half[row, line, other, shift].sqrt() / length
        centre = others[row, other, 2] - along[row, line, other, shift] / length
        low = torch.floor((centre - reach) * grid).long() + 1  # grid points within the interval: low..high-1
        high = torch.ceil((centre + reach) * grid).long()
        size = grid // bins
        low, high = -(-low // size), high // size
        width = (high - low).clamp(min=0, max=bins)
        low = low % bins
        steps = torch.zeros((rows * k, 2 * bins + 1), dtype=torch.int32, device=ids.device)
        one = torch.ones_like(row, dtype=torch.int32)
        steps.index_put_((row * k + line, low), one, accumulate=True)
        steps.index_put_((row * k + line, low + width), -one, accumulate=True)
        covered = steps.cumsum(dim=1)[:, : 2 * bins] > 0
        return (covered[:, :bins] | covered[:, bins:]).view(rows, k, bins)
