"""Write structures for other programs, with all that is known of them where the format can hold it."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gemmi

from materium_rl.errors import ConfigError, did_you_mean
from materium_rl.evaluation.discoveries.benchmarks import write_lemat, write_mattergen
from materium_rl.evaluation.discoveries.provenance import Entry
from materium_rl.files import atomic_path
from materium_rl.runs import PROVENANCE
from materium_rl.structure_files import write_structures
from materium_rl.structure_parsers import PARSE_ERRORS, unreadable
from materium_rl.structures import strip_oxidation_states

if TYPE_CHECKING:
    from pymatgen.core import Structure

CIF_PREFIX = "_materium_rl_"
"""How the CIF items begin that hold what is known of a structure."""
MOST_FAULTS = 5
"""So many of what could not be read or written are printed."""
MAX_COMMENT = 200
"""Characters of a POSCAR's comment line."""

Writer = Callable[[Sequence[Entry], Path], list[str]]
"""Writes into a folder; returns what it could not write, with the reason."""


def write_cif(entries: Sequence[Entry], folder: Path) -> list[str]:
    """One CIF each; properties as items ``_materium_rl_NAME``."""
    (folder / "cif").mkdir()
    for entry in entries:
        (folder / "cif" / f"{entry.name}.cif").write_text(cif_text(entry), encoding="utf-8")
    return []


def cif_text(entry: Entry) -> str:
    """CIF of an entry, its properties after the line with the name of the block."""
    head, block, rest = str(entry.structure.to(fmt="cif")).partition("\ndata_")
    name, _, body = rest.partition("\n")
    items = [_cif_item(f"{CIF_PREFIX}{key}", str(value)) for key, value in _plain_keys(entry).items()]
    return "\n".join([f"{head}{block}{name}", *items, body])


def _cif_item(tag: str, value: str) -> str:
    quoted = gemmi.cif.quote(value)
    return f"{tag}\n{quoted}" if quoted.startswith(";") else f"{tag}   {quoted}"


def write_poscar(entries: Sequence[Entry], folder: Path) -> list[str]:
    """One POSCAR each, ``NAME.vasp``; run, step, sample, seed and policy in its first line."""
    from pymatgen.io.vasp import Poscar

    (folder / "poscar").mkdir()
    for entry in entries:
        told = [f"{key}={entry.properties[key]}" for key in _IN_COMMENT if key in entry.properties]
        comment = " ".join([entry.structure.composition.reduced_formula, *told])[:MAX_COMMENT]
        poscar = Poscar(entry.structure, comment=comment, sort_structure=True)
        (folder / "poscar" / f"{entry.name}.vasp").write_text(poscar.get_str(), encoding="utf-8")
    return []


_IN_COMMENT = ("step", "sample", "seed", "policy", "source")


def write_extxyz(entries: Sequence[Entry], folder: Path) -> list[str]:
    """``structures.extxyz``, one frame each; properties as info, with ``_`` for ``.`` in their names."""
    structures = [entry.structure for entry in entries]
    write_structures(structures, folder / "structures.extxyz", properties=[_plain_keys(e) for e in entries])
    return []


def write_json(entries: Sequence[Entry], folder: Path) -> list[str]:
    """``structures.json``: a list of pymatgen structures, each with ``properties``."""
    return _write_whole(entries, folder / "structures.json")


def write_csv(entries: Sequence[Entry], folder: Path) -> list[str]:
    """``structures.csv``: CIF, formula, number of sites and all properties, one row each."""
    return _write_whole(entries, folder / "structures.csv")


def _write_whole(entries: Sequence[Entry], path: Path) -> list[str]:
    write_structures([e.structure for e in entries], path, properties=[e.properties for e in entries])
    return []


def write_dft(entries: Sequence[Entry], folder: Path) -> list[str]:
    """One VASP input folder each by pymatgen's ``MPRelaxSet``: INCAR, KPOINTS, POSCAR and POTCAR.spec.

    POTCAR files are under VASP's licence and cannot be shipped; ``POTCAR.spec`` names the ones to put
    together. ``provenance.json`` lies beside them.
    """
    (folder / "dft").mkdir()
    faults = []
    for entry in entries:
        target = folder / "dft" / entry.name
        try:
            inputs = _relaxation_inputs(strip_oxidation_states(entry.structure))
            inputs.write_input(str(target), potcar_spec=True)
        except PARSE_ERRORS as error:
            faults.append(f"dft/{entry.name}: {unreadable('', error).message}")
            continue
        _write_json(target / PROVENANCE, entry.properties)
    return faults


def _relaxation_inputs(structure: Structure) -> Any:
    """``MPRelaxSet``; a grid centred on gamma where spglib cannot tell which kind the symmetry asks for."""
    from pymatgen.io.vasp import Kpoints
    from pymatgen.io.vasp.sets import MPRelaxSet
    from pymatgen.symmetry.analyzer import SymmetryUndeterminedError

    inputs = MPRelaxSet(structure)
    try:
        _ = inputs.kpoints
    except SymmetryUndeterminedError:
        per_volume = MPRelaxSet.CONFIG["KPOINTS"]["reciprocal_density"]
        density = per_volume * structure.lattice.reciprocal_lattice.volume * len(structure)
        grid: Any = Kpoints.automatic_gamma_density(structure, density)
        return MPRelaxSet(structure, user_kpoints_settings=grid)
    return inputs


FORMATS: dict[str, Writer] = {
    "cif": write_cif,
    "extxyz": write_extxyz,
    "poscar": write_poscar,
    "json": write_json,
    "csv": write_csv,
    "dft": write_dft,
}
BENCHMARKS: dict[str, Writer] = {"mattergen": write_mattergen, "lemat": write_lemat}
"""Formats of programs that judge a policy by its samples; selected structures are not for them."""


def check_formats(texts: Iterable[str], known: Mapping[str, Writer]) -> list[str]:
    """Names of formats out of ``["cif,dft", "json"]``, each once.

    Raises:
        ConfigError: There is no format of that name.
    """
    names = dict.fromkeys(name.strip() for text in texts for name in text.split(","))
    for name in names:
        if name in BENCHMARKS and name not in known:
            raise ConfigError(
                f"--format {name} is for samples as the policy drew them, not for selected structures: "
                f"use materium-rl export"
            )
        if name not in known:
            hint = did_you_mean(name, known)
            raise ConfigError(f"--format {name!r} is not known{hint}; expected {', '.join(known)}")
    return list(names)


def write_exports(
    entries: Sequence[Entry], formats: Sequence[str], folder: Path, record: Mapping[str, Any]
) -> list[str]:
    """Write all formats into a folder, which takes its name when it is complete.

    Args:
        entries: What to write.
        formats: Names of ``FORMATS`` or ``BENCHMARKS``.
        folder: Target; an older one is replaced.
        record: What the structures are, for ``provenance.json``.

    Returns:
        What could not be written, with the reason.
    """
    faults: list[str] = []
    with atomic_path(folder) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen's on noble gases, and on newer POTCARs than the MP's
        temporary.mkdir()
        for name in formats:
            faults += (FORMATS | BENCHMARKS)[name](entries, temporary)
        written = [{"name": entry.name, **entry.properties} for entry in entries]
        _write_json(temporary / PROVENANCE, {**record, "not_written": faults, "structures": written})
    return faults


def tell_written(count: int, formats: Sequence[str], folder: Path, faults: Sequence[str]) -> None:
    """Print what was written where, and on stderr what was not."""
    tell_faults(faults)
    print(f"{count:,} structures in {folder}: {', '.join(formats)}, {PROVENANCE}")


def tell_faults(faults: Sequence[str]) -> None:
    """Print on stderr what could not be read or written: the first ones, and how many."""
    for fault in faults[:MOST_FAULTS]:
        print(f"warning: {fault}", file=sys.stderr)
    if len(faults) > MOST_FAULTS:
        print(f"warning: and {len(faults) - MOST_FAULTS:,} more", file=sys.stderr)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain_keys(entry: Entry) -> dict[str, Any]:
    """Properties whose names hold no dot, as CIF and extxyz need them."""
    return {key.replace(".", "_"): value for key, value in entry.properties.items()}
