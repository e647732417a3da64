"""What the samples look like: tiers of novelty, elements, sites, symmetry, density, band gap, energy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from materium_rl.evaluation.discoveries.filters import column_of
from materium_rl.evaluation.metrics import element_counts
from materium_rl.evaluation.report import drawing
from materium_rl.evaluation.report.charts import Chart
from materium_rl.evaluation.report.wording import TIERS, space_group
from materium_rl.rewards.catalogue.novelty import Tier

if TYPE_CHECKING:
    import pandas as pd

    Frames = Mapping[str, pd.DataFrame]
    """Name of a policy -> its samples, one row per structure requested."""

SHARE = "% of the valid samples"
MOST_ELEMENTS, MOST_GROUPS = 20, 12
BINS = 24


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number that each sample has.

    Args:
        key: Short name of its column, see ``filters.ALIASES``.
        title: Of the chart.
        label: Of the axis, with the unit.
        unit: For sentences.
        low: Left end of the axis.
        high: Right end; None for the 99th percentile of all. What lies beyond an end is counted in the text.
    """

    key: str
    title: str
    label: str
    unit: str
    low: float = 0.0
    high: float | None = None


DENSITY = Quantity("density", "Density", "density, g/cm³", "g/cm³")
GAP = Quantity("band_gap", "Band gap", "predicted band gap, eV", "eV", low=0.1)
ENERGY = Quantity(
    "e_above_hull", "Energy above the hull", "energy above the hull, eV/atom", "eV/atom", high=1.0
)


def distributions(frames: Frames, settings: Mapping[str, Any]) -> list[Chart]:
    """Every chart that the samples have the columns for."""
    valid = {name: frame[frame["valid"].to_numpy()] for name, frame in frames.items()}
    target, width = settings.get("band_gap_target_eV"), settings.get("band_gap_width_eV")
    window = None if target is None or width is None else (target - width, target + width)
    found = [
        _elements(valid),
        _sites(valid),
        _space_groups(valid),
        _histogram(valid, DENSITY),
        _histogram(valid, GAP, shade=window),
        _histogram(valid, ENERGY, limit=settings.get("stable_below_eV_per_atom")),
    ]
    return [chart for chart in found if chart is not None]


def tiers(frames: Frames) -> Chart | None:
    """How many of the stable samples stand on each rung of novelty, equal ones counted once."""
    if any("novelty.tier" not in frame for frame in frames.values()):
        return None
    tables = {name: _distinct(frame[frame["stable"]]) for name, frame in frames.items()}
    shares = {
        name: [100 * float((table["novelty.tier"] == tier).sum()) / len(frames[name]) for tier in Tier]
        for name, table in tables.items()
    }
    rows = [TIERS[tier] for tier in Tier]
    best = ", ".join(f"{name} {values[-1]:.1f} %" for name, values in shares.items())
    swapped = ", ".join(f"{name} {values[2]:.1f} %" for name, values in shares.items())
    return _of_shares(
        "tiers",
        "Stable, unique samples by rung",
        f"Of the structures requested, stable, unique and of a new prototype: {best}; reached by swapping "
        f"elements in a known structure: {swapped}.",
        rows,
        shares,
        drawing.bars(
            rows,
            _plain(shares),
            label="% of those requested",
        ),
    )


def _distinct(frame: pd.DataFrame) -> pd.DataFrame:
    """The first of each structure; groups are numbered within a run."""
    return frame.drop_duplicates([column for column in ("run", "group") if column in frame])


def _elements(valid: Frames) -> Chart:
    counts = {name: element_counts(frame["formula"]) for name, frame in valid.items()}
    shares = {
        n: {e: 100 * c / max(1, len(valid[n])) for e, c in found.items()} for n, found in counts.items()
    }
    text = "Most common: " + "; ".join(
        f"{name}: " + ", ".join(f"{e} {s[e]:.0f} %" for e in sorted(s, key=s.__getitem__, reverse=True)[:5])
        for name, s in shares.items()
    )
    return _top(
        "elements",
        "Elements",
        f"{text}. Share of the valid samples that hold the element; the {MOST_ELEMENTS} with the greatest "
        "share in any policy.",
        shares,
        MOST_ELEMENTS,
    )


def _space_groups(valid: Frames) -> Chart | None:
    shares: dict[str, dict[int, float]] = {}
    for name, frame in valid.items():
        numbers = frame["space_group_number"].dropna().astype(int)
        shares[name] = {k: 100 * n / max(1, len(frame)) for k, n in Counter(numbers.tolist()).items()}
    text = "Most common: " + "; ".join(
        f"{name}: "
        + ", ".join(f"{space_group(k)} {s[k]:.0f} %" for k in sorted(s, key=s.__getitem__, reverse=True)[:3])
        for name, s in shares.items()
    )
    named = {name: {space_group(k): share for k, share in s.items()} for name, s in shares.items()}
    kinds = ", ".join(f"{name} {len(s)}" for name, s in shares.items())
    return _top("space_groups", "Space groups", f"{text}. Distinct: {kinds}.", named, MOST_GROUPS)


def _sites(valid: Frames) -> Chart:
    values = {name: frame["n_sites"].to_numpy(dtype=np.float64) for name, frame in valid.items()}
    most = int(max((v.max() for v in values.values() if len(v)), default=1))
    edges = [k - 0.5 for k in range(1, most + 2)]
    heights = {name: _shares(v, edges) for name, v in values.items()}
    means = ", ".join(f"{name} {v.mean():.1f}" for name, v in values.items() if len(v))
    return _of_shares(
        "sites",
        "Sites per cell",
        f"Mean number of sites in the primitive cell: {means}.",
        [str(k) for k in range(1, most + 1)],
        heights,
        drawing.histogram(edges, heights, label="sites in the primitive cell", share=SHARE),
    )


def _histogram(
    valid: Frames,
    quantity: Quantity,
    *,
    shade: tuple[float, float] | None = None,
    limit: float | None = None,
) -> Chart | None:
    """Histogram of a quantity; None where the samples do not have it."""
    values: dict[str, NDArray[np.float64]] = {}
    for name, frame in valid.items():
        column = column_of(quantity.key, [str(c) for c in frame.columns])
        if column is None:
            return None
        found = frame[column].to_numpy(dtype=np.float64)
        values[name] = found[np.isfinite(found)]
    everything = np.concatenate(list(values.values()))
    if not len(everything):
        return None
    high = float(np.quantile(everything, 0.99)) if quantity.high is None else quantity.high
    edges = drawing.bin_edges(quantity.low, max(high, quantity.low + 0.1), BINS)
    heights = {name: _shares(v, edges) for name, v in values.items()}
    medians = ", ".join(f"{name} {np.median(v):.2f} {quantity.unit}" for name, v in values.items() if len(v))
    text = f"Median: {medians}."
    if shade is not None:
        text += f" The target window of {shade[0]:.2f} to {shade[1]:.2f} {quantity.unit} is shaded: "
        text += _listed(values, lambda v: ((v >= shade[0]) & (v <= shade[1])).mean()) + " lie in it."
    if limit is not None:
        text += f" Dashed: the limit of {limit:g} {quantity.unit}; below it: "
        text += _listed(values, lambda v: (v < limit).mean()) + "."
    if (everything < edges[0]).any():
        text += f" Below {edges[0]:.1f} {quantity.unit}, not drawn: "
        text += _listed(values, lambda v: (v < edges[0]).mean()) + "."
    if (everything > edges[-1]).any():
        text += f" Beyond {edges[-1]:.1f} {quantity.unit}, not drawn: "
        text += _listed(values, lambda v: (v > edges[-1]).mean()) + "."
    return _of_shares(
        quantity.key,
        quantity.title,
        text,
        drawing.bin_names(edges, 2),
        heights,
        drawing.histogram(
            edges, heights, label=quantity.label, share="% of those measured", shade=shade, limit=limit
        ),
    )


def _shares(values: NDArray[np.float64], edges: Sequence[float]) -> list[float]:
    """Height of each bin in % of all values."""
    return [100 * float(n) / max(1, len(values)) for n in np.histogram(values, edges)[0]]


def _listed(values: Mapping[str, NDArray[np.float64]], share: Callable[[Any], Any]) -> str:
    return ", ".join(f"{name} {100 * float(share(v)):.1f} %" for name, v in values.items() if len(v))


def _plain(shares: Mapping[str, Sequence[float]]) -> drawing.Shares:
    """Shares without intervals."""
    return {name: [(v, np.nan, np.nan) for v in values] for name, values in shares.items()}


def _top(key: str, title: str, text: str, shares: Mapping[str, Mapping[str, float]], most: int) -> Chart:
    """Dots of the classes with the greatest share in any policy."""
    greatest: dict[str, float] = {}
    for found in shares.values():
        for name, share in found.items():
            greatest[name] = max(share, greatest.get(name, 0.0))
    rows = sorted(greatest, key=greatest.__getitem__, reverse=True)[:most]
    heights = {name: [found.get(row, 0.0) for row in rows] for name, found in shares.items()}
    svg = drawing.dots(rows, _plain(heights), label=SHARE)
    return _of_shares(key, title, text, rows, heights, svg)


def _of_shares(
    key: str, title: str, text: str, rows: Sequence[str], shares: Mapping[str, Sequence[float]], svg: str
) -> Chart:
    table = tuple((row, *(f"{values[i]:.1f}" for values in shares.values())) for i, row in enumerate(rows))
    return Chart(key, title, text, svg, ("", *(f"{name}, %" for name in shares)), table)
