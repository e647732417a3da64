"""Stability: known crystals, the three outcomes, and Materials Project labels."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure

from materium_rl.errors import ConfigError
from materium_rl.rewards.base import Failure, Invalid, Measurement
from materium_rl.rewards.catalogue import stability as stability_module
from materium_rl.rewards.catalogue.stability import Stability
from materium_rl.rewards.energies import chgnet_energies
from materium_rl.rewards.hull import load_hull
from materium_rl.rewards.potentials import chgnet
from materium_rl.rewards.potentials.chgnet import load_chgnet, load_network
from materium_rl.rewards.potentials.chgnet_graph import Graph
from materium_rl.rewards.registry import create
from materium_rl.rewards.relaxation import relaxation
from materium_rl.rewards.shared import sharing

SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.47), ["Si"], [[0, 0, 0]])
SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
MAGNESIA = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.26), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
IRON = Structure(Lattice.cubic(2.84), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])
ISOLATED = Structure(Lattice.cubic(7.5), ["Ar"], [[0, 0, 0]])
OVERLAPPING = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.01, 0, 0]])
DENSE = Structure(Lattice.cubic(1.1), ["Fe"], [[0, 0, 0]])
NOT_FINITE = Structure(Lattice.cubic(4), ["Na"], [[math.nan, 0, 0]])
YTTERBIUM = Structure(Lattice.cubic(3.9), ["Yb", "Yb"], [[0, 0, 0], [0.5, 0.5, 0.5]])
BERKELIUM = Structure(Lattice.cubic(4), ["Bk", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
COPPER = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.62), ["Cu"], [[0, 0, 0]])
GOOD = [COPPER, SALT, MAGNESIA]


def test_known_crystals_are_stable_and_a_stretched_one_is_not() -> None:
    stretched = SALT.copy()
    stretched.scale_lattice(SALT.volume * 1.6)
    *good, bad = Stability().measure([*GOOD, stretched])
    assert all(isinstance(result, Measurement) and result.value < 0.05 for result in good)
    assert isinstance(bad, Measurement)
    assert bad.value > 0.1
    assert bad.details["e_above_hull_raw"] == bad.value


def test_formation_energies_match_the_materials_project() -> None:
    expected = [0.0, -2.11, -3.05]
    details = [result.details for result in Stability().measure(GOOD) if isinstance(result, Measurement)]
    assert [row["formation_energy"] for row in details] == pytest.approx(expected, abs=0.06)


def test_silicon_has_the_energy_that_chgnet_itself_predicts() -> None:
    native = float(load_chgnet().predict_structure(SILICON, task="e")["e"])
    assert chgnet_energies([SILICON])[0] == pytest.approx(native, abs=1e-4)
    assert native == pytest.approx(-5.314, abs=0.01)  # PBE: -5.425, a known weakness for elements


def test_oxidation_states_do_not_change_the_measurement() -> None:
    charged = SALT.copy()
    charged.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    plain, decorated = Stability().measure([SALT, charged])
    assert plain == decorated


def test_one_bad_structure_never_spoils_the_batch() -> None:
    alone = chgnet_energies([SILICON, SALT, MAGNESIA, IRON])
    mixed = chgnet_energies(
        [ISOLATED, SILICON, OVERLAPPING, SALT, DENSE, MAGNESIA, NOT_FINITE, IRON, BERKELIUM]
    )
    assert mixed[1:8:2] == pytest.approx(alone, abs=1e-4)
    assert [type(mixed[index]) for index in (0, 2, 4, 6, 8)] == [Invalid] * 4 + [Failure]


def test_a_batch_that_raises_is_halved_until_the_culprit_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_network()

    def explode(graph: Graph, *, forces: bool) -> object:
        if 12 in graph.numbers:
            raise RuntimeError("boom")
        return network(graph, forces=forces)

    monkeypatch.setattr(chgnet, "load_network", lambda: explode)
    silicon, magnesia, iron = chgnet_energies([SILICON, MAGNESIA, IRON])
    assert magnesia == Failure("CHGNet raised RuntimeError: boom")
    assert isinstance(silicon, float)
    assert isinstance(iron, float)


def test_element_without_reference_is_a_failure() -> None:
    (result,) = Stability().measure([YTTERBIUM])
    assert isinstance(result, Failure)
    assert "Yb" in result.reason


@pytest.mark.parametrize(
    ("shift", "expected"), [(-0.1, Measurement), (-0.3, Failure), (math.nan, Failure), (0.1, Measurement)]
)
def test_energy_far_below_the_hull_is_never_rewarded(
    monkeypatch: pytest.MonkeyPatch, shift: float, expected: type
) -> None:
    hull = load_hull()
    on_hull = hull.formation_energy(SALT.composition, 0.0)
    energy = -hull.e_above_hull(SALT.composition, 0.0) - on_hull + shift
    monkeypatch.setattr(stability_module, "energies_of", lambda *_: lambda structures: [energy])
    (result,) = Stability().measure([SALT])
    assert isinstance(result, expected)
    if isinstance(result, Measurement):
        assert result.value == pytest.approx(max(0.0, shift), abs=1e-6)
        assert result.details["e_above_hull_raw"] == pytest.approx(shift, abs=1e-6)


@pytest.mark.parametrize("energy", [math.nan, math.inf, -1e6, 60.0])
def test_absurd_energies_are_invalid(monkeypatch: pytest.MonkeyPatch, energy: float) -> None:
    def answer(graph: Graph, *, forces: bool) -> object:
        sites = np.zeros(len(graph.numbers))
        return sites + energy, sites, None

    monkeypatch.setattr(chgnet, "load_network", lambda: answer)
    assert isinstance(chgnet_energies([SILICON])[0], Invalid)


def test_energies_are_shared_within_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = chgnet._evaluate
    monkeypatch.setattr(
        chgnet, "_evaluate", lambda batch, forces: (calls.append(len(batch)), real(batch, forces))[1]
    )
    structures = [SILICON, SALT]
    with sharing():
        chgnet_energies(structures)
        Stability().measure(structures)
    assert calls == [2]


def test_relaxation_lowers_the_energy() -> None:
    strained = SALT.get_primitive_structure()
    strained.scale_lattice(strained.volume * 1.1)
    before = strained.copy()
    (unrelaxed,), (relaxed,) = Stability().measure([strained]), Stability(relax=20).measure([strained])
    assert isinstance(unrelaxed, Measurement)
    assert isinstance(relaxed, Measurement)
    assert relaxed.value < unrelaxed.value
    assert relaxed.details["relax_steps"] <= 20
    assert strained == before
    assert isinstance(relaxation(5)([ISOLATED])[0], Invalid)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"calculator": "chgnett"}, "did you mean 'chgnet'"),
        ({"calculator": "matgl:"}, "matgl:NAME_OR_FOLDER"),
        ({"calculator": "ase.calculators.emt:EMT"}, "set scale="),
        ({"calculator": "chgnet", "scale": "uncorrected"}, "leave scale out"),
    ],
)
def test_a_calculator_without_a_known_scale_is_refused(options: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        create("stability", options)


def test_the_calculator_may_stand_without_a_name() -> None:
    assert create("stability", {"": "sevenn"}) == Stability(calculator="sevenn")


def test_score_is_flat_on_top_and_has_a_slope_beyond_the_threshold() -> None:
    curve = Stability().shaping()
    assert [curve(value) for value in (-0.1, 0.0, 0.1)] == pytest.approx([1, 1, 0.5])
    assert curve(0.025) > 0.9
    assert curve(0.2) > curve(0.3) > curve(1.0) > 0
    with pytest.raises(ValueError, match="half_score"):
        Stability(full_score=0.2)


def test_labels_of_the_materials_project(shared_data: Path) -> None:
    rows = pd.read_csv(shared_data / "mp_val.csv.gz", keep_default_na=False).iloc[::18]
    rows = rows[~rows.formula.str.contains("Yb")]
    structures = [Structure.from_str(text, fmt="cif") for text in rows.cif]
    results = Stability().measure(structures)
    errors = [
        abs(result.value - float(label))
        for result, label in zip(results, rows.e_above_hull, strict=True)
        if isinstance(result, Measurement)
    ]
    assert len(errors) >= 0.9 * len(rows)
    assert sum(errors) / len(errors) < 0.05


def test_another_potential_relaxes() -> None:
    """EMT swells or shrinks the cell of copper to its own lattice constant; CHGNet gives the energy there."""
    emt = "ase.calculators.emt:EMT"
    squeezed = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.4), ["Cu"], [[0, 0, 0]])
    (result,) = Stability(relax=60, relaxer=emt).measure([squeezed])
    assert isinstance(result, Measurement)
    relaxed = Structure.from_str(result.details["relaxed_cif"], fmt="cif")
    assert relaxed.get_primitive_structure().volume == pytest.approx(3.59**3 / 4, rel=0.01)  # that of EMT
    (there,) = Stability().measure([relaxed])
    assert isinstance(there, Measurement)
    assert result.details["energy_per_atom"] == pytest.approx(there.details["energy_per_atom"], abs=1e-4)
    assert result.details["relax_rmsd"] == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="relaxer needs relax=N"):
        Stability(relaxer="chgnet")
    with pytest.raises(ValueError, match="did you mean 'chgnet'"):
        Stability(relax=5, relaxer="chgnett")
