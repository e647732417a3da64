"""Write samples as the field's evaluators expect them: ``mattergen-evaluate`` and LeMat-GenBench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from materium_rl.evaluation.discoveries.provenance import Entry
from materium_rl.rewards.potentials.mp_corrections import mp2020_correction
from materium_rl.structure_files import write_structures
from materium_rl.structure_parsers import PARSE_ERRORS, unreadable
from materium_rl.structures import strip_oxidation_states

LEMAT_SAMPLES = 2500
"""CIFs of a LeMat-GenBench submission (arXiv 2512.04562)."""
MATTERGEN_FILE, WITH_ENERGIES_FILE = "mattergen.extxyz", "mattergen_energies.extxyz"
ENERGIES_FILE = "energies.npy"
ENERGY = "stability.energy_per_atom"
RELAXED = "stability.relax_steps"

_MATTERGEN = "mattergen-evaluate --structures_path={folder}/"
COMMANDS = {
    "mattergen": (
        f"{_MATTERGEN}{MATTERGEN_FILE} --relax=True --structure_matcher=disordered "
        "--save_as={folder}/metrics.json"
    ),
    "lemat": "uv run scripts/run_benchmarks.py --cifs {folder}/lemat --config comprehensive --name {name}",
}
"""What to run then, in the environment of the evaluator."""
ENERGIES_COMMAND = (
    f"{_MATTERGEN}{WITH_ENERGIES_FILE} --energies_path={{folder}}/{ENERGIES_FILE} --relax=False "
    "--structure_matcher=disordered --save_as={folder}/metrics_of_energies.json"
)
"""The same by the energies of the reward, unrelaxed."""


def write_mattergen(entries: Sequence[Entry], folder: Path) -> list[str]:
    """``mattergen.extxyz`` with N frames, and those of known energy again, with ``energies.npy``.

    One extxyz keeps the order that the energies follow; of a zip or folder of CIF files the evaluator takes
    the order of the directory. Energies are total ones in eV without MP2020 corrections, which the evaluator
    adds itself.

    Source: mattergen at commit b5756de, ``scripts/evaluate.py`` and ``common/utils/eval_utils.py``.
    """
    _write_frames(entries, folder / MATTERGEN_FILE)
    energies = [_energy(entry) for entry in entries]
    known = {i: energy for i, energy in enumerate(energies) if isinstance(energy, float)}
    if known:
        _write_frames([entries[i] for i in known], folder / WITH_ENERGIES_FILE)
        np.save(folder / ENERGIES_FILE, np.array(list(known.values()), dtype=np.float64))
    missing = [energy for energy in energies if isinstance(energy, str)]
    return [f"{ENERGIES_FILE}: without {len(missing):,} of {len(entries):,}: {missing[0]}"] if missing else []


def _write_frames(entries: Sequence[Entry], path: Path) -> None:
    structures = [strip_oxidation_states(entry.structure) for entry in entries]
    write_structures(structures, path, properties=[{"name": entry.name} for entry in entries])


def _energy(entry: Entry) -> float | str:
    """Total energy in eV without corrections, or why there is none."""
    if RELAXED in entry.properties:
        return "the energy was measured after relaxation, but the sample is stored as it was drawn"
    if ENERGY not in entry.properties:
        return "no energy was measured"
    try:
        correction = mp2020_correction(entry.structure)
    except PARSE_ERRORS as error:
        return f"no MP2020 correction for {entry.name}: {unreadable('', error).message}"
    return (float(entry.properties[ENERGY]) - correction) * len(entry.structure)


def write_lemat(entries: Sequence[Entry], folder: Path) -> list[str]:
    """``lemat/`` with one CIF per sample, of plain elements and nothing else.

    Source: LeMat-GenBench at commit ee37902, ``README.md`` and ``scripts/run_benchmarks.py``: it reads every
    ``*.cif`` below the folder, and its hull knows no charged species.
    """
    (folder / "lemat").mkdir()
    for entry in entries:
        text = str(strip_oxidation_states(entry.structure).to(fmt="cif"))
        (folder / "lemat" / f"{entry.name}.cif").write_text(text, encoding="utf-8")
    return []
