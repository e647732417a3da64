"""Files as other generators write them: what is read, and why the rest is not."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import ase.io
import pytest
import torch
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from real_structures import aflow_structures, rock_salt, rutile

from materium_rl.errors import StructureFileError
from materium_rl.structure_files import DropKind, read_structures
from materium_rl.structures import strip_oxidation_states, structures_match


def several() -> list[Structure]:
    """Cells of all shapes, some skewed."""
    return [strip_oxidation_states(s) for s in (rock_salt(), rutile(), *aflow_structures(6)[:8])]


def assert_same(read: list[Structure], expected: list[Structure]) -> None:
    assert [len(s) for s in read] == [len(s) for s in expected]
    for found, wanted in zip(read, expected, strict=True):
        assert found.lattice.parameters == pytest.approx(wanted.lattice.parameters, abs=2e-4)
        assert [s.specie.symbol for s in found] == [s.specie.symbol for s in wanted]
        assert structures_match(found, wanted, stol=0.01)


def structures_of(path: Path) -> list[Structure]:
    result = read_structures(path)
    assert result.dropped == []
    return [row.structure for row in result.rows]


# MatterGen at commit fc8f9b1, mattergen/common/utils/eval_utils.py: one extxyz written by ASE, and a zip of
# CIF files written by ASE.


def write_mattergen(folder: Path, structures: list[Structure]) -> None:
    atoms = [AseAtomsAdaptor.get_atoms(s) for s in structures]
    ase.io.write(folder / "generated_crystals.extxyz", atoms)
    with zipfile.ZipFile(folder / "generated_crystals_cif.zip", "w") as archive:
        for index, one in enumerate(atoms):
            content = io.BytesIO()
            ase.io.write(content, one, format="cif")
            archive.writestr(f"gen_{index}.cif", content.getvalue())


def test_mattergen_extxyz_zip_and_folder(tmp_path: Path) -> None:
    expected = several()[:9]  # one digit in the names, so that both have the same order
    write_mattergen(tmp_path, expected)
    assert_same(structures_of(tmp_path / "generated_crystals.extxyz"), expected)
    assert_same(structures_of(tmp_path / "generated_crystals_cif.zip"), expected)
    assert_same(structures_of(tmp_path), expected)  # the zip repeats the extxyz and is passed over


# CrystaLLM at commit 2fdb157, bin/generate_cifs.py: a .tar.gz of PROMPT__N.cif; the text as its training data
# are standardised (crystallm/_utils.py): a block of atomic properties, the identity as the only operation,
# the sites of the asymmetric unit with their multiplicities.

CRYSTALLM = """\
data_Na4Cl4
loop_
_atom_type_symbol
_atom_type_electronegativity
_atom_type_radius
_atom_type_ionic_radius
Na 0.9300 1.8000 1.1600
Cl 3.1600 1.0000 1.6700
_symmetry_space_group_name_H-M {group}
_cell_length_a 5.6900
_cell_length_b 5.6900
_cell_length_c 5.6900
_cell_angle_alpha 90.0000
_cell_angle_beta 90.0000
_cell_angle_gamma 90.0000
_symmetry_Int_Tables_number {number}
_chemical_formula_structural NaCl
_chemical_formula_sum '{formula}'
_cell_volume 184.2200
_cell_formula_units_Z {units}
{operations}loop_
_atom_site_type_symbol
_atom_site_label
_atom_site_symmetry_multiplicity
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na Na0 4 0.0000 0.0000 0.0000 1
Cl Cl1 4 0.5000 0.5000 0.5000 1
"""
IDENTITY = "loop_\n_symmetry_equiv_pos_site_id\n_symmetry_equiv_pos_as_xyz\n1 'x, y, z'\n"


def crystallm(**changes: Any) -> str:
    parts = {"group": "Fm-3m", "number": 225, "formula": "Na4 Cl4", "units": 4, "operations": IDENTITY}
    return CRYSTALLM.format(**(parts | changes))


def read_text(folder: Path, text: str) -> Any:
    (folder / "one.cif").write_text(text)
    return read_structures(folder / "one.cif")


@pytest.mark.parametrize(
    "text",
    [
        crystallm(),
        crystallm(operations=""),
        crystallm(operations=IDENTITY.replace("'x, y, z'", "'x, y,'")),
        crystallm(operations=IDENTITY + "2 '-x, -y, -z'\n"),
        crystallm(formula="Na Cl"),
        crystallm(units="?"),
        crystallm(group="'F m -3 m'"),
    ],
    ids=["raw", "no operations", "broken", "incomplete", "formula unit", "no units", "spaced"],
)
def test_crystallm_asymmetric_unit_becomes_the_cell(tmp_path: Path, text: str) -> None:
    (row,) = read_text(tmp_path, text).rows
    assert_same([row.structure], [rock_salt()])


def test_sites_of_the_whole_cell_beside_a_group_name_stay(tmp_path: Path) -> None:
    text = (
        str(rutile().to(fmt="cif"))
        .replace("'P 1'", "P4_2/mnm")
        .replace("Tables_number   1", "Tables_number   136")
    )
    assert "P4_2/mnm" in text
    assert "136" in text
    (row,) = read_text(tmp_path, text).rows
    assert_same([row.structure], [rutile()])


def test_crystallm_contents_that_contradict_the_formula_are_dropped_with_both(tmp_path: Path) -> None:
    (drop,) = read_text(tmp_path, crystallm(formula="Na4 Cl8")).dropped
    assert drop.kind is DropKind.UNREADABLE
    assert "make Na1 Cl1 or Na4 Cl4 by" in drop.message
    assert "declares 'Na4 Cl8'" in drop.message
    assert "225" in drop.message


def test_a_group_that_does_not_exist_is_dropped(tmp_path: Path) -> None:
    (drop,) = read_text(tmp_path, crystallm(group="Fm-9x", number=999)).dropped
    assert "Fm-9x" in drop.message


def test_an_open_quote_is_dropped(tmp_path: Path) -> None:
    (drop,) = read_text(tmp_path, crystallm(operations=IDENTITY + "2 'x, -y\n")).dropped
    assert drop.message


def tar_of(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize("name", ["gen.tar.gz", "gen.tar", "gen.tgz"])
def test_crystallm_archive_folder_and_zip_read_alike(tmp_path: Path, name: str) -> None:
    files = {
        "Na4Cl4__1.cif": crystallm(),
        "Na4Cl4__2.cif": crystallm()[:-60],  # generation ended inside of the sites
        "Na4Cl4__3.cif": "data_Na4Cl4\nloop_\n_atom_type_symbol\n",
        "Na4Cl4__4.cif": crystallm(),
        "Na4Cl4.txt": "data_Na4Cl4\n",
    }
    (tmp_path / "folder").mkdir()
    for file, text in files.items():
        (tmp_path / "folder" / file).write_text(text)
    with zipfile.ZipFile(tmp_path / "gen.zip", "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    results = [
        read_structures(p)
        for p in (tar_of(tmp_path / name, files), tmp_path / "gen.zip", tmp_path / "folder")
    ]
    for result in results:
        assert [row.source for row in result.rows] == ["Na4Cl4__1.cif", "Na4Cl4__4.cif"]
        assert_same([row.structure for row in result.rows], [rock_salt()] * 2)
        assert [drop.source for drop in result.dropped] == ["Na4Cl4__2.cif", "Na4Cl4__3.cif"]
        assert all(drop.kind is DropKind.UNREADABLE and drop.message for drop in result.dropped)


def test_the_readable_start_of_a_torn_archive_is_kept(tmp_path: Path) -> None:
    files = {f"Na4Cl4__{i}.cif": crystallm() + f"# {os.urandom(20_000).hex()}\n" for i in range(9)}
    path = tar_of(tmp_path / "gen.tar.gz", files)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = read_structures(path)
    assert 2 <= len(result.rows) <= 5
    assert "after" in result.dropped[-1].source


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "gen.tar.gz"
    path.write_bytes(b"data_Na4Cl4")
    with pytest.raises(StructureFileError, match=r"gen.tar.gz' is not a readable tar"):
        read_structures(path)
    tar_of(path, {"notes.txt": "none"})
    with pytest.raises(StructureFileError, match="No structure file in"):
        read_structures(path)


# The .pt files of CDVAE at commit 2c130d1 (scripts/evaluate.py), DiffCSP at 044458e (scripts/generation.py)
# and FlowMM at 3abc580 (scripts_model/evaluate.py).

SETTINGS = Namespace(model_path="model", tasks=["gen"], n_step_each=100, label="")


def tensors(structures: list[Structure]) -> dict[str, torch.Tensor]:
    return {
        "frac_coords": torch.tensor([c for s in structures for c in s.frac_coords.tolist()]),
        "atom_types": torch.tensor([site.specie.Z for s in structures for site in s]),
        "lengths": torch.tensor([s.lattice.abc for s in structures]),
        "angles": torch.tensor([s.lattice.angles for s in structures]),
        "num_atoms": torch.tensor([len(s) for s in structures]),
    }


def repeated(*samplings: list[Structure]) -> dict[str, torch.Tensor]:
    parts = [tensors(structures) for structures in samplings]
    return {key: torch.stack([part[key] for part in parts]) for key in parts[0]}


def weights(structures: list[Structure]) -> torch.Tensor:
    return torch.nn.functional.one_hot(tensors(structures)["atom_types"] - 1, 100).float()


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_cdvae_first_dimension_is_the_sampling(tmp_path: Path) -> None:
    first = several()
    second = [s.copy() for s in first]
    for structure in second:
        structure.scale_lattice(1.1 * structure.volume)
    content = {
        "eval_setting": SETTINGS, **repeated(first, second), "all_frac_coords_stack": [],
        "all_atom_types_stack": [], "time": 12.5,
    }  # fmt: skip
    result = read_structures(save(tmp_path / "eval_gen.pt", content))
    assert_same([row.structure for row in result.rows], [*first, *second])
    assert result.rows[len(first)].source == "eval_gen.pt[1][0]"


def test_diffcsp_and_flowmm_without_a_first_dimension(tmp_path: Path) -> None:
    expected = several()
    diffcsp = {"eval_setting": SETTINGS, **tensors(expected)}
    flowmm = {
        **tensors(expected), "lattices": torch.zeros(len(expected), 3, 3),
        "batch_indices": torch.arange(len(expected)), "eval_setting": None,
    }  # fmt: skip
    consolidated = {key: [tensor, tensor] for key, tensor in tensors(expected).items()}
    assert_same(structures_of(save(tmp_path / "eval_gen.pt", diffcsp)), expected)
    assert_same(structures_of(save(tmp_path / "flowmm.pt", flowmm)), expected)
    assert_same(
        structures_of(save(tmp_path / "consolidated_generate.pt", consolidated)), [*expected, *expected]
    )


def test_element_weights_are_read_as_the_heaviest_one(tmp_path: Path) -> None:
    expected = several()
    one = tensors(expected) | {"atom_types": weights(expected)}
    assert_same(structures_of(save(tmp_path / "one.pt", one)), expected)
    several_times = repeated(expected) | {"atom_types": weights(expected)[None]}
    assert_same(structures_of(save(tmp_path / "many.pt", several_times)), expected)


def test_each_faulty_crystal_of_a_tensor_file_is_dropped_with_its_reason(tmp_path: Path) -> None:
    content = tensors([rock_salt(), rutile(), rock_salt(), rutile(), rock_salt()])
    content["lengths"][0, 0] = -1.0
    content["angles"][1, 2] = torch.nan
    content["atom_types"][int(content["num_atoms"][:2].sum())] = 0
    content["angles"][3] = torch.tensor([30.0, 30.0, 170.0])
    result = read_structures(save(tmp_path / "eval_gen.pt", content))
    assert_same([row.structure for row in result.rows], [rock_salt()])
    reasons = {drop.source: drop.message for drop in result.dropped}
    assert list(reasons) == [f"eval_gen.pt[{i}]" for i in range(4)]
    assert "-1.0" in reasons["eval_gen.pt[0]"]
    assert "nan" in reasons["eval_gen.pt[1]"]
    assert "0" in reasons["eval_gen.pt[2]"]


class Hostile:
    """Unpickled it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_code_in_a_tensor_file_is_not_run(tmp_path: Path) -> None:
    hostile = {**tensors(several()), "eval_setting": Hostile(tmp_path / "hacked")}
    (drop,) = read_structures(save(tmp_path / "eval_gen.pt", hostile)).dropped
    assert "can run code" in drop.message
    assert "save only frac_coords" in drop.message
    assert not (tmp_path / "hacked").exists()


def test_other_tensor_files_are_dropped_with_a_reason(tmp_path: Path) -> None:
    good = tensors(several())
    (tmp_path / "run").mkdir()
    save(tmp_path / "run" / "eval_gen.pt", good)
    save(tmp_path / "run" / "prop_scaler.pt", torch.zeros(3))
    save(tmp_path / "run" / "missing.pt", {k: v for k, v in good.items() if k != "angles"})
    save(tmp_path / "run" / "mixed.pt", good | {"num_atoms": good["num_atoms"] + 1})
    save(tmp_path / "run" / "ragged.pt", repeated(several()) | {"lengths": good["lengths"]})
    save(tmp_path / "run" / "text.pt", good | {"num_atoms": "12"})
    (tmp_path / "run" / "torn.pt").write_bytes((tmp_path / "run" / "eval_gen.pt").read_bytes()[:900])
    (tmp_path / "run" / "empty.pt").write_bytes(b"")
    result = read_structures(tmp_path / "run")
    assert_same([row.structure for row in result.rows], several())
    reasons = {drop.source: drop.message for drop in result.dropped}
    assert set(reasons) == {
        f"{n}.pt" for n in ("prop_scaler", "missing", "mixed", "ragged", "text", "torn", "empty")
    }
    assert "has no angles" in reasons["missing.pt"]
    assert "has no frac_coords" in reasons["prop_scaler.pt"]
    assert "do not fit" in reasons["mixed.pt"]
    assert all(reasons.values())


def test_a_crystal_without_sites_is_dropped(tmp_path: Path) -> None:
    content = tensors([Structure(Lattice.cubic(3.0), ["Fe"], [[0, 0, 0]])])
    content = {
        **content, "num_atoms": torch.tensor([1, 0]), "lengths": content["lengths"].repeat(2, 1),
        "angles": content["angles"].repeat(2, 1),
    }  # fmt: skip
    result = read_structures(save(tmp_path / "eval_gen.pt", content))
    assert len(result.rows) == 1
    assert result.dropped[0].message == "ValueError: has 0 sites"
