"""Reading, writing, comparing and checking structures."""

from __future__ import annotations

import gzip
import json
import os
import warnings
import zipfile
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Species, Structure
from pymatgen.io.cif import CifParser

from materium_rl.cif import parse_cif
from materium_rl.errors import StructureFileError
from materium_rl.files import atomic_path
from materium_rl.structure_files import DropKind, read_structures, write_structures
from materium_rl.structures import (
    matching_cell,
    minimum_distance_ratio,
    strip_oxidation_states,
    structures_match,
    to_primitive_niggli,
    with_oxidation_states,
)


@pytest.fixture
def nacl() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


@pytest.fixture
def zno() -> Structure:
    lattice = Lattice.hexagonal(3.25, 5.2)
    return Structure.from_spacegroup(
        "P6_3mc", lattice, ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]]
    )


@pytest.fixture
def rutile() -> Structure:
    lattice = Lattice.tetragonal(4.594, 2.959)
    return Structure.from_spacegroup("P4_2/mnm", lattice, ["Ti", "O"], [[0, 0, 0], [0.3053, 0.3053, 0]])


def assert_same_sites(a: Structure, b: Structure, tolerance: float = 1e-6) -> None:
    """Same lattice parameters, and each site of ``a`` is in ``b``, whatever the order."""
    assert a.lattice.parameters == pytest.approx(b.lattice.parameters, abs=tolerance)
    assert a.composition == b.composition
    for site in a:
        difference = b.frac_coords - site.frac_coords
        distances = np.abs(difference - np.round(difference)).max(axis=1)
        assert b[int(distances.argmin())].specie == site.specie
        assert distances.min() < tolerance


# ---- round trips -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.extxyz", "a.json", "a.parquet", "a.csv"])
def test_round_trip_keeps_structures_and_properties(
    tmp_path: Path, nacl: Structure, zno: Structure, name: str
) -> None:
    properties = [
        {"material_id": "mp-22862", "band_gap": 5.0, "space_group_number": 225, "energy": -27.1},
        {"material_id": "mp-2133", "band_gap": float("nan")},
    ]
    write_structures([nacl, zno], tmp_path / name, properties=properties)
    result = read_structures(tmp_path / name)
    assert result.dropped == []
    for row, original in zip(result.rows, [nacl, zno], strict=True):
        assert_same_sites(row.structure, original)
    first, second = (
        {k: v for k, v in r.properties.items() if k not in ("formula", "n_sites")} for r in result.rows
    )
    assert first == properties[0]
    assert isinstance(first["space_group_number"], int)
    assert second == {"material_id": "mp-2133"}


def test_tables_name_formula_and_number_of_sites(tmp_path: Path, nacl: Structure) -> None:
    nacl.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    write_structures([nacl], tmp_path / "a.parquet")
    frame = pd.read_parquet(tmp_path / "a.parquet")
    assert list(frame.columns) == ["cif", "formula", "n_sites"]
    assert frame.formula[0] == "NaCl"
    assert frame.n_sites[0] == 8
    assert read_structures(tmp_path / "a.parquet").rows[0].structure[0].specie == Species("Na", 1)


def test_no_structures_make_a_readable_empty_table(tmp_path: Path) -> None:
    write_structures([], tmp_path / "a.parquet", properties=[])
    result = read_structures(tmp_path / "a.parquet")
    assert (result.rows, result.dropped) == ([], [])


def test_single_cif_folder_and_zip(
    tmp_path: Path, nacl: Structure, zno: Structure, rutile: Structure
) -> None:
    write_structures([rutile], tmp_path / "one.cif")
    assert_same_sites(read_structures(tmp_path / "one.cif").rows[0].structure, rutile)

    folder = tmp_path / "crystals"
    write_structures([nacl, zno], folder / "cif")
    assert sorted(p.name for p in (folder / "cif").iterdir()) == ["000000.cif", "000001.cif"]
    rutile.to(filename=str(folder / "POSCAR"), fmt="poscar")
    (folder / "notes.txt").write_text("not a structure")
    (folder / ".hidden.cif").write_text("not a structure")
    result = read_structures(folder)
    assert [row.source for row in result.rows] == ["POSCAR", "cif/000000.cif", "cif/000001.cif"]
    assert result.dropped == []

    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for file in (folder / "POSCAR", folder / "cif" / "000000.cif"):
            archive.write(file, file.relative_to(folder).as_posix())
        archive.writestr("broken.cif", "data_x\n_cell_length_a 3\n")
    result = read_structures(tmp_path / "all.zip")
    assert [row.source for row in result.rows] == ["POSCAR", "cif/000000.cif"]
    assert [(drop.source, drop.kind) for drop in result.dropped] == [("broken.cif", DropKind.UNREADABLE)]
    assert_same_sites(result.rows[0].structure, rutile)


def test_output_folder_of_generate_counts_each_structure_once(
    tmp_path: Path, nacl: Structure, zno: Structure
) -> None:
    for name in ("generated.parquet", "generated.extxyz", "cif"):
        write_structures([nacl, zno], tmp_path / name)
    assert len(read_structures(tmp_path).rows) == 2


def test_json_as_dict_named_dict_record_and_gz(tmp_path: Path, nacl: Structure, zno: Structure) -> None:
    (tmp_path / "one.json").write_text(nacl.to_json())
    (tmp_path / "named.json").write_text(json.dumps({"salt": nacl.as_dict(), "zincite": zno.as_dict()}))
    record = {"structure": nacl.as_dict(), "band_gap": 5.0, "e_above_hull": None}
    with gzip.open(tmp_path / "records.json.gz", "wt") as file:
        json.dump([record, {"no": "structure"}], file)
    assert len(read_structures(tmp_path / "one.json").rows) == 1
    named = read_structures(tmp_path / "named.json").rows
    assert [row.source for row in named] == ["named.json[salt]", "named.json[zincite]"]
    records = read_structures(tmp_path / "records.json.gz")
    assert records.rows[0].properties == {"band_gap": 5.0}
    assert [drop.source for drop in records.dropped] == ["records.json.gz[1]"]


def test_poscar_without_symbols_is_refused(tmp_path: Path) -> None:
    (tmp_path / "POSCAR").write_text("salt\n1\n4 0 0\n0 4 0\n0 0 4\n1 1\ndirect\n0 0 0\n.5 .5 .5\n")
    (drop,) = read_structures(tmp_path / "POSCAR").dropped
    assert drop.kind is DropKind.UNREADABLE
    assert "VASP 4" in drop.message


def test_xyz_keeps_the_frames_before_a_damaged_one(tmp_path: Path, nacl: Structure) -> None:
    write_structures([nacl], tmp_path / "a.extxyz")
    whole = (tmp_path / "a.extxyz").read_text()
    (tmp_path / "a.extxyz").write_text(whole + "1\nno cell\nNa 0 0 0\n" + "2\ncut\nNa 0 0 0\nCl 1")
    result = read_structures(tmp_path / "a.extxyz")
    assert len(result.rows) == 1
    assert [drop.kind for drop in result.dropped] == [DropKind.UNREADABLE] * 2
    assert "periodic cell" in result.dropped[0].message


# ---- what is dropped, and what is refused ----------------------------------------------------------


def cif_of(structure: Structure) -> str:
    return str(structure.to(fmt="cif"))


def test_each_faulty_row_is_dropped_with_its_reason(
    tmp_path: Path, nacl: Structure, rutile: Structure
) -> None:
    mixed = nacl.copy()
    mixed[0] = {"Na": 0.5, "K": 0.5}
    squeezed = nacl.copy()
    squeezed.scale_lattice(1.0)
    good = cif_of(nacl)
    cells = {
        "good": good,
        "empty": "",
        "garbage": "data_broken\nloop_\n_a\n_b\n1 2 3",
        "no_cell": good.replace("_cell_length_a", "_cell_width_a"),
        "mixed": cif_of(mixed),
        "large": cif_of(rutile * (2, 2, 3)),
        "distorted": cif_of((rutile * (2, 2, 1)).perturb(0.2)),
        "lanthanum": cif_of(Structure(Lattice.cubic(4), ["La"], [[0, 0, 0]])),
        "squeezed": cif_of(squeezed),
    }
    frame = pd.DataFrame({"": range(len(cells)), "material_id": cells.keys(), "cif": cells.values()})
    frame["spacegroup.number"] = [225.0, *[None] * (len(cells) - 1)]
    frame["formula"] = "NaN"
    frame.to_csv(tmp_path / "rows.csv", index=False)

    result = read_structures(tmp_path / "rows.csv", max_sites=8, elements=["Na", "Cl", "K", "Ti", "O"])

    # the 2x2x3 supercell is kept: its primitive cell has 6 sites
    assert [row.source for row in result.rows] == ["rows.csv row 1 (good)", "rows.csv row 6 (large)"]
    assert result.rows[0].properties == {"material_id": "good", "space_group_number": 225, "formula": "NaN"}
    assert {drop.source.split("(")[1].rstrip(")"): drop.kind for drop in result.dropped} == {
        "empty": DropKind.UNREADABLE,
        "garbage": DropKind.UNREADABLE,
        "no_cell": DropKind.UNREADABLE,
        "mixed": DropKind.DISORDERED,
        "distorted": DropKind.TOO_MANY_SITES,
        "lanthanum": DropKind.UNKNOWN_ELEMENT,
        "squeezed": DropKind.OUT_OF_RANGE,
    }
    messages = {drop.kind: drop.message for drop in result.dropped}
    assert messages[DropKind.TOO_MANY_SITES] == "24 sites in the primitive cell, limit 8"
    assert "La" in messages[DropKind.UNKNOWN_ELEMENT]
    assert "0.125" in messages[DropKind.OUT_OF_RANGE]
    assert "0.5" in messages[DropKind.OUT_OF_RANGE]
    summary = result.summary()
    assert summary.startswith("2 structures read, 7 dropped\n  unreadable: 3\n")
    assert "rows.csv row 2 (empty)" in summary


def test_not_finite_coordinates_are_out_of_range(tmp_path: Path, nacl: Structure) -> None:
    data = nacl.as_dict()
    data["sites"][0]["abc"] = [float("nan"), 0.0, 0.0]
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert [drop.kind for drop in read_structures(tmp_path / "a.json").dropped] == [DropKind.OUT_OF_RANGE]


def test_limit_looks_at_the_first_entries_only(tmp_path: Path, nacl: Structure) -> None:
    pd.DataFrame({"cif": ["", cif_of(nacl), cif_of(nacl)]}).to_csv(tmp_path / "a.csv")
    result = read_structures(tmp_path / "a.csv", limit=2)
    assert (len(result.rows), len(result.dropped)) == (1, 1)


def test_malformed_cif_is_dropped_and_require_any_names_the_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.cif").write_text("this is no CIF")
    result = read_structures(tmp_path / "bad.cif")
    assert [drop.kind for drop in result.dropped] == [DropKind.UNREADABLE]
    with pytest.raises(StructureFileError, match=r"(?s)No usable structure in .*bad\.cif.*unreadable: 1"):
        result.require_any(tmp_path / "bad.cif")


def test_require_any_returns_the_result_when_something_was_read(tmp_path: Path, nacl: Structure) -> None:
    write_structures([nacl], tmp_path / "a.cif")
    result = read_structures(tmp_path / "a.cif")
    assert result.require_any(tmp_path) is result


def test_wrong_paths_are_refused_with_a_next_step(tmp_path: Path) -> None:
    with pytest.raises(StructureFileError, match="No such file"):
        read_structures(tmp_path / "missing.csv")
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(StructureFileError, match=r"\.cif, .*Convert"):
        read_structures(tmp_path / "a.docx")
    with pytest.raises(StructureFileError, match="No structure file in"):
        read_structures(tmp_path)
    (tmp_path / "a.zip").write_text("x")
    with pytest.raises(StructureFileError, match="zip"):
        read_structures(tmp_path / "a.zip")
    (tmp_path / "a.csv").write_text("structures,band_gap\nx,1\n")
    with pytest.raises(StructureFileError, match=r"no 'cif' and no 'structure' column.*structures, band_gap"):
        read_structures(tmp_path / "a.csv")


def test_table_without_structures_inside_a_folder_does_not_stop_it(tmp_path: Path, nacl: Structure) -> None:
    (tmp_path / "a.csv").write_text("step,loss\n1,2\n")
    write_structures([nacl], tmp_path / "b.cif")
    result = read_structures(tmp_path)
    assert [row.source for row in result.rows] == ["b.cif"]
    assert [drop.source for drop in result.dropped] == ["a.csv"]


def test_writer_refuses_what_a_format_cannot_hold(tmp_path: Path, nacl: Structure) -> None:
    with pytest.raises(StructureFileError, match="unknown extension"):
        write_structures([nacl], tmp_path / "a.docx")
    with pytest.raises(StructureFileError, match="one structure"):
        write_structures([nacl, nacl], tmp_path / "a.cif")
    with pytest.raises(StructureFileError, match="CIF holds none"):
        write_structures([nacl], tmp_path / "cif", properties=[{"band_gap": 5.0}])
    with pytest.raises(ValueError, match="2 structures but 1"):
        write_structures([nacl, nacl], tmp_path / "a.json", properties=[{}])
    assert list(tmp_path.iterdir()) == []


# ---- CIF -------------------------------------------------------------------------------------------


def test_thirds_are_exact_and_symmetry_is_applied(zno: Structure) -> None:
    rounded = cif_of(zno).replace("0.33333333", "0.3333").replace("0.66666667", "0.6667")
    assert "0.3333 " in rounded
    (structure,) = parse_cif(rounded)
    assert sorted(set(structure.frac_coords[:, 0])) == [1 / 3, 2 / 3]

    with_symmetry = str(zno.to(fmt="cif", symprec=0.01))
    assert "P6_3mc" in with_symmetry
    (expanded,) = parse_cif(with_symmetry)
    assert structures_match(expanded, zno)
    assert len(expanded) == 4


def test_two_data_blocks_are_two_rows(tmp_path: Path, nacl: Structure, zno: Structure) -> None:
    (tmp_path / "two.cif").write_text(cif_of(nacl) + cif_of(zno))
    sources = [row.source for row in read_structures(tmp_path / "two.cif").rows]
    assert sources == ["two.cif[0]", "two.cif[1]"]


def test_coincident_sites_are_not_read_in_silence(nacl: Structure) -> None:
    doubled = nacl.copy()
    doubled.append("K", nacl.frac_coords[0], validate_proximity=False)
    with pytest.raises(ValueError, match="ccupan"):
        parse_cif(cif_of(doubled))


def test_shared_rows_read_as_cif_parser_reads_them(shared_data: Path) -> None:
    result = read_structures(shared_data / "mp_train.csv.gz", limit=300, max_sites=20)
    assert result.dropped == []
    assert len(result.rows) == 300
    frame = pd.read_csv(shared_data / "mp_train.csv.gz", nrows=300)
    for index in range(0, 300, 6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (expected,) = CifParser.from_str(frame.cif[index]).parse_structures(primitive=False)
        assert_same_sites(result.rows[index].structure, expected)
    read = [row.properties for row in result.rows]
    assert [p["material_id"] for p in read] == list(frame.material_id)
    assert sum("band_gap" in p for p in read) == frame.band_gap.notna().sum()
    with_group = [p["space_group_number"] for p in read if "space_group_number" in p]
    assert with_group == frame["spacegroup.number"].dropna().astype(int).tolist()
    assert Counter(type(number) for number in with_group) == {int: len(with_group)}


# ---- atomic writing --------------------------------------------------------------------------------


def test_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_interrupted_folder_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "checkpoint"

    def write(text: str, *, interrupt: bool) -> None:
        with atomic_path(target) as temporary:
            temporary.mkdir()
            (temporary / "weights").write_text(text)
            if interrupt:
                raise KeyboardInterrupt

    write("1", interrupt=False)
    with pytest.raises(KeyboardInterrupt):
        write("2", interrupt=True)
    assert (target / "weights").read_text() == "1"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_path_replaces_files_and_folders(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with atomic_path(tmp_path / "new" / "a.txt") as temporary:
            assert temporary.suffix == ".txt"
            assert temporary.parent == tmp_path / "new"
            temporary.write_text(text)
        with atomic_path(tmp_path / "new" / "folder") as temporary:
            temporary.mkdir()
            (temporary / text).touch()
    assert (tmp_path / "new" / "a.txt").read_text() == "second"
    assert os.listdir(tmp_path / "new" / "folder") == ["second"]
    assert sorted(os.listdir(tmp_path / "new")) == ["a.txt", "folder"]


def test_atomic_path_tells_when_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass


def test_failed_write_of_structures_keeps_the_old_folder(tmp_path: Path, nacl: Structure) -> None:
    write_structures([nacl], tmp_path / "cif")
    with pytest.raises(AttributeError):
        write_structures([nacl, None], tmp_path / "cif")  # type: ignore[list-item]
    assert os.listdir(tmp_path) == ["cif"]
    assert os.listdir(tmp_path / "cif") == ["000000.cif"]


# ---- comparison and cells --------------------------------------------------------------------------


def test_match_ignores_oxidation_states_cell_and_volume(nacl: Structure) -> None:
    plus_one, plus_two = nacl.copy(), nacl.copy()
    plus_one.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    plus_two.add_oxidation_state_by_element({"Na": 2, "Cl": -2})
    assert structures_match(plus_one, plus_two)
    assert structures_match(plus_one, nacl)
    assert structures_match(plus_two, nacl * (2, 1, 1))
    strained = nacl.copy()
    strained.apply_strain(0.01)
    assert structures_match(nacl, strained)
    assert plus_two[0].specie == Species("Na", 2)


def test_match_tells_species_and_arrangements_apart(nacl: Structure) -> None:
    potassium = nacl.copy()
    potassium.replace_species({"Na": "K"})
    caesium_chloride = Structure(Lattice.cubic(3.4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert not structures_match(nacl, potassium)
    assert not structures_match(nacl, caesium_chloride)


def test_primitive_niggli_cell_of_a_supercell(nacl: Structure) -> None:
    nacl.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    primitive = to_primitive_niggli(nacl * (1, 2, 1))
    assert len(primitive) == 2
    assert primitive.lattice.abc == pytest.approx([5.64 / np.sqrt(2)] * 3)
    assert primitive.lattice.angles == pytest.approx([60.0] * 3)
    assert primitive.frac_coords.min() >= 0.0
    assert primitive.frac_coords.max() < 1.0
    assert structures_match(primitive, nacl)
    assert {str(s) for s in primitive.species} == {"Na+", "Cl-"}


@pytest.mark.parametrize("distance", [0.0, 0.05, 0.15])
def test_matching_cell_is_as_small_as_pymatgens(nacl: Structure, rutile: Structure, distance: float) -> None:
    rng = np.random.default_rng(3)
    scalings = ([1, 1, 1], [2, 1, 1], [[1, 1, 0], [0, 2, 0], [0, 0, 1]], [3, 1, 2])
    smaller = 0
    for structure, scaling in product((nacl, rutile), scalings):
        cell = structure * scaling
        moves = distance * rng.standard_normal((len(cell), 3))
        moved = Structure(cell.lattice, cell.species, cell.cart_coords + moves, coords_are_cartesian=True)
        for kinds in (moved.species, ["H"] * len(moved)):
            asked = Structure(moved.lattice, kinds, moved.frac_coords)
            expected = asked.get_reduced_structure("niggli").get_primitive_structure()
            found = matching_cell(asked.lattice.matrix, [str(kind) for kind in kinds], asked.frac_coords)
            assert len(found) == len(expected)
            smaller += len(expected) < len(asked)
    assert smaller or distance > 0.1  # then no translation is left


def test_strip_leaves_plain_elements_and_the_original_alone(nacl: Structure) -> None:
    nacl.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    assert {str(s) for s in strip_oxidation_states(nacl).species} == {"Na", "Cl"}
    assert {str(s) for s in nacl.species} == {"Na+", "Cl-"}


def test_minimum_distance_ratio_has_known_values(nacl: Structure) -> None:
    # Cordero radii: Na 1.66, Cl 1.02, Cu 1.32 Å
    assert minimum_distance_ratio(nacl) == pytest.approx(2.82 / (1.66 + 1.02))
    copper = Structure(Lattice.cubic(3.6), ["Cu"], [[0.3, 0.3, 0.3]])  # only its own images
    assert minimum_distance_ratio(copper) == pytest.approx(3.6 / 2.64)
    across = Structure(Lattice.cubic(10), ["Cu", "Cu"], [[0.01, 0, 0], [0.99, 0, 0]])
    assert minimum_distance_ratio(across) == pytest.approx(0.2 / 2.64)
    overlapping = Structure(Lattice.cubic(10), ["Cu", "Cu"], [[0, 0, 0], [1, 0, 0]])
    assert minimum_distance_ratio(overlapping) == pytest.approx(0.0, abs=1e-9)
    flat = Structure(Lattice(np.ones((3, 3))), ["Cu"], [[0, 0, 0]])
    assert minimum_distance_ratio(flat) == 0.0
    broken = Structure(Lattice.cubic(3), ["Cu"], [[float("nan"), 0, 0]])
    assert minimum_distance_ratio(broken) == 0.0


def test_minimum_distance_ratio_equals_brute_force_in_skewed_cells() -> None:
    rng = np.random.default_rng(0)
    shifts = np.array(list(product(range(-6, 7), repeat=3)))
    for _ in range(30):
        vectors = Lattice.from_parameters(3, 4, 5, *rng.uniform(50, 90, 3)).matrix.copy()
        vectors[2] += rng.integers(-2, 3) * vectors[0] + rng.integers(-2, 3) * vectors[1]
        structure = Structure(Lattice(vectors), ["Cu"] * 3, rng.random((3, 3)))
        difference = structure.frac_coords[:, None] - structure.frac_coords[None]
        distances = np.linalg.norm((difference[:, :, None] + shifts) @ vectors, axis=-1)
        assert minimum_distance_ratio(structure) == pytest.approx(distances[distances > 1e-9].min() / 2.64)


# ---- oxidation states ------------------------------------------------------------------------------


def test_oxidation_states_of_simple_salts(nacl: Structure, rutile: Structure) -> None:
    assert {str(s) for s in with_oxidation_states(nacl).species} == {"Na+", "Cl-"}
    assert {str(s) for s in with_oxidation_states(rutile).species} == {"Ti4+", "O2-"}
    assert structures_match(with_oxidation_states(rutile), rutile)


def test_alloys_elements_and_mixed_states_without_a_solution_stay_plain(nacl: Structure) -> None:
    bcc = [[0, 0, 0], [0.5, 0.5, 0.5]]
    for species in (["Fe", "Al"], ["Fe", "Fe"], ["Na", "K"]):
        alloy = with_oxidation_states(Structure(Lattice.cubic(2.9), species, bcc))
        assert [str(s) for s in alloy.species] == species
    # Na7Cl8 balances only as Na(8/7)+
    vacancy = nacl.copy()
    vacancy.remove_sites([0])
    assert {str(s) for s in with_oxidation_states(vacancy).species} == {"Na", "Cl"}


def test_mixed_valence_is_settled_site_by_site() -> None:
    # the normal spinel: Co2+ on the tetrahedral sites (8a), Co3+ on the octahedral ones (16d)
    coords = [[1 / 8] * 3, [1 / 2] * 3, [0.2631] * 3]
    spinel = Structure.from_spacegroup("Fd-3m:2", Lattice.cubic(8.084), ["Co", "Co", "O"], coords)
    structure = with_oxidation_states(spinel.get_primitive_structure())
    assert Counter(str(s) for s in structure.species) == {"Co2+": 2, "Co3+": 4, "O2-": 8}
    for index, site in enumerate(structure):
        if str(site.specie) in ("Co2+", "Co3+"):
            n_oxygen = len(structure.get_neighbors(structure[index], 2.2))
            assert n_oxygen == {"Co2+": 4, "Co3+": 6}[str(site.specie)]


def test_formulas_too_large_to_search_stay_plain_at_once() -> None:
    species = ["U", "Ru", "Mn", "Re", "N", "S", "P", "Cl"] * 12
    structure = Structure(Lattice.cubic(20), species[:-1], np.random.default_rng(0).random((95, 3)))
    assert all(
        str(s) == symbol for s, symbol in zip(with_oxidation_states(structure).species, species, strict=False)
    )
