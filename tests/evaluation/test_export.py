"""``export``: samples for the field's evaluators, in their order and number."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from real_structures import rock_salt, rutile
from small_run import ENERGY, SEED, caesium_chloride, frame_of, sample, write_run
from tiny import Command, in_process, write_policy

from materium_rl.evaluation.discoveries.benchmarks import LEMAT_SAMPLES
from materium_rl.evaluation.discoveries.export import export
from materium_rl.rewards.base import Outcome
from materium_rl.structure_files import write_structures
from materium_rl.structures import structures_match, with_oxidation_states


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return in_process(monkeypatch, capsys)


def haematite() -> Structure:
    """Fe2O3, two formula units."""
    return Structure.from_spacegroup(
        "R-3c", Lattice.hexagonal(5.04, 13.75), ["Fe", "O"], [[0, 0, 0.355], [0.306, 0, 0.25]]
    ).get_primitive_structure()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``compare`` writes it: two policies, three samples each."""
    folder = tmp_path_factory.mktemp("comparison")
    samples = [
        sample(0, with_oxidation_states(haematite()), 0.5),
        sample(1, caesium_chloride(), 0.0, outcome=Outcome.INVALID),
        sample(2, rock_salt(), 0.7),
    ]
    policies = []
    for name in ("base", "tuned"):
        frame_of(samples).drop(columns=["tokens"]).to_parquet(folder / f"samples_{name}.parquet")
        policies.append({"name": name, "policy": f"runs/{name}", "samples": f"samples_{name}.parquet"})
    record = {"policies": policies, "settings": {"seed": SEED, "materium_rl": "0.1.0"}}
    (folder / "comparison.json").write_text(json.dumps(record))
    return folder


def test_mattergen_gets_frames_and_energies_in_one_order(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(comparison / "samples_tuned.parquet", ["mattergen"], tmp_path / "out")
    drawn = [haematite(), caesium_chloride(), rock_salt()]
    frames = ase.io.read(tmp_path / "out" / "mattergen.extxyz", ":")
    read = [AseAtomsAdaptor.get_structure(atoms) for atoms in frames]  # as the evaluator reads it
    assert [structures_match(a, b) for a, b in zip(read, drawn, strict=True)] == [True] * 3
    assert all(site.specie.symbol for structure in read for site in structure)
    measured = ase.io.read(tmp_path / "out" / "mattergen_energies.extxyz", ":")
    assert [len(atoms) for atoms in measured] == [10, 8]
    energies = np.load(tmp_path / "out" / "energies.npy")
    assert energies.dtype == np.float64
    corrections = [6 * -0.687 + 4 * -2.256, 4 * -0.614]  # eV, Wang et al. (2021): O, Fe with U, Cl
    expected = [ENERGY * n - c for n, c in zip((10, 8), corrections, strict=True)]
    assert energies == pytest.approx(expected, abs=1e-6)
    out, err = capsys.readouterr()
    assert "energies.npy: without 1 of 3: no energy was measured" in err
    assert f"--structures_path={tmp_path / 'out'}/mattergen.extxyz --relax=True" in out
    assert f"--energies_path={tmp_path / 'out'}/energies.npy --relax=False" in out
    record = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert [s["sample"] for s in record["structures"]] == [0, 1, 2]
    assert {(s["policy"], s["seed"]) for s in record["structures"]} == {("tuned", SEED)}


def test_energies_of_relaxed_structures_are_not_given_to_those_drawn(
    comparison: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = frame_of([sample(0, rock_salt(), 0.7)])
    frame["stability.relax_steps"] = 20
    frame.to_parquet(tmp_path / "relaxed.parquet")
    export(tmp_path / "relaxed.parquet", ["mattergen"], tmp_path / "out")
    assert "measured after relaxation" in capsys.readouterr().err
    assert not (tmp_path / "out" / "energies.npy").exists()
    assert not (tmp_path / "out" / "mattergen_energies.extxyz").exists()


def test_two_policies_are_not_judged_as_one(comparison: Path, tmp_path: Path, command: Command) -> None:
    out = str(tmp_path / "out")
    code, _, err = command("export", str(comparison), "--format", "mattergen", "--out", out)
    assert code == 2
    assert f"holds 2: export {comparison / 'samples_base.parquet'} or " in err
    assert command("export", str(comparison), "--format", "cif", "--out", out)[0] == 0
    assert len(list((tmp_path / "out" / "cif").iterdir())) == 6


def test_the_steps_of_a_run_are_not_judged_as_one_policy(tmp_path: Path, command: Command) -> None:
    run = write_run(tmp_path)
    code, _, err = command("export", str(run), "--format", "csv,lemat", "--out", str(tmp_path / "out"))
    assert code == 2
    assert "generate --policy" in err
    code, out, _ = command("export", str(run), "--format", "csv", "--out", str(tmp_path / "out"))
    assert code == 0
    assert out.startswith("9 structures in ")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One structure more than LeMat-GenBench takes, with oxidation states."""
    folder = tmp_path_factory.mktemp("many")
    cell = with_oxidation_states(caesium_chloride())
    structures = []
    for i in range(LEMAT_SAMPLES + 1):
        structure = cell.copy()
        structure.lattice = Lattice.cubic(3.0 + i / 1000)
        structures.append(structure)
    write_structures(structures, folder / "many.json")
    return folder / "many.json"


def test_lemat_takes_2500_samples_unless_told(many: Path, tmp_path: Path, command: Command) -> None:
    args = ("export", str(many), "--format", "lemat", "--out", str(tmp_path / "bench"))
    code, _, err = command(*args)
    assert code == 2
    assert "takes exactly 2,500 structures" in err
    assert "holds 2,501: -n 2500 takes the first ones" in err
    code, _, err = command(*args, "-n", "2600")
    assert code == 2
    assert "expected 2,600: 99 are missing" in err
    code, out, err = command(*args, "-n", "2500")
    assert (code, err) == (0, "")
    files = sorted((tmp_path / "bench").rglob("*.cif"))  # as the benchmark finds them
    assert len(files) == LEMAT_SAMPLES
    last = Structure.from_file(files[-1])
    assert last.lattice.a == pytest.approx(3.0 + (LEMAT_SAMPLES - 1) / 1000)
    assert {str(site.specie) for site in last} == {"Na", "Cl"}
    assert f"--cifs {tmp_path / 'bench'}/lemat --config comprehensive --name bench" in out


def test_too_few_for_lemat_says_what_is_missing(tmp_path: Path, command: Command) -> None:
    (tmp_path / "few").mkdir()
    write_structures([rock_salt(), rutile()], tmp_path / "few" / "two.json")
    (tmp_path / "few" / "torn.cif").write_text("data_x\nloop_\n_atom_site_label\n")
    code, _, err = command(
        "export", str(tmp_path / "few"), "--format", "lemat", "--out", str(tmp_path / "out")
    )
    assert code == 2
    assert "holds 2 structures (1 not read: torn.cif: " in err
    assert "expected 2,500: 2,498 are missing" in err
    assert "-n 2" in err
    assert not (tmp_path / "out").exists()


def test_samples_of_generate_are_exported_as_they_were_drawn(tmp_path: Path, command: Command) -> None:
    policy = write_policy(tmp_path / "policy")
    assert (
        command(
            "generate", "--policy", str(policy), "-n", "6", "--seed", "5", "--out", str(tmp_path / "gen")
        )[0]
        == 0
    )
    code, out, err = command(
        "export",
        str(tmp_path / "gen"),
        "--format",
        "mattergen,extxyz",
        "-n",
        "4",
        "--out",
        str(tmp_path / "out"),
    )
    assert code == 0, err
    assert out.startswith("4 structures in ")
    drawn = ase.io.read(tmp_path / "gen" / "generated.extxyz", ":4")
    for name in ("mattergen.extxyz", "structures.extxyz"):
        frames = ase.io.read(tmp_path / "out" / name, ":")
        assert [f.get_chemical_formula() for f in frames] == [d.get_chemical_formula() for d in drawn]
    info = frames[3].info
    assert (info["sample"], info["seed"], info["policy"]) == (3, 5, str(policy))
    code, out, _ = command("discoveries", str(tmp_path / "gen"), "--top", "2")
    assert code == 0
    assert "2 distinct of 6 samples that pass" in out
