"""The novelty ladder: in which sense is a structure new, and against what.

One verdict per structure and reference, from the weakest claim (its formula is not there) to the strongest
(no known framework is like it), each with the nearest known structure, the distance, and why in words. From
``new_structure`` on every level counts on the one below: what matches a known structure is new at no level
above, whatever its label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from materium_rl.errors import ConfigError
from materium_rl.evaluation.novelty.known import Reference
from materium_rl.evaluation.novelty.levels import LEVELS, Level
from materium_rl.evaluation.novelty.verdict import Neighbour, Subject, Verdict, judge
from materium_rl.rewards.base import Invalid, Outcome
from materium_rl.rewards.catalogue.novelty import OVERLAP, Tier
from materium_rl.rewards.fingerprint import Fingerprint, fingerprints
from materium_rl.rewards.prototypes import Prototype, prototypes
from materium_rl.rewards.references import SAME_FINGERPRINT
from materium_rl.structures import cells_match, shortest_distance, structure_matcher

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
            columns |= _columns(prefix, _OWN_TYPES, [_own(rung) for rung in rungs])
            for reference in self.references:
                types = _FORMULA_TYPES if reference.formulas_only else _VERDICT_TYPES
                verdicts = (rung.verdicts.get(reference.name) for rung in rungs)
                records = [{} if verdict is None else _record(verdict) for verdict in verdicts]
                columns |= _columns(f"{prefix}{reference.name}.", types, records)
        return pd.DataFrame(columns)

    def summary(self) -> list[Share]:
        """Every level that each reference can tell, for each stage, in the order of the ladder."""
        return [
            share
            for stage, reference, verdicts in self._verdicts()
            for share in _shares(reference, stage, verdicts, _levels(reference), _new_at)
        ]

    def tiers(self) -> list[Share]:
        """How many stand on each tier, and how many of the substitutions swap rare earths alone."""
        return [
            share
            for stage, reference, verdicts in self._verdicts()
            if not reference.formulas_only
            for share in _shares(reference, stage, verdicts, (*Tier, RARE_EARTH_SWAP), _is_on)
        ]

    def _verdicts(self) -> Iterator[tuple[str, Reference, list[Verdict | None]]]:
        for stage, rungs in self.stages():
            for reference in self.references:
                yield stage, reference, [rung.verdicts.get(reference.name) for rung in rungs]


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
    shortest = shortest_distance(structure)
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
        if cells_match(first.cell, subject.cell, structure_matcher()):
            return other
    known.append((row, subject))
    return None


def _levels(reference: Reference) -> tuple[str, ...]:
    return ("new_formula",) if reference.formulas_only else tuple(level.key for level in LEVELS)


def _new_at(verdict: Verdict, level: str) -> bool:
    return verdict.new[level]


def _is_on(verdict: Verdict, tier: str) -> bool:
    return verdict.rare_earth_swap if tier == RARE_EARTH_SWAP else verdict.tier == tier


def _shares(
    reference: Reference,
    stage: str,
    verdicts: Sequence[Verdict | None],
    keys: Iterable[str],
    holds: Callable[[Verdict, str], bool],
) -> Iterator[Share]:
    told = [verdict for verdict in verdicts if verdict is not None]
    for key in keys:
        count = sum(holds(verdict, key) for verdict in told)
        yield Share(reference.name, stage, str(key), count, len(told), len(verdicts))


def _own(rung: Rung) -> dict[str, Any]:
    """What does not depend on a reference."""
    unique = rung.duplicate_of is None if rung.outcome is Outcome.OK else None
    record = {name: getattr(rung, name) for name in _OWN_TYPES if name != "unique"}
    return record | {"outcome": rung.outcome.value, "unique": unique}


def _record(verdict: Verdict) -> dict[str, Any]:
    """One verdict as a row; an absent neighbour leaves its columns out."""
    record: dict[str, Any] = {**verdict.new, RARE_EARTH_SWAP: verdict.rare_earth_swap, "why": verdict.why}
    record["tier"] = None if verdict.tier is None else verdict.tier.value
    for neighbour, names in ((verdict.neighbour, _NEAREST), (verdict.closest, _CLOSEST)):
        if neighbour is not None:
            found = neighbour.material_id, neighbour.formula, neighbour.amd, neighbour.pdd
            record |= dict(zip(names, found, strict=True))
    return record


def _columns(prefix: str, types: Mapping[str, str], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Name of a column -> array; missing values are <NA>."""
    import pandas as pd

    return {
        prefix + name: pd.array([record.get(name) for record in records], dtype=kind)
        for name, kind in types.items()
    }


_OWN_TYPES = {
    **dict.fromkeys(("outcome", "reason", "formula", "prototype", "framework"), "str"),
    "unique": "boolean",
    "duplicate_of": "Int64",
}
_NEAREST = {"nearest_id": "str", "nearest_formula": "str", "amd": "Float64", "pdd": "Float64"}
_CLOSEST = {"closest_id": "str", "closest_formula": "str", "closest_amd": "Float64", "closest_pdd": "Float64"}
_FORMULA_TYPES = {"new_formula": "boolean", "why": "str"}
_VERDICT_TYPES = {
    **{level.key: "boolean" for level in LEVELS},
    "tier": "str",
    RARE_EARTH_SWAP: "boolean",
    **_NEAREST,
    **_CLOSEST,
    "why": "str",
}
"""Column -> pandas type, as in ``LadderTable.to_frame``."""
