"""Rebuild the convex hull and the element reference energies from two public Python packages.

    python scripts/build_hull.py

Needs pip and an index that serves crabnet and matcalc; about three minutes on one core.

The Materials Project formation energies that crabnet carries were made with the corrections of 2018
(pymatgen's MPCompatibility: oxides, sulfides, +U, and fitted N2, F2, Cl2, H2 references). They are moved
to the MP2020 corrections (Wang et al., Sci. Rep. 11, 15496, 2021), which treat every anion separately and
use plain DFT references. Whether an atom is an anion is decided as pymatgen's
MaterialsProject2020Compatibility does: by guessed oxidation states, otherwise by electronegativity.
A formula does not tell peroxides and superoxides from oxides: all are moved as oxides, which differs by
less than 0.02 eV per O atom between the two schemes.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from manifest import ASSETS, record
from pymatgen.core import Element, Species
from ruamel.yaml import YAML

from materium_rl.rewards.hull import HULL_ASSET, REFERENCES_ASSET, Hull, parse_formula

CRABNET, MATCALC = "crabnet==2.0.8", "matcalc==0.4.8"
COMMAND = "python scripts/build_hull.py"
SOURCES = {
    HULL_ASSET: {
        "source": "Materials Project formation energies (Jain et al., APL Materials 1, 011002, 2013) as the "
        f"matbench_mp_e_form table (Dunn et al., npj Comput. Mater. 6, 138, 2020) in {CRABNET}, moved to "
        "MP2020 corrections with pymatgen's MPCompatibility.yaml and MP2020Compatibility.yaml; only the "
        "phases on the hull of their own chemical system",
        "licence": "CC-BY-4.0 (Materials Project data); MIT (crabnet, pymatgen)",
    },
    REFERENCES_ASSET: {
        "source": f"lowest PBE energy of each element, MP-PBE-Element-Refs in {MATCALC} "
        "(Materials Project data)",
        "licence": "CC-BY-4.0 (Materials Project data); BSD-3-Clause (matcalc)",
    },
}
ANIONS = ("Br", "I", "Se", "Si", "Sb", "Te", "H", "N", "F", "Cl")
FITTED_GASES = ("H", "N", "F", "Cl")
ON_HULL = 1e-6
"""eV/atom; the tolerance of the linear programme's solver."""

Amounts = dict[str, int]


def download(requirement: str, folder: Path, *options: str) -> Path:
    """Download one distribution with pip, without its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
    subprocess.run([*command, *options, requirement], check=True)
    (path,) = folder.glob(f"{requirement.split('==')[0]}-*")
    return path


def read_references(sdist: Path) -> dict[str, float]:
    """Lowest energy (eV/atom) of each element."""
    name = f"{sdist.name.removesuffix('.tar.gz')}/src/matcalc/elemental_refs/MP-PBE-Element-Refs.json.gz"
    with tarfile.open(sdist) as archive:
        member = archive.extractfile(name)
        if member is None:
            raise FileNotFoundError(f"{name} in {sdist.name}")
        table = json.loads(gzip.decompress(member.read()))
    return {element: min(table[element]["energy_per_atom"]) for element in sorted(table)}


def read_formation_energies(wheel: Path) -> dict[str, tuple[Amounts, float]]:
    """Lowest formation energy (eV/atom, old corrections) of each reduced formula."""
    text = zipfile.ZipFile(wheel).read("crabnet/data/matbench/mp_e_form.csv").decode()
    lowest: dict[str, tuple[Amounts, float]] = {}
    for row in csv.DictReader(io.StringIO(text)):
        amounts: Amounts = {}
        for element, number in re.findall(r"([A-Z][a-z]?)(\d+)", row["formula"]):
            amounts[element] = amounts.get(element, 0) + int(number)
        divisor = math.gcd(*amounts.values())
        amounts = {element: number // divisor for element, number in sorted(amounts.items())}
        formula = "".join(f"{element}{number if number > 1 else ''}" for element, number in amounts.items())
        energy = float(row["target"])
        if formula not in lowest or energy < lowest[formula][1]:
            lowest[formula] = amounts, energy
    return lowest


class Corrections:
    """The difference between the MP2020 and the older energy corrections.

    Args:
        references: Plain DFT energy of each element in eV/atom.
    """

    def __init__(self, references: dict[str, float]) -> None:
        folder = files("pymatgen.analysis.compatibility")
        yaml = YAML(typ="safe")
        old: dict[str, Any] = yaml.load(folder.joinpath("MPCompatibility.yaml").read_text())
        mp2020: dict[str, Any] = yaml.load(folder.joinpath("MP2020Compatibility.yaml").read_text())
        new = mp2020["Corrections"]
        self.anions = new["CompositionCorrections"]
        self.always = {
            "O": self.anions["oxide"] - old["OxideCorrections"]["oxide"],
            "S": self.anions["S"] - old["SulfideCorrections"]["sulfide"],
        }
        # The old formation energies count from fitted gas energies, the new ones from DFT energies.
        fitted = old["Advanced"]["CompoundEnergies"]
        self.always |= {gas: fitted[f"{gas}2"] - references[gas] for gas in FITTED_GASES}
        self.old_u, self.new_u = old["Advanced"]["UCorrections"], new["GGAUMixingCorrections"]

    def change(self, amounts: Amounts) -> float:
        """Formation energy after MP2020 minus before, in eV/atom."""
        if len(amounts) == 1:
            return 0.0
        top = max(amounts, key=electronegativity)
        charges = guess_charges(amounts, top)
        old_u, new_u = self.old_u.get(top, {}), self.new_u.get(top, {})
        total = sum(self.always.get(element, 0.0) * n for element, n in amounts.items())
        for element, n in amounts.items():
            if element in ANIONS and (element == top or charges.get(element, 0) < 0):
                total += self.anions[element] * n
            total += (new_u.get(element, 0.0) - old_u.get(element, 0.0)) * n
        return float(total / sum(amounts.values()))


@cache
def electronegativity(element: str) -> float:
    """Pauling electronegativity; -1 where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        value = Element(element).X
    return -1.0 if math.isnan(value) else float(value)


@cache
def occurrences() -> dict[tuple[str, int], float]:
    """How often each element has each oxidation state in the ICSD, from pymatgen."""
    table = YAML(typ="safe").load(files("pymatgen.core").joinpath("icsd_bv.yaml").read_text())
    species = {Species.from_str(name): count for name, count in table["occurrence"].items()}
    return {(s.symbol, int(s.oxi_state)): float(count) for s, count in species.items()}


@cache
def best_scores(element: str, number: int) -> dict[int, float]:
    """Each total charge that a number of atoms can have, with the highest sum of occurrences."""
    states = Element(element).icsd_oxidation_states or Element(element).common_oxidation_states
    best = {0: 0.0}
    for _ in range(number):
        longer: dict[int, float] = {}
        for charge, score in best.items():
            for state in states:
                total = score + occurrences().get((element, state), 0.0)
                longer[charge + state] = max(total, longer.get(charge + state, total))
        best = longer
    return best


def guess_charges(amounts: Amounts, top: str) -> dict[str, int]:
    """Total charge of each element in the likeliest neutral assignment.

    The same criterion as pymatgen's Composition.oxi_state_guesses(max_sites=-20), summed up by charge
    instead of over all combinations. Only where an element besides the most electronegative could be
    an anion; empty where there is no neutral assignment.
    """
    if sum(amounts.values()) > 20 or not any(e in ANIONS and e != top for e in amounts):
        return {}
    partial: dict[int, tuple[float, dict[str, int]]] = {0: (0.0, {})}
    for element, number in amounts.items():
        longer: dict[int, tuple[float, dict[str, int]]] = {}
        for charge, (score, charges) in partial.items():
            for own, gain in best_scores(element, number).items():
                known = longer.get(charge + own)
                if known is None or score + gain > known[0]:
                    longer[charge + own] = (score + gain, {**charges, element: own})
        partial = longer
    return partial[0][1] if 0 in partial else {}


def keep_hull_phases(energies: dict[str, float], references: dict[str, float]) -> dict[str, float]:
    """The phases on the hull of their own chemical system, smaller systems first."""
    hull = Hull([], references)
    systems: dict[tuple[str, ...], list[str]] = {}
    for formula in sorted(energies):
        systems.setdefault(tuple(element for element, _ in parse_formula(formula)), []).append(formula)
    kept: dict[str, float] = {}
    for elements in sorted(systems, key=lambda elements: (len(elements), elements)):
        candidates = {f: energies[f] for f in systems[elements] if len(elements) > 1 and energies[f] < 0}
        for formula, energy in candidates.items():
            hull.add(parse_formula(formula), energy)
        kept |= {f: e for f, e in candidates.items() if e - hull.energy(parse_formula(f)) <= ON_HULL}
    return kept


def main() -> None:
    """Download, convert, prune, write."""
    with tempfile.TemporaryDirectory() as folder:
        # crabnet declares Python < 3.11; only its table is read.
        wheel = download(CRABNET, Path(folder), "--ignore-requires-python", "--only-binary", "crabnet")
        # Without isolation pip needs only the setuptools that torch brings, no compiler.
        sdist = download(MATCALC, Path(folder), "--no-binary", "matcalc", "--no-build-isolation")
        references = read_references(sdist)
        lowest = read_formation_energies(wheel)
    corrections = Corrections(references)
    energies = {f: energy + corrections.change(amounts) for f, (amounts, energy) in lowest.items()}
    kept = keep_hull_phases(energies, references)
    table = pa.table(
        {
            "formula": pa.array(kept.keys(), pa.string()),
            "formation_energy_per_atom": pa.array(kept.values(), pa.float32()),
        }
    )
    pq.write_table(table, ASSETS / HULL_ASSET, compression="zstd", use_dictionary=False)
    content = json.dumps(references, indent=1) + "\n"
    (ASSETS / REFERENCES_ASSET).write_text(content, encoding="utf-8")
    for name, fields in SOURCES.items():
        record(name, command=COMMAND, **fields)
    print(f"{len(lowest)} formulas, {len(kept)} of them on the hull; {len(references)} element references")


if __name__ == "__main__":
    main()
