"""Uncertainty of shares, means and numbers of distinct things, and the distance between two distributions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
TAILS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
PSEUDO_ROWS = {"before": np.array([0, 0, 1, 1.0]), "after": np.array([0, 1, 0, 1.0])}
"""The four outcomes of a pair of flags. Each is added to the rows as half an observation."""
PSEUDO_WEIGHT = 0.5

Role = Literal["before", "after"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Statistic:
    """A figure as a quotient of sums over N rows, so that it can be counted again on resampled rows.

    Args:
        numerator: N values. For a number of distinct things: how many would be lost without the row.
        denominator: N values.
        offset: Added to the quotient; what no single row decides.
        step: What one more row with the property adds to the numerator; 0 if the figure is no share.
    """

    numerator: Floats
    denominator: Floats
    offset: float = 0.0
    step: float = 0.0

    @property
    def value(self) -> float:
        """NaN where the denominator is 0."""
        total = float(self.denominator.sum())
        return float(self.numerator.sum()) / total + self.offset if total > 0 else math.nan


def share(flags: ArrayLike, among: ArrayLike) -> Statistic:
    """Share of the N rows flagged in ``among`` that are flagged in ``flags`` too."""
    counted = np.asarray(among, dtype=bool)
    return Statistic((np.asarray(flags, dtype=bool) & counted).astype(np.float64), counted * 1.0, step=1.0)


def mean(values: ArrayLike, among: ArrayLike) -> Statistic:
    """Mean of N values over the rows flagged in ``among``."""
    counted = np.asarray(among, dtype=bool)
    return Statistic(np.where(counted, np.asarray(values, dtype=np.float64), 0.0), counted * 1.0)


def distinct(codes: ArrayLike, *, per: float = 1.0) -> Statistic:
    """Number of distinct codes >= 0 over the number of rows, times ``per``.

    Resampled rows hold fewer distinct things than rows drawn anew, so the number itself is not
    resampled, but which of the things that only one row has are drawn again (delete-one jackknife).
    The variance so found is never too small in the mean (Efron and Stein, Ann. Stat. 9, 586 (1981)).

    Args:
        codes: N kinds; negative for a row that is none.
        per: Factor.
    """
    kinds = np.asarray(codes, dtype=np.int64)
    lost = _lost_without(kinds)
    n_distinct = len(np.unique(kinds[kinds >= 0]))
    rest = per * (n_distinct - lost.sum()) / len(kinds)
    return Statistic(per * lost, np.ones(len(kinds)), offset=float(rest), step=per)


def minus(first: Statistic, second: Statistic) -> Statistic:
    """Difference of two statistics with one denominator."""
    return Statistic(first.numerator - second.numerator, first.denominator, first.offset - second.offset)


def _lost_without(codes: NDArray[np.int64]) -> Floats:
    """1 for a row whose code (>= 0) no other row has, else 0."""
    _, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    return np.asarray((counts[inverse] == 1) & (codes >= 0), dtype=np.float64)


class Bootstrap:
    """Resamples N rows with replacement, the same draws for every figure of every table of N rows.

    Row i of all tables belongs together (one seed), so differences between tables are paired. Resampling
    rows says nothing about what never happened among them; therefore the resamples are drawn from the rows
    and, for shares, from ``PSEUDO_ROWS`` (Agresti and Min, Stat. Med. 24, 729 (2005)).

    Args:
        n: Rows N.
        n_boot: Resamples R.
        seed: Of the draws.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile interval.
    """

    def __init__(self, n: int, *, n_boot: int, seed: int) -> None:
        self.n, self.n_boot, self.seed = n, n_boot, seed

    @cached_property
    def _weights(self) -> Floats:
        """How often each row and each pseudo row is drawn, (R, N + 4)."""
        rng = np.random.default_rng(self.seed)
        chances = np.concatenate([np.ones(self.n), np.full(4, PSEUDO_WEIGHT)])
        return rng.multinomial(self.n, chances / chances.sum(), size=self.n_boot).astype(np.float64)

    @property
    def draws(self) -> Floats:
        """How often each row is drawn, (R, N), for figures that are no quotients of sums."""
        return self._weights[:, : self.n]

    def sums(self, rows: Floats) -> Floats:
        """Sum over the rows of each resample, (R,) of N values or (R, K) of (N, K)."""
        return np.asarray(self.draws @ rows)

    def values(self, statistic: Statistic, role: Role = "after", *, smooth: bool = True) -> Floats:
        """The statistic on each of the R resamples, NaN where its denominator is 0.

        Args:
            statistic: Of N rows.
            role: Which of a pair it is.
            smooth: Whether a share takes the pseudo rows in.
        """
        tops, bottoms = self.sums(statistic.numerator), self.sums(statistic.denominator)
        if smooth and statistic.step:
            pseudo = self._weights[:, self.n :]
            tops = tops + statistic.step * (pseudo @ PSEUDO_ROWS[role])
            bottoms = bottoms + pseudo.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            quotients: Floats = tops / bottoms + statistic.offset
        return quotients

    def between_runs(self, values: Sequence[float], role: Role = "after") -> Floats:
        """R deviations of the mean of ``values``, one of each of M runs; 0 for a single run.

        Resampling a handful of runs shows too little of how they differ, so these are drawn from
        Student's t with M - 1 degrees of freedom, independently for the two roles. How the values differ
        holds how the samples of each run vary.
        """
        if len(values) < 2:
            return np.zeros(self.n_boot)
        error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
        rng = np.random.default_rng((self.seed, 1 + list(PSEUDO_ROWS).index(role)))
        return error * rng.standard_t(len(values) - 1, self.n_boot)

    def interval(self, statistic: Statistic) -> tuple[float, float]:
        """95 % interval of one statistic: of a share Wilson's (1927), else the percentile interval.

        Where all rows agree, a share gets its exact binomial interval (Clopper and Pearson, 1934).

        Returns:
            Low and high; NaN where there is nothing to resample.
        """
        total = float(statistic.denominator.sum())
        if total <= 0:
            return math.nan, math.nan
        if not statistic.step:
            return percentiles(self.values(statistic))
        ends = binomial_interval(statistic.numerator.sum() / statistic.step, total)
        low, high = (statistic.step * end + statistic.offset for end in ends)
        return low, high


def percentiles(draws: Floats) -> tuple[float, float]:
    """Ends of the middle 95 % of the draws that are not NaN; infinite where the draws are."""
    known = draws[~np.isnan(draws)]
    if len(known) == 0:
        return math.nan, math.nan
    low, high = np.quantile(known, TAILS, method="nearest")
    return float(low), float(high)


def binomial_interval(hits: float, n: float) -> tuple[float, float]:
    """95 % interval of a share: Wilson's, exact for 0 or n hits of n."""
    from scipy.stats import binomtest

    method = "exact" if hits in (0, n) else "wilson"
    found = binomtest(round(hits), round(n)).proportion_ci(confidence_level=CONFIDENCE, method=method)
    return float(found.low), float(found.high)


def jensen_shannon(p: ArrayLike, q: ArrayLike) -> float:
    """Jensen-Shannon divergence of two histograms over the same K classes, in bits.

    Args:
        p: K counts, not negative; scaled to sum to 1.
        q: K counts, likewise.

    Returns:
        From 0 (equal) to 1 (no class in common); NaN if a histogram is empty.

    Source: Lin, IEEE Trans. Inf. Theory 37, 145 (1991).
    """
    from scipy.spatial.distance import jensenshannon

    first, second = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    if first.sum() <= 0 or second.sum() <= 0:
        return math.nan
    distance = float(jensenshannon(first, second, base=2))  # its square root
    return 0.0 if math.isnan(distance) else distance**2  # scipy takes the root of -1e-17 for equal ones


def divergence(holds: ArrayLike, reference: ArrayLike) -> Statistic:
    """Jensen-Shannon divergence in bits of how often N rows hold each of K classes from reference counts.

    Args:
        holds: (N, K), 1 where the row holds the class.
        reference: K counts.

    Returns:
        A statistic whose rows carry the first derivative of the divergence by their weight.
    """
    rows, other = np.asarray(holds, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    counts, n = rows.sum(axis=0), len(rows)
    value = jensen_shannon(counts, other)
    if math.isnan(value):
        return Statistic(np.zeros(n), np.zeros(n))
    p, q = counts / counts.sum(), other / other.sum()
    slope = 0.5 * np.log2(2 * p / (p + q), where=p > 0, out=np.zeros_like(p))
    influence: Floats = n * (rows @ slope - rows.sum(axis=1) * (p @ slope)) / counts.sum()
    return Statistic(influence, np.ones(n), value)
