"""The novelty ladder: in which sense is a structure new, and against what.

One verdict per structure and reference, from the weakest claim (its formula is not there) to the strongest
(no known framework is like it), each with the nearest known structure, the distance, and why in words. From
``new_structure`` on every level counts on the one below: what matches a known structure is new at no level
above, whatever its label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from materium_rl.errors import ConfigError
from materium_rl.evaluation.known import Reference
from materium_rl.evaluation.verdict import LEVELS, Level, Neighbour, Subject, Verdict, judge
from materium_rl.rewards.base import Invalid, Outcome
from materium_rl.rewards.catalogue.novelty import OVERLAP, Tier
from materium_rl.rewards.fingerprint import Fingerprint, fingerprints, shortest_distance
from materium_rl.rewards.prototypes import Prototype, prototypes
from materium_rl.rewards.references import SAME_FINGERPRINT
from materium_rl.structures import cells_match

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

__all__ = ["LEVELS", "Ladder", "LadderTable", "Level", "Neighbour", "Reference", "Rung", "Share", "Verdict"]

AS_WRITTEN, RELAXED = "as_written", "relaxed"
RARE_EARTH_SWAP = "rare_earth_swap"


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
        duplicate_of: Row of the first structure of the list that is the same (standard tolerances).
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
    """How many structures are new at one level against one reference, or stand on one tier.

    Args:
        reference: Name of the reference.
        stage: ``as_written`` or ``relaxed``.
        level: Key of the level, or of the tier.
        count: Structures of which it holds.
        told: Structures of which it can be told.
        requested: All, the denominator.
    """

    reference: str
    stage: str
    level: str
    count: int
    told: int
    requested: int

    @property
    def share(self) -> float:
        """Count of requested; NaN of nothing."""
        return self.count / self.requested if self.requested else float("nan")


@dataclass(frozen=True, slots=True)
class LadderTable:
    """Verdicts on N structures, as written and, where given, relaxed."""

    references: tuple[Reference, ...]
    as_written: tuple[Rung, ...]
    relaxed: tuple[Rung, ...] | None = None

    def stages(self) -> Iterator[tuple[str, tuple[Rung, ...]]]:
        """Name of the stage and its N rungs."""
        yield AS_WRITTEN, self.as_written
        if self.relaxed is not None:
            yield RELAXED, self.relaxed

    def to_frame(self) -> pd.DataFrame:
        """One row per structure.

        Columns: ``outcome``, ``reason``, ``formula``, ``prototype``, ``framework``, ``unique``,
        ``duplicate_of``; for each reference R: ``R.<level>`` (nullable bool, <NA> where it cannot be told),
        ``R.tier``, ``R.rare_earth_swap``, ``R.nearest_id``, ``R.nearest_formula``, ``R.amd``, ``R.pdd``,
        ``R.closest_id``, ``R.closest_formula``, ``R.closest_amd``, ``R.closest_pdd``, ``R.why``; with relaxed
        partners all of these again as ``relaxed.<column>``.
        """
        import pandas as pd

        columns: dict[str, Any] = {}
        for stage, rungs in self.stages():
            prefix = "" if stage == AS_WRITTEN else f"{stage}."
            for name, (values, kind) in _columns(rungs, self.references).items():
                columns[prefix + name] = pd.array(values, dtype=kind)
        return pd.DataFrame(columns)

    def summary(self) -> list[Share]:
        """Every level that each reference can tell, for each stage, in the order of the ladder."""
        return [
            _share(reference, stage, level.key, rungs, lambda verdict, key=level.key: verdict.new.get(key))
            for stage, rungs in self.stages()
            for reference in self.references
            for level in LEVELS
            if not reference.formulas_only or level.key == "new_formula"
        ]

    def tiers(self) -> list[Share]:
        """How many stand on each tier, and how many of the substitutions swap rare earths alone."""
        shares = []
        for stage, rungs in self.stages():
            for reference in self.references:
                if reference.formulas_only:
                    continue
                for tier in Tier:
                    shares.append(
                        _share(reference, stage, tier, rungs, lambda verdict, tier=tier: verdict.tier is tier)
                    )
                shares.append(
                    _share(reference, stage, RARE_EARTH_SWAP, rungs, lambda verdict: verdict.rare_earth_swap)
                )
        return shares


class Ladder:
    """Judges structures against named references.

    Args:
        references: In the order of the columns.
        min_distance: Fingerprint distance within which an unknown prototype may be a distortion of a known
            one, as in the ``novelty`` reward.

    Raises:
        ConfigError: Two references have one name.
    """

    def __init__(self, references: Sequence[Reference], *, min_distance: float = 0.1) -> None:
        names = [reference.name for reference in references]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"two references are named {twice[0]!r}; give each a name of its own")
        self.references, self.min_distance = tuple(references), min_distance

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
        if relaxed is not None and len(relaxed) != len(structures):
            raise ValueError(f"{len(structures)} structures but {len(relaxed)} relaxed ones")
        unread = Rung(Outcome.INVALID, "could not be read")
        rungs = self._stage(structures, unread, tick)
        if relaxed is None:
            return LadderTable(self.references, rungs)
        unrelaxed = Rung(Outcome.FAILED, "there is no relaxed structure")
        return LadderTable(self.references, rungs, self._stage(relaxed, unrelaxed, tick))

    def _stage(
        self, structures: Sequence[Structure | None], missing: Rung, tick: Callable[[], object] | None
    ) -> tuple[Rung, ...]:
        present = [structure for structure in structures if structure is not None]
        labels = iter(zip(present, prototypes(present), fingerprints(present), strict=True))
        firsts: dict[str, list[tuple[int, Subject]]] = {}
        rungs = []
        for row, structure in enumerate(structures):
            subject = missing if structure is None else _subject(*next(labels))
            if isinstance(subject, Subject):
                rungs.append(self._rung(subject, _duplicate_of(row, subject, firsts)))
            else:
                rungs.append(subject)
            if tick is not None:
                tick()
        return tuple(rungs)

    def _rung(self, subject: Subject, duplicate_of: int | None) -> Rung:
        verdicts = {r.name: judge(subject, r, self.min_distance) for r in self.references}
        found = subject.prototype
        labels = found.formula, found.merged_label, found.framework_label
        return Rung(Outcome.OK, "", *labels, duplicate_of, verdicts)


def _subject(
    structure: Structure, prototype: Prototype | Invalid, fingerprint: Fingerprint | None
) -> Subject | Rung:
    """What can be judged, or why it cannot, as the ``novelty`` reward sees it."""
    if isinstance(prototype, Invalid):
        return Rung(Outcome.INVALID, prototype.reason)
    if fingerprint is None:
        return Rung(Outcome.INVALID, "the cell is a needle or a sheet: its neighbours cannot be listed")
    shortest = shortest_distance(structure.lattice.matrix, structure.frac_coords)
    if shortest < OVERLAP:
        return Rung(Outcome.INVALID, f"two sites are {shortest:.2f} Å apart; the limit is {OVERLAP} Å")
    try:
        return Subject.of(structure, prototype, fingerprint)
    except ValueError as error:
        return Rung(Outcome.INVALID, str(error))


def _duplicate_of(row: int, subject: Subject, firsts: dict[str, list[tuple[int, Subject]]]) -> int | None:
    """Row of the first structure that is the same; None, and it is remembered, if there is none."""
    known = firsts.setdefault(subject.prototype.formula, [])
    for other, first in known:
        same_label = first.prototype.label == subject.prototype.label
        if same_label and np.abs(first.fingerprint - subject.fingerprint).max() < SAME_FINGERPRINT:
            return other
        if cells_match(first.cell, subject.cell):
            return other
    known.append((row, subject))
    return None


def _share(
    reference: Reference,
    stage: str,
    level: str,
    rungs: Sequence[Rung],
    holds: Callable[[Verdict], bool | None],
) -> Share:
    verdicts = [rung.verdicts[reference.name] for rung in rungs if reference.name in rung.verdicts]
    count = sum(holds(verdict) is True for verdict in verdicts)
    return Share(reference.name, stage, level, count, len(verdicts), len(rungs))


def _columns(rungs: Sequence[Rung], references: Sequence[Reference]) -> dict[str, tuple[list[Any], str]]:
    """Name of a column -> its values and pandas type."""
    told = [rung.outcome is Outcome.OK for rung in rungs]
    columns: dict[str, tuple[list[Any], str]] = {
        "outcome": ([rung.outcome.value for rung in rungs], "str"),
        **{name: ([getattr(rung, name) for rung in rungs], "str") for name in ("reason", "formula")},
        **{name: ([getattr(rung, name) for rung in rungs], "str") for name in ("prototype", "framework")},
        "unique": (
            [rung.duplicate_of is None if ok else None for rung, ok in zip(rungs, told, strict=True)],
            "boolean",
        ),
        "duplicate_of": ([rung.duplicate_of for rung in rungs], "Int64"),
    }
    for reference in references:
        verdicts = [rung.verdicts.get(reference.name) for rung in rungs]
        found = _verdict_columns(verdicts, reference.formulas_only)
        columns |= {f"{reference.name}.{name}": column for name, column in found.items()}
    return columns


def _verdict_columns(
    verdicts: Sequence[Verdict | None], formulas_only: bool
) -> dict[str, tuple[list[Any], str]]:
    def each(value: Callable[[Verdict], Any]) -> list[Any]:
        return [None if verdict is None else value(verdict) for verdict in verdicts]

    columns: dict[str, tuple[list[Any], str]] = {}
    if formulas_only:
        columns["new_formula"] = each(lambda v: v.new["new_formula"]), "boolean"
    else:
        for level in LEVELS:
            columns[level.key] = each(lambda v, key=level.key: v.new[key]), "boolean"
        columns["tier"] = each(lambda v: v.tier.value), "str"
        columns[RARE_EARTH_SWAP] = each(lambda v: v.rare_earth_swap), "boolean"
        for which, names in _NEIGHBOURS.items():
            for attribute, (name, kind) in names.items():
                columns[name] = (
                    each(lambda v, w=which, a=attribute: getattr(getattr(v, w), a, None)),
                    kind,
                )
    columns["why"] = each(lambda v: v.why), "str"
    return columns


_NEIGHBOURS = {
    "neighbour": {
        "material_id": ("nearest_id", "str"),
        "formula": ("nearest_formula", "str"),
        "amd": ("amd", "Float64"),
        "pdd": ("pdd", "Float64"),
    },
    "closest": {
        "material_id": ("closest_id", "str"),
        "formula": ("closest_formula", "str"),
        "amd": ("closest_amd", "Float64"),
        "pdd": ("closest_pdd", "Float64"),
    },
}
"""Field of a verdict -> field of the neighbour -> column and its type."""
