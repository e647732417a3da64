"""``discoveries``: what is ranked, what counts as the same, what is written and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ase.io
import gemmi
import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Incar, Kpoints, Poscar
from pymatgen.symmetry.analyzer import SymmetryUndeterminedError
from small_run import SEED, diamond, rock_salt, rutile, supercell, write_run
from tiny import Command, in_process

from materium_rl import __version__
from materium_rl.errors import ConfigError
from materium_rl.evaluation.discoveries import exporters
from materium_rl.evaluation.discoveries.exporters import write_exports
from materium_rl.evaluation.discoveries.provenance import Entry
from materium_rl.evaluation.discoveries.ranking import Found, find
from materium_rl.evaluation.discoveries.sources import Samples, read_samples
from materium_rl.resources import file_sha256
from materium_rl.structure_files import read_structures, write_structures
from materium_rl.structures import structures_match


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def samples(made: Path) -> Samples:
    return read_samples(made)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return in_process(monkeypatch, capsys, "discoveries")


def places(samples: Samples, found: Found) -> list[tuple[str, int, int]]:
    rows = [samples.frame.iloc[discovery.row] for discovery in found.discoveries]
    return [(row["formula"], row["step"], row["index"]) for row in rows]


def times(found: Found) -> list[int]:
    return [len(discovery.rows) for discovery in found.discoveries]


def test_the_best_of_equal_structures_stands_for_all_and_all_are_counted(samples: Samples) -> None:
    found = find(samples)
    assert places(samples, found) == [("NaCl", 2, 0), ("NaCl", 3, 2), ("TiO2", 2, 1)]
    assert times(found) == [3, 1, 1]
    assert (found.passed, found.known) == (5, 2)


def test_structures_that_match_one_way_only_are_one(tmp_path: Path) -> None:
    def filled(a: float, bc: float) -> Structure:
        lattice = Lattice.from_parameters(a, bc, bc, 120, 90, 90)
        half = [
            [0.25, 0.1667, 0.3333],
            [0.25, 0.1792, 0.8396],
            [0.25, 0.6604, 0.3208],
            [0.25, 0.6604, 0.8396],
        ]
        sites = [*half, *(1 - np.array(half)).tolist(), [0, 0.5, 0], [0.5, 0.5, 0]]
        return Structure(lattice, [*["Rb", "Cl", "Cl", "Cl"] * 2, "Cu", "Cu"], sites)

    wide, flat = filled(5.97, 7.37), filled(6.25, 7.43)
    flat = Structure(Lattice.from_parameters(6.25, 6.25, 7.43, 120, 90, 90), flat.species, flat.frac_coords)
    assert structures_match(wide, flat) != structures_match(flat, wide)
    for number, pair in enumerate(([wide, flat], [flat, wide])):
        write_structures(pair, tmp_path / f"{number}.json")
        assert times(find(read_samples(tmp_path / f"{number}.json"))) == [2]


def test_known_structures_are_shown_on_demand(samples: Samples) -> None:
    found = find(samples, known=True)
    assert places(samples, found)[-1] == ("Si", 1, 1)
    assert times(found) == [3, 1, 1, 2]
    assert (found.passed, found.known) == (7, 0)


def test_a_filter_chooses_samples_but_all_equal_ones_are_counted(samples: Samples) -> None:
    found = find(samples, where="band_gap > 1 and e_above_hull < 0.03")
    assert places(samples, found) == [("NaCl", 2, 0), ("TiO2", 2, 1)]
    assert times(found) == [3, 1]  # step 3, sample 1 has a gap of 0.4 eV
    assert found.passed == 3


def test_sorting_is_by_any_expression_and_breaks_ties_by_reward(samples: Samples) -> None:
    assert places(samples, find(samples, sort="-e_above_hull")) == [
        ("TiO2", 2, 1), ("NaCl", 2, 0), ("NaCl", 3, 2),
    ]  # fmt: skip
    assert places(samples, find(samples, sort="-band_gap", top=1)) == [("NaCl", 3, 1)]
    assert times(find(samples, sort="-band_gap", top=1)) == [3]


def test_one_of_each_framework(samples: Samples) -> None:
    found = find(samples, by="framework", known=True)
    assert places(samples, found) == [("NaCl", 2, 0), ("TiO2", 2, 1)]
    assert times(found) == [4, 3]
    assert places(samples, find(samples, by="prototype", top=1)) == [("NaCl", 2, 0)]


def test_files_without_frameworks_cannot_be_grouped_by_them(tmp_path: Path) -> None:
    write_structures([rock_salt()], tmp_path / "one.json")
    with pytest.raises(ConfigError, match=r"--by framework: .*one.json does not tell the framework"):
        find(read_samples(tmp_path / "one.json"), by="framework")


def test_plain_files_are_ranked_by_their_properties(tmp_path: Path) -> None:
    structures = [rock_salt(), rutile(), supercell(), diamond()]
    energies = [{"energy_above_hull": e} for e in (0.3, 0.2, 0.1, 0.0)]
    write_structures(structures, tmp_path / "some.extxyz", properties=energies)
    samples = read_samples(tmp_path / "some.extxyz")
    found = find(samples, where="'O' in elements or 'Na' in elements", sort="-e_above_hull")
    assert [samples.frame["energy_above_hull"][d.row] for d in found.discoveries] == [0.1, 0.2]
    assert times(found) == [2, 1]
    assert times(find(samples)) == [2, 1, 1]


def test_a_killed_run_is_read_and_what_is_damaged_is_named(
    made: Path, tmp_path: Path, command: Command
) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    whole = (run / "samples" / "step_000002.parquet").read_bytes()
    (run / "samples" / "step_000004.parquet").write_bytes(whole[: len(whole) // 2])
    (run / "samples" / ".tmp-1a2b3c4d-step_000005.parquet").write_bytes(whole[:100])
    pd.DataFrame({"tokens": [[1]]}).to_parquet(run / "samples" / "step_000006.parquet")
    frame = pd.read_parquet(run / "samples" / "step_000003.parquet")
    frame.loc[2, "cif"] = "data_NaCl\nloop_"
    frame.to_parquet(run / "samples" / "step_000003.parquet")
    (run / "environment.json").write_text("[{")
    (run / "config.yaml").unlink()
    code, out, err = command(str(run))
    assert code == 0
    assert "2 distinct of 5 samples that pass" in out
    assert err.count("warning:") == 5
    for text in ("step_000004.parquet: ArrowInvalid", "step_000006.parquet: ValueError: has no column cif"):
        assert text in err
    for text in ("step 3, sample 2:", "config.yaml: ", "environment.json: "):
        assert text in err


def test_a_run_without_samples_says_so(tmp_path: Path, command: Command) -> None:
    (tmp_path / "run" / "samples").mkdir(parents=True)
    code, _, err = command(str(tmp_path / "run"))
    assert code == 2
    assert "has no samples yet" in err
    (tmp_path / "run" / "samples" / "step_000001.parquet").write_bytes(b"PAR1")
    code, _, err = command(str(tmp_path / "run"))
    assert code == 2
    assert "step_000001.parquet: ArrowInvalid" in err


def test_the_table_shows_what_was_asked_for(made: Path, command: Command) -> None:
    code, out, err = command(str(made), "--where", "n_sites > 1 and log_prob < 0", "--top", "2")
    assert (code, err) == (0, "")
    head, first, second, last = out.strip("\n").split("\n")
    for title in ("formula", "space group", "e_hull, eV", "gap, eV", "novelty", "log_prob", "found", "steps"):
        assert title in head
    assert first.split()[:4] == ["1", "NaCl", "225", "16"]
    assert first.split()[-2:] == ["3x", "1-3"]
    assert second.split()[-2:] == ["1x", "3"]
    assert last == (
        f"2 distinct of 5 samples that pass; {made} holds 9, 7 of them accepted, 2 known structures left out"
    )


FORMATS = ("cif", "extxyz", "poscar", "json", "csv", "dft")


@pytest.fixture(scope="module")
def exported(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All formats of the two best."""
    from materium_rl.evaluation.discoveries.ranking import discover

    out = tmp_path_factory.mktemp("exported") / "out"
    discover(made, where="band_gap > 1", top=2, formats=FORMATS, out=out)
    return out


NAMES = ["001_NaCl", "002_NaCl"]


@pytest.fixture(scope="module")
def origin(made: Path) -> dict[str, object]:
    """What every format must tell of the best one."""
    policy = made.parent / "policy"
    return {
        "source": str(made),
        "step": 2,
        "policy_updates": 1,
        "sample": 0,
        "seed": SEED,
        "policy": str(policy),
        "policy_sha256": file_sha256(policy / "model.safetensors"),
        "config_sha256": file_sha256(made / "config.yaml"),
        "made_with": f"materium-rl {__version__}",
        "exported_with": f"materium-rl {__version__}",
        "reward": 0.9,
        "bandgap.value": 1.5,
        "stability.score": 0.5,
        "times_found": 3,
        "first_step": 1,
        "last_step": 3,
    }


def test_provenance_lists_the_query_and_each_structure(exported: Path, origin: dict[str, object]) -> None:
    record = json.loads((exported / "provenance.json").read_text())
    assert record["where"] == "band_gap > 1"
    assert (record["samples"], record["accepted"], record["known"], record["passed"]) == (9, 7, 2, 4)
    assert [entry["name"] for entry in record["structures"]] == NAMES
    assert record["structures"][0].items() >= origin.items()
    assert not {"tokens", "cif", "advantage", "bandgap.contribution"} & record["structures"][0].keys()


def test_cif_holds_the_provenance_as_items(exported: Path, origin: dict[str, object]) -> None:
    assert sorted(path.stem for path in (exported / "cif").iterdir()) == NAMES
    block = gemmi.cif.read(str(exported / "cif" / "001_NaCl.cif")).sole_block()
    for key, value in origin.items():
        found = gemmi.cif.as_string(block.find_value(f"_materium_rl_{key.replace('.', '_')}"))
        assert found == str(value)
    for structure in (
        Structure.from_file(exported / "cif" / "001_NaCl.cif"),
        *(row.structure for row in read_structures(exported / "cif" / "001_NaCl.cif").rows),
    ):
        assert structures_match(structure, rock_salt())
        assert len(structure) == 16


def test_cif_texts_that_need_quotes_come_back() -> None:
    awkward = {
        "a": "it's 'so'",
        "b": "x\ny",
        "c": "",
        "d": "_e",
        "e": 'say "no" it\'s',
        "f": "data_",
        "g": True,
    }
    block = gemmi.cif.read_string(exporters.cif_text(Entry("1", rock_salt(), awkward))).sole_block()
    for key, value in awkward.items():
        assert gemmi.cif.as_string(block.find_value(f"_materium_rl_{key}")) == str(value)


def test_extxyz_json_and_csv_hold_it_too(exported: Path, origin: dict[str, object]) -> None:
    atoms = ase.io.read(exported / "structures.extxyz", index=0)
    assert {key: atoms.info[key.replace(".", "_")] for key in origin} == origin
    (entry, _) = json.loads((exported / "structures.json").read_text())
    assert entry["properties"].items() >= origin.items()
    assert structures_match(Structure.from_dict(entry), rock_salt())
    row = pd.read_csv(exported / "structures.csv").iloc[0]
    assert {key: row[key] for key in origin} == origin
    for name in ("structures.extxyz", "structures.json", "structures.csv"):
        result = read_structures(exported / name)
        assert [len(r.structure) for r in result.rows] == [16, 2]
        assert result.dropped == []


def test_poscar_tells_the_sample_in_its_first_line(exported: Path) -> None:
    poscar = Poscar.from_file(exported / "poscar" / "001_NaCl.vasp")
    assert poscar.comment.startswith(f"NaCl step=2 sample=0 seed={SEED} policy=")
    assert structures_match(poscar.structure, rock_salt())


def test_dft_folders_are_complete(exported: Path, origin: dict[str, object]) -> None:
    assert sorted(path.name for path in (exported / "dft").iterdir()) == NAMES
    folder = exported / "dft" / "001_NaCl"
    files = ["INCAR", "KPOINTS", "POSCAR", "POTCAR.spec", "provenance.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    incar = Incar.from_file(folder / "INCAR")
    assert (incar["ENCUT"], incar["ISIF"], incar["ISPIN"]) == (520, 3, 2)
    assert min(Kpoints.from_file(folder / "KPOINTS").kpts[0]) >= 1
    assert (folder / "POTCAR.spec").read_text().split() == ["Na_pv", "Cl"]
    assert structures_match(Poscar.from_file(folder / "POSCAR").structure, rock_salt())
    assert json.loads((folder / "provenance.json").read_text()).items() >= origin.items()


def test_dft_inputs_are_made_where_spglib_finds_no_symmetry(tmp_path: Path) -> None:
    lattice = Lattice.from_parameters(5.68, 5.59, 5.59, 60, 60, 60)
    sites = [[0, 0, 0], [0.25] * 3, [0.125, 0.625, 0.625], [0.625, 0.125, 0.625], [0.625, 0.625, 0.125]]
    structure = Structure(lattice, ["Ca", *["Al"] * 5], [*sites, [0.625] * 3])
    with pytest.raises(SymmetryUndeterminedError):
        structure.get_space_group_info()
    assert write_exports([Entry("001_CaAl5", structure)], ["dft"], tmp_path / "out", {}) == []
    folder = tmp_path / "out" / "dft" / "001_CaAl5"
    grid = Kpoints.from_file(folder / "KPOINTS")
    assert grid.style is Kpoints.supported_modes.Gamma
    assert grid.kpts[0] == (6, 6, 6)
    assert (folder / "POTCAR.spec").read_text().split() == ["Ca_sv", "Al"]


def test_what_dft_inputs_cannot_be_made_of_is_named_and_left_out(tmp_path: Path) -> None:
    polonium = Structure(Lattice.cubic(3.35), ["Po"], [[0, 0, 0]])
    entries = [Entry("001_Po", polonium), Entry("002_NaCl", rock_salt())]
    (fault,) = write_exports(entries, ["dft"], tmp_path / "out", {})
    assert fault.startswith("dft/001_Po: ")
    assert "Po" in fault.removeprefix("dft/001_Po")
    assert [path.name for path in (tmp_path / "out" / "dft").iterdir()] == ["002_NaCl"]
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["not_written"] == [fault]


def test_an_interrupted_export_leaves_the_old_one(
    made: Path, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert command(str(made), "--out", str(out))[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def interrupted(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setitem(exporters.FORMATS, "json", interrupted)
    code, _, _ = command(str(made), "--out", str(out), "--format", "cif,json", "--overwrite")
    assert code == 130
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_overwrite_replaces_an_export_and_nothing_else(made: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "out"
    assert command(str(made), "--out", str(out), "--format", "json")[0] == 0
    code, _, err = command(str(made), "--out", str(out), "--format", "csv")
    assert code == 2
    assert "add --overwrite" in err
    code, text, _ = command(str(made), "--out", str(out), "--format", "csv", "--overwrite")
    assert code == 0
    assert text.endswith(f"3 structures in {out}: csv, provenance.json\n")
    assert sorted(path.name for path in out.iterdir()) == ["provenance.json", "structures.csv"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("years of work")
    code, _, err = command(str(made), "--out", str(tmp_path / "thesis"), "--overwrite")
    assert code == 2
    assert "will not overwrite" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("gone",), "No such file or folder: 'gone'"),
        (("{run}", "--where", "bandgp > 1"), "did you mean 'band_gap'?\n  bandgp > 1\n  ^"),
        (("{run}", "--sort", "tier"), "wrong sort key: gives text, expected a number"),
        (("{run}", "--format", "cif"), "--format needs --out"),
        (("{run}", "--out", "new", "--format", "ciff"), "'ciff' is not known; did you mean 'cif'?"),
        (("{run}", "--out", "new", "--format", "lemat"), "use materium-rl export"),
        (("{run}", "--out", "new", "--where", "band_gap > 99"), "nothing passes, so new is not written"),
        (("{run}", "--out", "{run}", "--overwrite"), "is the folder that is read, or holds it"),
        (("{run}", "--out", "{run}/..", "--overwrite"), "is the folder that is read, or holds it"),
        (("{run}", "--top", "-1"), "Invalid value for '--top'"),
        (("{run}", "--by", "formula"), "'formula' is not one of"),
    ],
)
def test_wrong_use_is_one_message(
    made: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*(arg.format(run=made) for arg in args))
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []
