"""How often the 95 % intervals of ``compare`` hold the truth, in simulated comparisons.

Run from the repository root: ``python benchmarks/interval_coverage.py``. Each line draws tables of samples
from a known distribution, makes the interval, and counts how often it holds the true value; beside it the
plain percentile bootstrap (rows resampled, of several runs first the runs). No model is loaded.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from intervals import print_table, write_json

from materium_rl.evaluation.comparison.differences import changes, recipe_figures
from materium_rl.evaluation.statistics import Bootstrap, Floats, Statistic, distinct, mean, percentiles, share

N_BOOT = 2000
SIZES = (256, 1024)
BATCH = 100
MANY = 4000
"""Tables drawn for a truth that has no formula."""

Rng = np.random.Generator
Interval = tuple[float, float]
Draw = Callable[[Rng, int], tuple[list[Statistic], list[Statistic]]]
"""Draws the tables of n samples before and after: of each run the statistic."""


@dataclass(frozen=True)
class Case:
    """A comparison whose truth is known.

    Args:
        title: What is drawn.
        draw: Draws it.
        quantity: ``after`` (no comparison), ``difference`` or ``ratio``.
        truth: Its true value for n samples.
        sizes: Numbers of samples.
    """

    title: str
    draw: Draw
    quantity: str
    truth: Callable[[int], float]
    sizes: tuple[int, ...] = field(default=SIZES)


class Together(Bootstrap):
    """Sums the rows of many tables in one product of matrices."""

    def prepare(self, statistics: list[Statistic]) -> None:
        """Sum what is asked for next."""
        self._rows = [rows for s in statistics for rows in (s.numerator, s.denominator)]
        found = super().sums(np.stack(self._rows, axis=1))
        self._sums = {id(rows): found[:, i] for i, rows in enumerate(self._rows)}

    def sums(self, rows: Floats) -> Floats:
        """As prepared."""
        return self._sums[id(rows)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="lines whose title holds it")
    parser.add_argument("--repeats", type=int, default=2000, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    bootstraps = {n: Together(n, n_boot=N_BOOT, seed=0) for n in SIZES}
    rows = []
    for case in (case for case in cases() if arguments.only in case.title):
        for n in case.sizes:
            ours, plain = coverage(case, n, bootstraps[n], arguments.repeats)
            rows.append(
                {
                    "": case.title,
                    "interval of": case.quantity,
                    "samples": n,
                    "coverage, %": f"{100 * ours:.1f}",
                    "plain bootstrap, %": "-" if np.isnan(plain) else f"{100 * plain:.1f}",
                }
            )
    print_table(rows)
    if arguments.json:
        write_json({"repeats": arguments.repeats, "rows": rows}, arguments.json)


def cases() -> Iterator[Case]:
    """What is simulated."""
    for p in (0.005, 0.02, 0.08, 0.3, 0.7, 0.95):
        yield Case(f"share of {100 * p:g} %", shares(p, p), "after", lambda _, p=p: p)
    yield Case("5 % of the stable 30 %", conditional(0.3, 0.05), "after", lambda _: 0.05)
    yield Case("mean of 2 to 20 sites", sites(1.0), "after", lambda _: float(SITES @ MORE(1.0)))
    for old, new in ((0.08, 0.31), (0.08, 0.08), (0.005, 0.03), (0.01, 0.01), (0.3, 0.35), (0.95, 0.99)):
        for quantity, truth in (("difference", new - old), ("ratio", new / old)):
            title = f"shares {100 * old:g} -> {100 * new:g} %"
            yield Case(title, shares(old, new), quantity, lambda _, truth=truth: truth)
    for quantity, truth in (("difference", 0.05), ("ratio", 7 / 6)):
        yield Case(
            "shares 30 -> 35 %, half of the seeds alike", shares(0.3, 0.35, alike=0.5), quantity,
            lambda _, truth=truth: truth,
        )  # fmt: skip
    before, after = (float(SITES @ MORE(tilt)) for tilt in (1.0, 1.05))
    yield Case("means of 2 to 20 sites", sites(1.0, 1.05), "difference", lambda _: after - before)
    yield Case("means of 2 to 20 sites", sites(1.0, 1.05), "ratio", lambda _: after / before)
    for title, draw in {
        "distinct things, few of each": kinds(Kinds(0.08, 300), Kinds(0.31, 900)),
        "distinct things, collapsed": kinds(Kinds(0.08, 300), Kinds(0.6, 30, 1.5)),
        "distinct things, alike": kinds(Kinds(0.3, 200), Kinds(0.3, 200)),
    }.items():
        for quantity in ("after", "difference", "ratio"):
            yield Case(title, draw, quantity, cached_truth(draw, quantity))
    for m in (2, 3, 5):
        for spread in (0.0, 0.03):
            title = f"shares 8 -> 31 %, {m} training seeds, spread {100 * spread:g} points"
            yield Case(title, recipes(0.08, 0.31, spread, m), "difference", lambda _: 0.23)
            yield Case(title, recipes(0.08, 0.31, spread, m), "ratio", lambda _: 0.31 / 0.08)


def coverage(case: Case, n: int, bootstrap: Together, repeats: int) -> tuple[float, float]:
    """Share of the intervals that hold the truth: ours, and those of the plain bootstrap."""
    rng, truth = np.random.default_rng((1, n)), case.truth(n)
    hits = []
    for first in range(0, repeats, BATCH):
        pairs = [case.draw(rng, n) for _ in range(min(BATCH, repeats - first))]
        bootstrap.prepare([statistic for pair in pairs for runs in pair for statistic in runs])
        for before, after in pairs:
            found = [make(case.quantity, before, after, bootstrap) for make in (ours, plain)]
            hits.append([low <= truth <= high for low, high in found])
    shares_held = np.mean(hits, axis=0)
    return float(shares_held[0]), float(shares_held[1])


def ours(quantity: str, before: list[Statistic], after: list[Statistic], bootstrap: Bootstrap) -> Interval:
    """The interval of ``compare``."""
    if quantity == "after":
        if len(after) == 1:
            return bootstrap.interval(after[0])
        figure = recipe_figures([{"x": s} for s in after], bootstrap)["x"]
    else:
        change = changes([{"x": s} for s in before], [{"x": s} for s in after], bootstrap).figures["x"]
        figure = change.difference if quantity == "difference" else change.ratio
    # Without any case before there is no ratio, and nothing that could be wrong about it.
    return (-np.inf, np.inf) if np.isnan(figure.value) else (figure.low, figure.high)


def plain(quantity: str, before: list[Statistic], after: list[Statistic], bootstrap: Bootstrap) -> Interval:
    """Percentiles of resampled rows, and of resampled runs where there are several."""
    olds, news = (resampled(runs, bootstrap) for runs in (before, after))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {"after": news, "difference": news - olds, "ratio": news / olds}[quantity]
    return percentiles(found)


def resampled(runs: list[Statistic], bootstrap: Bootstrap) -> np.ndarray:
    """Of each resample of the rows the mean over a resample of the runs."""
    drawn = np.array([bootstrap.values(run, smooth=False) for run in runs])
    if len(runs) == 1:
        return drawn[0]
    chosen = np.random.default_rng(2).integers(len(runs), size=(len(runs), drawn.shape[1]))
    return np.take_along_axis(drawn, chosen, axis=0).mean(axis=0)


def shares(old: float, new: float, *, alike: float = 0.0) -> Draw:
    """Independent flags; a part of the rows has one uniform number for both."""

    def draw(rng: Rng, n: int) -> tuple[list[Statistic], list[Statistic]]:
        first, second = rng.random((2, n))
        second = np.where(rng.random(n) < alike, first, second)
        everything = np.ones(n, dtype=bool)
        return [share(first < old, everything)], [share(second < new, everything)]

    return draw


def conditional(among: float, p: float) -> Draw:
    """A share of what is itself a random part."""

    def draw(rng: Rng, n: int) -> tuple[list[Statistic], list[Statistic]]:
        found = [share(rng.random(n) < p, rng.random(n) < among) for _ in range(2)]
        return found[:1], found[1:]

    return draw


SITES = np.arange(2.0, 21.0)


def MORE(tilt: float) -> np.ndarray:  # noqa: N802
    """Chances of 2 to 20 sites; even numbers are commoner, as in crystals."""
    chances = np.exp(-SITES / 6) * np.where(SITES % 2 == 0, 2.0, 1.0) * tilt**SITES
    return np.asarray(chances / chances.sum())


def sites(old: float, new: float = 1.0) -> Draw:
    """Numbers of sites."""

    def draw(rng: Rng, n: int) -> tuple[list[Statistic], list[Statistic]]:
        everything = np.ones(n, dtype=bool)
        first, second = (mean(rng.choice(SITES, n, p=MORE(tilt)), everything) for tilt in (old, new))
        return [first], [second]

    return draw


@dataclass(frozen=True)
class Kinds:
    """A share of the samples shows one of ``number`` kinds, the k-th with a chance of k^-power."""

    share: float
    number: int
    power: float = 1.0

    def codes(self, rng: Rng, n: int) -> np.ndarray:
        """Kinds of n samples; -1 for those that show none."""
        chances = np.arange(1, self.number + 1) ** -self.power
        found = rng.choice(self.number, n, p=chances / chances.sum())
        return np.where(rng.random(n) < self.share, found, -1)


def kinds(before: Kinds, after: Kinds) -> Draw:
    """Numbers of distinct kinds."""

    def draw(rng: Rng, n: int) -> tuple[list[Statistic], list[Statistic]]:
        return [distinct(before.codes(rng, n))], [distinct(after.codes(rng, n))]

    return draw


def cached_truth(draw: Draw, quantity: str) -> Callable[[int], float]:
    """From the means of many tables, once for each number of samples."""

    def truth(n: int) -> float:
        rng = np.random.default_rng((3, n))
        found = np.array([[runs[0].value for runs in draw(rng, n)] for _ in range(MANY)]).mean(axis=0)
        return float(
            {"after": found[1], "difference": found[1] - found[0], "ratio": found[1] / found[0]}[quantity]
        )

    return truth


def recipes(old: float, new: float, spread: float, m: int) -> Draw:
    """One policy before; after it m runs whose shares differ with a standard deviation."""

    def draw(rng: Rng, n: int) -> tuple[list[Statistic], list[Statistic]]:
        everything = np.ones(n, dtype=bool)
        own = np.clip(rng.normal(new, spread, m), 0, 1)
        after = [share(rng.random(n) < p, everything) for p in own]
        return [share(rng.random(n) < old, everything)], after

    return draw


if __name__ == "__main__":
    main()
