"""What a round trip through the tokens keeps: the structure, and its space group.

    python benchmarks/tokenizer_round_trip.py --data mp_train.csv.gz

A seeded sample of the rows is reduced to primitive Niggli cells, encoded and decoded. Beside it stand the
coordinates of the Materium paper (arXiv 2512.07486): floor(1024 x), decoded half a bin further, in the same
cell. The space group of a decoded structure is compared with that of the reduced structure at the same
tolerance. Prints a Markdown table; about three minutes for 2,000 rows on one core.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from pymatgen.core import Structure

from materium_rl.cif import parse_cif
from materium_rl.errors import TokenizationError
from materium_rl.structures import structures_match, to_primitive_niggli
from materium_rl.tokenizer import CrystalCodec, TokenizerSettings, species_of

SYMPRECS = (0.01, 0.1)
BINS = 1024
AGREEMENT_ROWS = 200

Judge = Callable[[Structure, float], int | None]


def spglib_number(structure: Structure, symprec: float) -> int | None:
    """Space group number by spglib through pymatgen; None where the search fails."""
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer, SymmetryUndeterminedError

    try:
        return SpacegroupAnalyzer(structure, symprec=symprec).get_space_group_number()
    except SymmetryUndeterminedError:
        return None


def moyo_number(structure: Structure, symprec: float) -> int | None:
    """Space group number by moyopy, a second judge; None where the search fails."""
    from moyopy import Cell, MoyoDataset

    numbers = [site.specie.Z for site in structure]
    cell = Cell(structure.lattice.matrix.tolist(), structure.frac_coords.tolist(), numbers)
    try:
        return int(MoyoDataset(cell, symprec=symprec).number)
    except ValueError:
        return None


def half_bins(reduced: Structure, decoded: Structure) -> Structure:
    """The paper's coordinates of ``reduced`` in the cell of ``decoded``."""
    coords = (np.floor(reduced.frac_coords * BINS) % BINS + 0.5) / BINS
    return Structure(decoded.lattice, reduced.species, coords)


def sampled_rows(path: Path, rows: int, seed: int) -> pd.DataFrame:
    table = pd.read_csv(path)
    return table.sample(min(rows, len(table)), random_state=seed)


def kept(judge: Judge, before: list[Structure], after: list[Structure], symprec: float) -> np.ndarray:
    """Whether each structure has kept its space group; a structure without one has lost it."""
    pairs = ((judge(a, symprec), judge(b, symprec)) for a, b in zip(before, after, strict=True))
    return np.array([a is not None and a == b for a, b in pairs])


def losses(before: list[Structure], after: list[Structure], lost: np.ndarray, symprec: float) -> str:
    """Whether coordinates or cell cost the symmetry, and the commonest changes of space group."""
    names = {
        (True, False): "coordinates",
        (False, True): "cell",
        (True, True): "either alone",
        (False, False): "only together",
    }
    causes: Counter[str] = Counter()
    changes: Counter[str] = Counter()
    for i in np.flatnonzero(lost):
        a, b = before[i], after[i]
        number = spglib_number(a, symprec)
        changes[f"{number} to {spglib_number(b, symprec)}"] += 1
        sites = spglib_number(Structure(a.lattice, b.species, b.frac_coords), symprec) != number
        cell = spglib_number(Structure(b.lattice, a.species, a.frac_coords), symprec) != number
        causes[names[sites, cell]] += 1
    return (
        f"{int(lost.sum())} lost at symprec {symprec:g}, by rounding of "
        f"{', '.join(f'{name} {count}' for name, count in causes.most_common())}; "
        f"commonest: {', '.join(f'{change} ({count})' for change, count in changes.most_common(4))}."
    )


def encoded(
    reduced: list[Structure], settings: TokenizerSettings
) -> tuple[list[Structure | None], list[str]]:
    """Decoded structures, None for those that the tokenizer refuses, and the reasons."""
    codec = CrystalCodec(settings)
    decoded: list[Structure | None] = []
    refused: list[str] = []
    for structure in reduced:
        try:
            decoded.append(codec.decode(codec.encode(structure, reduce=False)))
        except TokenizationError as error:
            decoded.append(None)
            refused.append(str(error))
    return decoded, refused


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="CSV with a column cif")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["SPGLIB_WARNING"] = "OFF"  # it tells the terminal of every search that fails
    start = time.monotonic()

    table = sampled_rows(arguments.data, arguments.rows, arguments.seed)
    originals = [parse_cif(text)[0] for text in table["cif"]]
    niggli = [to_primitive_niggli(structure) for structure in originals]
    settings = TokenizerSettings(species=species_of(niggli))
    reduced = [CrystalCodec(settings).setting(structure) for structure in niggli]
    decoded, refused = encoded(reduced, settings)
    rows = [i for i, structure in enumerate(decoded) if structure is not None]
    before = [reduced[i] for i in rows]
    name = f"this tokenizer (grid {settings.grid})"
    after = {
        name: [s for s in decoded if s is not None],
        f"floor and half a bin ({BINS})": [half_bins(reduced[i], decoded[i]) for i in rows],  # type: ignore[arg-type]
    }
    print(
        f"{len(table):,} rows of {arguments.data.name} (seed {arguments.seed}), {len(rows):,} encoded; "
        f"lengths in steps of {settings.length_step:g} Å, angles of {settings.angle_step:g}°.\n"
    )
    for reason in refused:
        print(f"refused: {reason}")
    tolerances = " | ".join(f"space group kept at {s:g} Å" for s in SYMPRECS)
    print(f"| | StructureMatcher agrees | {tolerances} |\n|---|--:|{'--:|' * len(SYMPRECS)}")
    for title, structures in after.items():
        same = [structures_match(originals[i], s) for i, s in zip(rows, structures, strict=True)]
        same_group = [kept(spglib_number, before, structures, symprec) for symprec in SYMPRECS]
        cells = " | ".join(f"{flags.sum():,} ({100 * flags.mean():.2f} %)" for flags in same_group)
        print(f"| {title} | {sum(same):,} of {len(same):,} | {cells} |", flush=True)
    for symprec in SYMPRECS:
        lost = ~kept(spglib_number, before, after[name], symprec)
        if lost.any():
            print(f"\n{losses(before, after[name], lost, symprec)}")
    few = after[name][:AGREEMENT_ROWS]
    for symprec in SYMPRECS:
        agree = [spglib_number(s, symprec) == moyo_number(s, symprec) for s in few]
        share = kept(moyo_number, before, after[name], symprec).mean()
        print(
            f"\nsymprec {symprec:g}: moyopy as the judge instead of spglib: {100 * share:.1f} % kept; "
            f"the two name the same group for {sum(agree)} of {len(agree)} decoded structures."
        )
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
