"""Uncertainty of shares and means, and the distance between two distributions."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95

Floats = NDArray[np.float64]


class Bootstrap:
    """Resamples N rows with replacement, the same draws for every figure of one table.

    Args:
        n: Rows N.
        n_boot: Resamples.
        seed: Of the draws.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile interval.
    """

    def __init__(self, n: int, *, n_boot: int, seed: int) -> None:
        self.n, self.n_boot, self.seed = n, n_boot, seed

    @cached_property
    def _weights(self) -> Floats:
        """How often each row is drawn, (n_boot, N)."""
        rng = np.random.default_rng(self.seed)
        return rng.multinomial(self.n, np.full(self.n, 1 / self.n), size=self.n_boot).astype(np.float64)

    @property
    def draws(self) -> Floats:
        """How often each row is drawn, (n_boot, N), for figures that are no ratios of sums."""
        return self._weights

    def interval(self, numerator: ArrayLike, denominator: ArrayLike) -> tuple[float, float]:
        """95 % interval of sum(numerator) / sum(denominator) over rows.

        Resampling rows that all say the same says nothing: a share of 0 or 1 gets its exact binomial
        interval (Clopper and Pearson, 1934) instead.

        Args:
            numerator: N values; for a share bools, whether each row has the property.
            denominator: N values; for a mean or share, whether each row counts.

        Returns:
            Low and high; NaN where there is nothing to resample.
        """
        top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
        total = bottom.sum()
        if total <= 0:
            return math.nan, math.nan
        is_share = np.asarray(numerator).dtype == np.bool_
        if is_share and (top.sum() == 0 or np.array_equal(top, bottom)):
            return _exact_interval(top.sum(), total)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratios = (self._weights @ top) / (self._weights @ bottom)
        tail = (1 - CONFIDENCE) / 2
        low, high = np.nanquantile(ratios, [tail, 1 - tail])
        return float(low), float(high)


def _exact_interval(hits: float, n: float) -> tuple[float, float]:
    from scipy.stats import binomtest

    found = binomtest(round(hits), round(n)).proportion_ci(confidence_level=CONFIDENCE, method="exact")
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
