"""Rebuild the reference index of the novelty reward.

    python scripts/build_references.py --train mp_train.csv.gz

Needs pip and an index that serves crabnet (for the formulas of the Materials Project), and a CSV file
in the MP-20 convention (columns material_id and cif) with the training structures; about two minutes
on one core.
"""

from __future__ import annotations

import argparse
import csv
import io
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
from build_hull import CRABNET, download
from manifest import ASSETS, record
from pymatgen.core import Composition

from materium_rl.files import atomic_path
from materium_rl.rewards.reference_arrays import build_arrays
from materium_rl.rewards.references import ASSET
from materium_rl.structure_files import read_structures

TABLES = ("mp_e_form", "mp_gap")
SOURCE = (
    "Materials Project (Jain et al., APL Materials 1, 011002, 2013): reduced formulas of the "
    "matbench_mp_e_form and matbench_mp_gap tables (Dunn et al., npj Comput. Mater. 6, 138, 2020) in "
    f"{CRABNET}; structures, fingerprints and prototype labels of the training split"
)
LICENCE = "CC-BY-4.0 (Materials Project data); MIT (crabnet)"


def main() -> None:
    """Download the formulas, index the structures, write and record the asset."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train", type=Path, required=True, help="CSV of the training structures")
    parser.add_argument("--crabnet", type=Path, help=f"wheel of {CRABNET}, if already downloaded")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", module="pymatgen")
    with tempfile.TemporaryDirectory() as scratch:
        options = ("--ignore-requires-python", "--only-binary", "crabnet")
        formulas = read_formulas(arguments.crabnet or download(CRABNET, Path(scratch), *options))
    result = read_structures(arguments.train).require_any(arguments.train)
    print(result.summary())
    structures = [row.structure for row in result.rows]
    arrays = build_arrays(structures, [row.properties["material_id"] for row in result.rows], formulas)
    with atomic_path(ASSETS / ASSET) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
    record(
        ASSET,
        source=SOURCE,
        licence=LICENCE,
        command="python scripts/build_references.py --train mp_train.csv.gz",
    )
    size = (ASSETS / ASSET).stat().st_size / 1e6
    print(f"{len(structures)} structures, {len(arrays['formula_hashes'])} formulas, {size:.1f} MB")


def read_formulas(wheel: Path) -> set[str]:
    """Reduced formulas of all tables, as pymatgen writes them."""
    written: set[str] = set()
    with zipfile.ZipFile(wheel) as archive:
        for table in TABLES:
            text = archive.read(f"crabnet/data/matbench/{table}.csv").decode()
            written.update(row["formula"] for row in csv.DictReader(io.StringIO(text)))
    return {Composition(formula).reduced_formula for formula in written}


if __name__ == "__main__":
    main()
