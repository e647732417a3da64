"""Cases on crystals in disguise, near relatives, junk, and elements that tables lack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from materium_rl.rewards.base import Failure, Invalid, Measurement, Result
from materium_rl.rewards.bench import zoo
from materium_rl.rewards.bench.subject import Answer, Case, Subject, Verdict, is_breach

if TYPE_CHECKING:
    from pymatgen.core import Structure

DISGUISED = ("NaCl", "TiO2", "SrTiO3")
PAYS = 0.05
"""A score this much higher is worth a policy's while."""
STRAIN_PAYS = 0.3
"""The same for a property under 1 % strain: steep curves are meant to be steep."""
ABSURD = 10.0
"""Spreads of the textbook crystals' values: what lies further outside was not measured on a crystal."""
FEW = 3
"""Equal values of different elements that make a default value."""


def disguise(name: str) -> Case:
    """The same crystal, written in another way: the same value, or for a batch no second credit."""

    def case(subject: Subject) -> Answer:
        for crystal in DISGUISED:
            original = zoo.crystals()[crystal]
            again = zoo.disguises()[name](original)
            if subject.sees_batches:
                before, after = _credit(subject, original, again)
                if not _seen(subject, before, after):
                    return Verdict.FAIL, (
                        f"{crystal} written again earns {subject.score(after):.2f}, alone "
                        f"{subject.score(before):.2f}: the batch is not searched for it"
                    )
                continue
            first, second = subject.measure([original, again])
            if is_breach(second):
                return Verdict.FAIL, f"{crystal}: {subject.say(second)}"
            if not subject.same(first, second):
                return Verdict.FAIL, f"{crystal}: {subject.say(first)}, written again {subject.say(second)}"
        return Verdict.PASS, "no second credit" if subject.sees_batches else "the same value"

    return case


def later_batch(subject: Subject) -> Answer:
    """What an earlier batch held is remembered."""
    if not subject.sees_batches:
        return Verdict.PASS, "no memory: scope is structure"
    reward = subject.without_history()
    structures = [zoo.crystals()[name] for name in DISGUISED]
    first, second = subject.measure(structures, reward), subject.measure(structures, reward)
    for name, before, after in zip(DISGUISED, first, second, strict=True):
        if not _seen(subject, before, after):
            said = f"{name} earns {subject.score(before):.2f}, in the next batch {subject.score(after):.2f}"
            return Verdict.FAIL, f"{said}: only repetition inside one batch is seen"
    return Verdict.PASS, "remembered"


def strain(subject: Subject) -> Answer:
    """1 % of strain is noise: it must not pay, and not hide a repetition."""
    limit, bad = (PAYS, Verdict.FAIL) if subject.is_novelty else (STRAIN_PAYS, Verdict.WARN)
    rises: dict[str, float] = {}
    for name in DISGUISED:
        original = zoo.crystals()[name]
        if subject.sees_batches:
            before, after = _credit(subject, original, zoo.strained(original))
            if not _seen(subject, before, after):
                return Verdict.FAIL, f"strained {name} counts as new"
            continue
        before, after = subject.measure([original, zoo.strained(original)])
        rises[name] = subject.score(after) - subject.score(before)
        if rises[name] > limit:
            return bad, f"{name}: the score rises by {rises[name]:.2f}, from {_both(subject, before, after)}"
    if subject.sees_batches:
        return Verdict.PASS, "seen"
    largest = max(rises.values(), key=abs)
    return Verdict.PASS, f"the score changes by {round(largest, 2) + 0.0:+.2f} at most"


def relative(pair: Callable[[], tuple[Structure, Structure]]) -> Case:
    """A near relative of a crystal (element swap, new decoration) may differ, but is no novelty."""

    def case(subject: Subject) -> Answer:
        original, other = pair()
        names = f"{original.composition.reduced_formula} to {other.composition.reduced_formula}"
        if subject.sees_batches:
            before, after = _credit(subject, original, other)
            seen = _seen(subject, before, after)
            what = "shares its credit" if seen else "earns full credit: swapping elements pays"
            return (Verdict.PASS if seen else Verdict.WARN), f"{names} {what}"
        before, after = subject.measure([original, other])
        if is_breach(after):
            return Verdict.FAIL, f"{names}: {subject.say(after)}"
        rise = subject.score(after) - subject.score(before)
        if subject.is_novelty and rise > STRAIN_PAYS:
            return Verdict.WARN, f"{names} raises the score by {rise:.2f}"
        return Verdict.PASS, f"{names}: {_both(subject, before, after)}"

    return case


def polymorph(subject: Subject) -> Answer:
    """Another crystal of the same formula is another crystal."""
    original, other = zoo.polymorph()
    if not subject.sees_batches:
        return Verdict.PASS, f"rutile to anatase: {_both(subject, *subject.measure([original, other]))}"
    before, after = _credit(subject, original, other)
    if _seen(subject, before, after):
        return Verdict.FAIL, "anatase counts as a repetition of rutile: told apart by formula alone"
    return Verdict.PASS, "anatase is no repetition of rutile"


def junk(name: str) -> Case:
    """An unphysical cell is turned down, or at least pays no more than the crystal it was made of."""

    def case(subject: Subject) -> Answer:
        original, bad = zoo.junk()[name]
        (before,), (after,) = subject.measure([original]), subject.measure([bad])
        if is_breach(after):
            return Verdict.WARN, f"{subject.say(after)}; return Invalid(reason)"
        if not isinstance(after, Measurement):
            return Verdict.PASS, subject.say(after)
        paid, usual = subject.score(after), subject.score(before)
        said = f"{_both(subject, before, after)}, score {usual:.2f} to {paid:.2f}"
        if paid <= usual + PAYS:
            return Verdict.PASS, f"measured, but does not pay: {said}"
        best = max(subject.score(result) for result in subject.known.values())
        if paid > best + PAYS and (_is_absurd(subject, after) or _is_limit(subject, name, after)):
            return Verdict.FAIL, f"a blown-up value pays: {said}; no crystal earns more than {best:.2f}"
        return Verdict.WARN, f"hackable: {said}; return Invalid(reason), or keep the gate validity"

    return case


def unreadable(name: str) -> Case:
    """What is no structure gets no number, unless the number does not depend on what is broken."""

    def case(subject: Subject) -> Answer:
        original, broken = zoo.unreadable()[name]
        (before,), (after,) = subject.measure([original]), subject.measure([broken])
        if is_breach(after):
            return Verdict.WARN, f"{subject.say(after)}; return Invalid(reason)"
        if not isinstance(after, Measurement):
            return Verdict.PASS, subject.say(after)
        if len(broken) and subject.same(before, after):
            return Verdict.PASS, f"{subject.say(after)}, as for the crystal: it looks elsewhere"
        return Verdict.FAIL, f"measured as {subject.say(after)}; the crystal has {subject.say(before)}"

    return case


def elements(structures: Callable[[], Mapping[str, Structure]], *, rare: bool = False) -> Case:
    """Crystals with elements that may be unknown: a failure where it is so, never an exception or a default.

    Args:
        structures: Structures by the element in question.
        rare: Compare with the same crystals of common elements, to find default values.
    """

    def case(subject: Subject) -> Answer:
        results = dict(zip(structures(), subject.measure(list(structures().values())), strict=True))
        for symbol, result in results.items():
            if is_breach(result):
                return Verdict.FAIL, f"{symbol}: {subject.say(result)}; return Failure(reason)"
        default = _default(subject, results) if rare and not subject.is_novelty else None
        if default is not None:
            value, symbols = default
            return Verdict.FAIL, (
                f"{', '.join(symbols)} all get {value:.4g} and no common element does: a default in place of "
                "what is not known; return Failure(reason)"
            )
        invalid = [symbol for symbol, result in results.items() if isinstance(result, Invalid)]
        measured = sum(isinstance(result, Measurement) for result in results.values())
        said = f"{measured} of {len(results)} measured"
        if invalid:
            said += f"; {invalid[0]} {subject.say(results[invalid[0]])}"
            blamed = rare and len(invalid) < len(results)
            return (
                (Verdict.WARN, f"{said}: if the evaluator does not know it, that is a Failure")
                if blamed
                else (Verdict.PASS, said)
            )
        failed = [f"{s} {subject.say(r)}" for s, r in results.items() if isinstance(r, Failure)]
        return Verdict.PASS, "; ".join([said, *failed[:1]])

    return case


STRUCTURES: dict[str, Case] = {
    **{name: disguise(name) for name in zoo.disguises()},
    "later batch": later_batch,
    "1 % strain": strain,
    "rare-earth swap": relative(zoo.rare_earth_swap),
    "ordering variant": relative(zoo.ordering_variant),
    "polymorph": polymorph,
    **{name: junk(name) for name in zoo.junk()},
    "single element": elements(zoo.elements),
    "noble gas": elements(zoo.noble_gases),
    "element without reference": elements(zoo.rare_oxides, rare=True),
    **{name: unreadable(name) for name in zoo.unreadable()},
}


def _credit(subject: Subject, original: Structure, other: Structure) -> tuple[Result, Result]:
    """Outcome of the second structure alone, and beside the first."""
    return subject.measure([other])[0], subject.measure([original, other])[1]


def _seen(subject: Subject, before: Result, after: Result) -> bool:
    """Whether a repetition earns less than it would alone."""
    return subject.score(after) < subject.score(before) - PAYS or subject.score(before) == 0.0


def _both(subject: Subject, before: Result, after: Result) -> str:
    return f"{subject.say(before)} to {subject.say(after)}"


def _is_absurd(subject: Subject, result: Measurement) -> bool:
    if not subject.values:
        return False
    low, high = subject.values[0], subject.values[-1]
    return not low - ABSURD * subject.spread <= result.value <= high + ABSURD * subject.spread


def _is_limit(subject: Subject, name: str, result: Measurement) -> bool:
    """Whether other junk has exactly the same value, and no crystal has: a value cut off at a limit."""
    others = [bad for other, (_, bad) in zoo.junk().items() if other != name]
    twins = [r for r in subject.measure(others) if isinstance(r, Measurement) and r.value == result.value]
    return bool(twins) and result.value not in subject.values


def _default(subject: Subject, results: Mapping[str, Result]) -> tuple[float, list[str]] | None:
    """A value that several rare elements share and no common one has, and these elements.

    None where common elements hardly differ either: the value is a class then, not a quantity.
    """
    oxides = subject.measure(list(zoo.common_oxides().values()))
    common = {round(result.value, 12) for result in oxides if isinstance(result, Measurement)}
    if len(common) < FEW:
        return None
    shared: dict[float, list[str]] = {}
    for symbol, result in results.items():
        if isinstance(result, Measurement):
            shared.setdefault(result.value, []).append(symbol)
    for value, symbols in shared.items():
        if len(symbols) >= FEW and round(value, 12) not in common:
            return value, symbols
    return None
