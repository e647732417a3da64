"""The novelty ladder: in which sense is a structure new, and against what.

One verdict per structure and reference, from the weakest claim (its formula is not there) to the strongest
(no known framework is like it), each with the nearest known structure, the distance, and why in words. Every
level counts on the one below: what matches a known structure is new at no level above, whatever its label.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from materium_rl.evaluation.known import Reference
from materium_rl.rewards.base import Outcome
from materium_rl.rewards.catalogue.novelty import Tier

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Tolerances of StructureMatcher, see ``structures.structures_match``."""

    ltol: float
    stol: float
    angle_tol: float


TOLERANCES = {
    "strict": Tolerance(0.1, 0.1, 2.0),
    "standard": Tolerance(0.2, 0.3, 5.0),
    "loose": Tolerance(0.3, 0.5, 10.0),
}
"""Standard is that of the whole package; loose is what structure prediction counts as a hit."""

FAR = 0.1
"""Å. AMD distance to the nearest known structure beyond which one counts as far."""


@dataclass(frozen=True, slots=True)
class Level:
    """One rung.

    Args:
        key: Its name in files: the column holds whether a structure is new at it.
        title: Its name in tables.
        text: When a structure is new at it.
        ignores: What the verdict does not depend on.
    """

    key: str
    title: str
    text: str
    ignores: tuple[str, ...]


LEVELS: tuple[Level, ...] = ()
"""new_formula, new_structure_loose, new_structure, new_structure_strict, not_substitution, new_prototype,
new_framework, far; in this order."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A known structure.

    Args:
        material_id: Its id in the reference.
        formula: Its reduced formula.
        amd: AMD distance to it, Å.
        pdd: Earth mover's distance of the PDDs, Å.
    """

    material_id: str
    formula: str
    amd: float
    pdd: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """One structure against one reference.

    Args:
        new: Level key -> whether it is new there; levels that the reference cannot tell are missing.
        tier: The rung in the terms of the ``novelty`` reward; None against formulas alone.
        rare_earth_swap: A substitution in which nothing but rare earths was swapped.
        neighbour: The known structure that explains the verdict: the match, else the nearest of its formula,
            of the same prototype, of the same framework, or of all. None if there is no structure.
        closest: The nearest of all by geometry alone, elements ignored.
        why: The verdict as a sentence.
    """

    new: Mapping[str, bool]
    tier: Tier | None
    rare_earth_swap: bool
    neighbour: Neighbour | None
    closest: Neighbour | None
    why: str


@dataclass(frozen=True, slots=True)
class Rung:
    """One structure against every reference.

    Args:
        outcome: ok, invalid (unreadable or unphysical), or failed (there is nothing to judge, such as a
            relaxation that broke off).
        reason: Why it is not ok.
        formula: Reduced formula.
        prototype: Label, rare earths merged.
        framework: Label, all elements merged.
        duplicate_of: Row of the first structure of this list that is the same (standard tolerances).
        verdicts: Name of the reference -> verdict; empty unless ok.
    """

    outcome: Outcome
    reason: str = ""
    formula: str | None = None
    prototype: str | None = None
    framework: str | None = None
    duplicate_of: int | None = None
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Share:
    """How many structures are new at one level against one reference.

    Args:
        reference: Name of the reference.
        stage: ``as_written`` or ``relaxed``.
        level: Key of the level.
        new: Structures that are new.
        told: Structures with a verdict.
        requested: All, the denominator.
    """

    reference: str
    stage: str
    level: str
    new: int
    told: int
    requested: int

    @property
    def share(self) -> float:
        """New of requested; NaN of nothing."""
        return self.new / self.requested if self.requested else float("nan")


@dataclass(frozen=True, slots=True)
class LadderTable:
    """Verdicts on N structures, as written and, where given, relaxed."""

    references: tuple[Reference, ...]
    as_written: tuple[Rung, ...]
    relaxed: tuple[Rung, ...] | None = None

    def to_frame(self) -> pd.DataFrame:
        """One row per structure.

        Columns: ``outcome``, ``reason``, ``formula``, ``prototype``, ``framework``, ``unique``,
        ``duplicate_of``; for each reference R: ``R.<level>`` (nullable bool, <NA> where it cannot be told),
        ``R.tier``, ``R.rare_earth_swap``, ``R.nearest_id``, ``R.nearest_formula``, ``R.amd``, ``R.pdd``,
        ``R.closest_id``, ``R.closest_formula``, ``R.closest_amd``, ``R.closest_pdd``, ``R.why``; with relaxed
        partners all of these again as ``relaxed.<column>``.
        """
        raise NotImplementedError

    def summary(self) -> list[Share]:
        """Every level of every reference and stage, in the order of the ladder."""
        raise NotImplementedError


class Ladder:
    """Judges structures against named references.

    Args:
        references: In the order of the columns; names differ.
        min_distance: Fingerprint distance within which an unknown prototype may be a distortion of a known
            one, as in the ``novelty`` reward.
    """

    def __init__(self, references: Sequence[Reference], *, min_distance: float = 0.1) -> None:
        raise NotImplementedError

    def climb(
        self,
        structures: Sequence[Structure | None],
        relaxed: Sequence[Structure | None] | None = None,
        *,
        tick: Callable[[], object] | None = None,
    ) -> LadderTable:
        """Judge N structures.

        Args:
            structures: N structures; None for one that could not be read.
            relaxed: Their relaxed partners, None where there is none; or None for no second stage.
            tick: Called once per structure and stage.

        Raises:
            ValueError: ``relaxed`` has another length.
        """
        raise NotImplementedError
