"""How well the energies of each potential reproduce the stability labels of the Materials Project.

    python benchmarks/hull_error.py --data mp_val.csv.gz --calculator chgnet --calculator sevenn

Measures structures that carry a label ``e_above_hull`` with ``stability(calculator=...)``, as they are
written (they are relaxed already), and prints the mean absolute error with a bootstrapped interval of 95 %.
Labels are never negative, so what lies below the hull counts as 0. ``--relax N`` relaxes first.

Two more lines tell where an error comes from: the labelled formation energies with this program's hull (the
error of the hull alone), and the formation energies against their labels (the error of the potential, its
corrections and the element references, without the hull). Not every structure has a labelled formation
energy.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from intervals import Estimate, mean, print_table, write_json
from numpy.typing import NDArray
from pymatgen.core import Structure

from materium_rl.rewards.base import Measurement
from materium_rl.rewards.hull import MissingReferenceError, load_hull
from materium_rl.rewards.registry import create

LABELS = ("e_above_hull", "formation_energy_per_atom")


def read(path: Path, n: int) -> tuple[list[Structure], pd.DataFrame]:
    """N structures spread evenly over the file, and their labels."""
    rows = pd.read_csv(path, keep_default_na=False)
    missing = {"cif", *LABELS} - set(rows.columns)
    if missing:
        raise SystemExit(f"{path} lacks the columns {', '.join(sorted(missing))}")
    for label in LABELS:
        rows[label] = pd.to_numeric(rows[label], errors="coerce")
    rows = rows[rows["e_above_hull"].notna()]
    rows = rows.iloc[np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int)]
    return [Structure.from_str(text, fmt="cif") for text in rows.cif], rows


def hull_alone(structures: list[Structure], rows: pd.DataFrame) -> dict[str, Any]:
    errors = []
    for structure, row in zip(structures, rows.itertuples(), strict=True):
        if not np.isfinite(row.formation_energy_per_atom):
            continue
        try:
            found = load_hull().e_above_hull(structure.composition, row.formation_energy_per_atom)
        except MissingReferenceError:
            continue
        errors.append(abs(max(0.0, found) - row.e_above_hull))
    return figure("labelled energies, this hull", "e_above_hull", np.array(errors))


def figure(calculator: str, quantity: str, errors: NDArray[np.float64]) -> dict[str, Any]:
    errors = 1000 * errors[np.isfinite(errors)]
    return {
        "calculator": calculator,
        "quantity": quantity,
        "n": len(errors),
        "MAE, meV/atom": mean(errors),
        "median, meV/atom": Estimate(float(np.median(errors))),
        "above 100 meV/atom, %": Estimate(100 * float(np.mean(errors > 100))),
    }


def measured(
    calculator: str, structures: list[Structure], rows: pd.DataFrame, relax: int
) -> list[dict[str, Any]]:
    reward = create("stability", {"calculator": calculator, "relax": relax})
    reward.load()
    start = time.process_time()
    results = reward.measure(structures)
    seconds = time.process_time() - start
    errors, formation = [], []
    for result, row in zip(results, rows.itertuples(), strict=True):
        if isinstance(result, Measurement):
            errors.append(abs(result.value - row.e_above_hull))
            formation.append(abs(result.details["formation_energy"] - row.formation_energy_per_atom))
    reasons = [result.reason.partition(" (")[0] for result in results if not isinstance(result, Measurement)]
    print(
        f"{calculator}: {1000 * seconds / len(structures):.1f} ms of the processor a structure; "
        f"not measured: {dict(Counter(reasons)) or 'none'}",
        file=sys.stderr,
    )
    return [
        figure(calculator, "e_above_hull", np.array(errors)),
        figure(calculator, "formation energy", np.array(formation)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help=f"CSV with cif, {', '.join(LABELS)}")
    parser.add_argument("--calculator", action="append", help="repeatable (chgnet)")
    parser.add_argument("-n", type=int, default=400, help="structures")
    parser.add_argument("--relax", type=int, default=0, help="most steps of relaxation")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    structures, rows = read(arguments.data, arguments.n)
    figures = [hull_alone(structures, rows)]
    for calculator in arguments.calculator or ["chgnet"]:
        figures += measured(calculator, structures, rows, arguments.relax)
    print_table(figures)
    if arguments.json:
        write_json({"arguments": vars(arguments), "figures": figures}, arguments.json)


if __name__ == "__main__":
    main()
