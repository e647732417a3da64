"""One structure against one reference: how high on the novelty ladder it stands, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from materium_rl.evaluation.metrics import elements_of
from materium_rl.evaluation.novelty.distances import Floats, pdd, pdd_distance
from materium_rl.evaluation.novelty.known import Reference
from materium_rl.evaluation.novelty.levels import FAR, LEVELS, TOLERANCES
from materium_rl.rewards.catalogue.novelty import Tier
from materium_rl.rewards.elements import RARE_EARTHS
from materium_rl.rewards.fingerprint import Fingerprint
from materium_rl.rewards.prototypes import RARE_EARTH, Prototype, family
from materium_rl.rewards.references import ReferenceIndex, Relative
from materium_rl.structures import element_symbols, matching_cell

if TYPE_CHECKING:
    from pymatgen.core import Structure


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A known structure.

    Args:
        row: Its row in the reference.
        material_id: Its id there.
        formula: Its reduced formula.
        amd: AMD distance to it, Å.
        pdd: Earth mover's distance of the PDDs, Å.
    """

    row: int
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
        closest: Of the nearest by AMD the nearest by PDD, elements ignored.
        why: The verdict as a sentence.
    """

    new: Mapping[str, bool]
    tier: Tier | None
    rare_earth_swap: bool
    neighbour: Neighbour | None
    closest: Neighbour | None
    why: str


@dataclass(frozen=True)
class Subject:
    """A readable structure with what its verdicts need."""

    structure: Structure
    prototype: Prototype
    fingerprint: Fingerprint
    pdd: Floats

    @cached_property
    def amd(self) -> Floats:
        """Average minimum distances, Å."""
        return self.pdd.mean(axis=0)  # type: ignore[no-any-return]

    @cached_property
    def cell(self) -> Structure:
        """The cell in which StructureMatcher compares it with others of its list."""
        structure = self.structure
        return matching_cell(structure.lattice.matrix, element_symbols(structure), structure.frac_coords)

    @classmethod
    def of(cls, structure: Structure, prototype: Prototype, fingerprint: Fingerprint) -> Subject:
        """Compute what is missing.

        Raises:
            ValueError: The neighbours cannot be listed.
        """
        return cls(structure, prototype, fingerprint, pdd(structure))


def judge(subject: Subject, reference: Reference, min_distance: float) -> Verdict:
    """Verdict on one structure.

    Args:
        subject: The structure.
        reference: What it is judged against.
        min_distance: Fingerprint distance within which an unknown prototype may be a distortion of a known
            one, as in the ``novelty`` reward.
    """
    formula = subject.prototype.formula
    known = reference.known_formula(formula)
    if reference.formulas_only:
        why = f"{formula} is {'' if known else 'not '}a formula of {reference.title}"
        return Verdict({"new_formula": not known}, None, False, None, None, why)
    if reference.index is None:
        everything = {level.key: True for level in LEVELS}
        why = f"{formula} is new: {reference.title} holds no structure"
        return Verdict(everything, Tier.NEW_PROTOTYPE, False, None, None, why)
    matched = _matched(subject, reference.index)
    relation = _relation(subject, reference, reference.index, min_distance, matched.get("standard"))
    tier = relation.tier
    closest = _closest(subject, reference)
    neighbour = closest if relation.row is None else _neighbour(subject, reference, relation.row)
    new = {
        "new_formula": not known,
        "new_structure_strict": "strict" not in matched,
        "new_structure": "standard" not in matched,
        "new_structure_loose": "loose" not in matched,
        "not_substitution": relation.beyond_substitution,
        "new_prototype": relation.new_prototype,
        "new_framework": relation.new_framework,
        "far": closest.pdd > FAR,
    }
    swap = tier is Tier.SUBSTITUTION and _only_rare_earths(formula, neighbour.formula)
    return Verdict(
        new, tier, swap, neighbour, closest, _why(subject, reference, relation, neighbour, matched)
    )


@dataclass(frozen=True, slots=True)
class _Relation:
    """How a structure is related to a reference.

    Args:
        tier: As in ``Verdict``.
        beyond_substitution: It is neither known nor a substitution of something known.
        new_prototype: And its prototype is new.
        new_framework: And its framework is new.
        row: The known structure that says so; None for the closest of all.
        distorted: It is not by its label that it belongs to that structure.
    """

    tier: Tier
    beyond_substitution: bool
    new_prototype: bool
    new_framework: bool
    row: int | None
    distorted: bool = False


def _matched(subject: Subject, index: ReferenceIndex) -> dict[str, int]:
    """Tolerances by which a reference is the same structure -> its row; stricter ones are asked last."""
    found: dict[str, int] = {}
    for row, _, certain in index.same_formula(subject.prototype, subject.fingerprint):
        for name, tolerance in TOLERANCES.items():
            if name in found:
                continue
            if not certain and not index.cells_match(subject.structure, row, tolerance.matcher()):
                break
            found[name] = row
        if len(found) == len(TOLERANCES):
            break
    return found


def _relation(
    subject: Subject, reference: Reference, index: ReferenceIndex, min_distance: float, same: int | None
) -> _Relation:
    """Place a structure, of which row ``same`` is a match by standard tolerances."""
    if same is not None:
        return _Relation(Tier.KNOWN, False, False, False, same)
    prototype = subject.prototype
    alike = index.rows_of("merged_label", prototype.merged_label)
    if not len(alike):
        alike = index.rows_of("label", prototype.merged_label)
    relation = _by_label(subject, reference, index, alike)
    if relation is None:
        relation = _by_distortion(subject, reference, index, min_distance, alike)
    formula_rows = index.rows_of("formula", prototype.formula)
    if not len(formula_rows):
        return relation
    return _Relation(
        Tier.NEW_ARRANGEMENT,
        relation.beyond_substitution,
        relation.new_prototype,
        relation.new_framework,
        reference.nearest_of(formula_rows, subject.amd),
    )


def _by_label(
    subject: Subject, reference: Reference, index: ReferenceIndex, alike: NDArray[np.int64]
) -> _Relation | None:
    """A substitution within one prototype, rare-earth swaps before others; None if it is not one."""
    prototype = subject.prototype
    kin = np.array(
        [row for row in alike if index.family_formulas[row] == prototype.family_formula], dtype=np.int64
    )
    if not len(kin):
        return None
    swaps = kin[[_only_rare_earths(prototype.formula, index.formulas[row]) for row in kin]]
    rows = swaps if len(swaps) else kin
    return _Relation(Tier.SUBSTITUTION, False, False, False, reference.nearest_of(rows, subject.amd))


def _by_distortion(
    subject: Subject,
    reference: Reference,
    index: ReferenceIndex,
    min_distance: float,
    alike: NDArray[np.int64],
) -> _Relation:
    """What is no substitution by its label: one by distortion, of a known prototype or framework, or new."""
    prototype, fingerprint = subject.prototype, subject.fingerprint
    relative, row = index.nearest_relative(subject.structure, prototype, fingerprint, min_distance)
    if relative is Relative.OF_FAMILY:
        return _Relation(Tier.SUBSTITUTION, False, False, False, row, distorted=True)
    if len(alike):
        nearest = reference.nearest_of(alike, subject.amd)
        return _Relation(Tier.KNOWN_PROTOTYPE, True, False, False, nearest)
    if relative is Relative.OTHER:
        return _Relation(Tier.KNOWN_PROTOTYPE, True, False, False, row, distorted=True)
    sites = index.rows_of("framework_label", prototype.framework_label)
    if len(sites):
        return _Relation(Tier.NEW_PROTOTYPE, True, True, False, reference.nearest_of(sites, subject.amd))
    row = index.framework_relative(subject.structure, fingerprint, min_distance)
    return _Relation(Tier.NEW_PROTOTYPE, True, True, row is None, row, distorted=row is not None)


def _closest(subject: Subject, reference: Reference) -> Neighbour:
    """Of the nearest by AMD the nearest by PDD, without asking those that cannot be nearer."""
    (first, _), *others = reference.closest(subject.amd)
    best = _neighbour(subject, reference, first)
    for row, bound in others:
        if bound >= best.pdd:
            break
        best = min(best, _neighbour(subject, reference, row), key=lambda neighbour: neighbour.pdd)
    return best


def _neighbour(subject: Subject, reference: Reference, row: int) -> Neighbour:
    assert reference.index is not None
    return Neighbour(
        row,
        reference.index.material_ids[row],
        reference.index.formulas[row],
        reference.amd_distance(subject.amd, row),
        pdd_distance(subject.pdd, reference.pdd(row)),
    )


def _only_rare_earths(formula: str, other: str) -> bool:
    return formula != other and _with_one_rare_earth(formula) == _with_one_rare_earth(other)


@lru_cache(maxsize=100_000)
def _with_one_rare_earth(formula: str) -> dict[str, int]:
    """Reduced amounts of the elements, all rare earths added up: DyHoZn2 -> rare_earth 1, Zn 1."""
    from pymatgen.core import Composition

    amounts: Counter[str] = Counter()
    for symbol, amount in Composition(formula).get_el_amt_dict().items():
        amounts[RARE_EARTH if symbol in RARE_EARTHS else symbol] += round(amount)
    divisor = gcd(*amounts.values())
    return {symbol: amount // divisor for symbol, amount in amounts.items()}


def _why(
    subject: Subject,
    reference: Reference,
    relation: _Relation,
    neighbour: Neighbour,
    matched: Mapping[str, int],
) -> str:
    """The verdict as a sentence."""
    formula, title = subject.prototype.formula, reference.title
    place = f"{neighbour.formula} ({neighbour.material_id})"
    distance = f"AMD {neighbour.amd:.2f} Å"
    if relation.tier is Tier.KNOWN:
        strictly = "" if "strict" in matched else ", though not by strict tolerances"
        return f"{formula} is in {title} as {neighbour.material_id}: the same structure{strictly}, {distance}"
    nearest = f"nearest is {place}, {_likeness(subject, reference, neighbour, relation)}, {distance}"
    if relation.tier is Tier.NEW_ARRANGEMENT:
        loosely = "; by loose tolerances it matches" if "loose" in matched else ""
        return f"{formula} is in {title}, but not in this structure; {nearest}: a new arrangement{loosely}"
    return f"{formula} is not in {title}; {nearest}: {_claim(subject, relation, neighbour)}"


def _claim(subject: Subject, relation: _Relation, neighbour: Neighbour) -> str:
    match relation.tier:
        case Tier.SUBSTITUTION:
            kind = "rare-earth " if _only_rare_earths(subject.prototype.formula, neighbour.formula) else ""
            swapped = _swaps(subject.prototype.formula, neighbour.formula)
            return f"a {kind}substitution{f' ({swapped})' if swapped else ''}"
        case Tier.KNOWN_PROTOTYPE:
            return "a known prototype with elements of other families"
        case _ if relation.new_framework:
            return "a new framework"
        case _:
            return "a new order of elements on a known framework"


def _likeness(subject: Subject, reference: Reference, neighbour: Neighbour, relation: _Relation) -> str:
    """What the structure has in common with its neighbour."""
    assert reference.index is not None
    if relation.distorted and relation.row == neighbour.row:
        return f"a distortion of the same {'framework' if relation.new_prototype else 'prototype'}"
    row, prototype = neighbour.row, subject.prototype
    for column, label, text in (
        ("merged_label", prototype.merged_label, "same prototype"),
        ("framework_label", prototype.framework_label, "same framework"),
    ):
        if row in reference.index.rows_of(column, label):  # type: ignore[arg-type]
            return text
    return "another framework"


def _swaps(formula: str, other: str) -> str:
    """Which elements stand for which: ``Ca for Sr, Zr for Ti``; empty if it cannot be told one by one."""
    new, old = elements_of(formula), elements_of(other)
    incoming, outgoing = (sorted(some, key=lambda s: (family(s), s)) for some in (new - old, old - new))
    if [family(s) for s in incoming] != [family(s) for s in outgoing]:
        return ""
    return ", ".join(f"{a} for {b}" for a, b in zip(incoming, outgoing, strict=True))
