"""The novelty ladder counts what was planted, on every level, and tells why."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.core.structure_matcher import ElementComparator, StructureMatcher

from materium_rl.errors import AssetError, ConfigError, StructureFileError
from materium_rl.evaluation.novelty.distances import amd, amd_distance
from materium_rl.evaluation.novelty.known import FEW
from materium_rl.evaluation.novelty.ladder import LEVELS, Ladder, LadderTable, Reference, Verdict
from materium_rl.evaluation.novelty.levels import TOLERANCES, WRITING
from materium_rl.rewards.base import Measurement, Outcome
from materium_rl.rewards.catalogue.novelty import Novelty, Tier
from materium_rl.rewards.reference_arrays import build_arrays
from materium_rl.structure_files import write_structures
from materium_rl.structures import strip_oxidation_states
from tests.real_structures import aflow_structures, rock_salt, rutile

KEYS = tuple(level.key for level in LEVELS)
STRUCTURE = frozenset({"new_structure_strict", "new_structure", "new_structure_loose"})
NEW = STRUCTURE | {"new_formula"}


def of_group(group: str, lattice: Lattice, **sites: list[float]) -> Structure:
    return Structure.from_spacegroup(group, lattice, list(sites), list(sites.values()))


def perovskite(a: str, b: str, x: str, length: float) -> Structure:
    return of_group("Pm-3m", Lattice.cubic(length), **{a: [0, 0, 0], b: [0.5] * 3, x: [0.5, 0.5, 0]})


def salt(a: str, b: str, length: float) -> Structure:
    return of_group("Fm-3m", Lattice.cubic(length), **{a: [0, 0, 0], b: [0.5] * 3})


def caesium_chloride(a: str, b: str, length: float) -> Structure:
    return of_group("Pm-3m", Lattice.cubic(length), **{a: [0, 0, 0], b: [0.5] * 3})


def fcc(element: str, length: float) -> Structure:
    return of_group("Fm-3m", Lattice.cubic(length), **{element: [0, 0, 0]})


def supercell(structure: Structure) -> Structure:
    copy = structure.copy()
    copy.make_supercell([[1, 0, 0], [1, 1, 0], [0, 0, 2]])
    return copy


def shifted(structure: Structure) -> Structure:
    coords = structure.frac_coords + np.array([0.31, 0.17, 0.77])
    return Structure(structure.lattice, structure.species, coords)


def shuffled(structure: Structure) -> Structure:
    order = np.random.default_rng(3).permutation(len(structure))
    return Structure.from_sites([structure[int(i)] for i in order])


def turned(structure: Structure) -> Structure:
    c, s = np.cos(0.7), np.sin(0.7)
    turn = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return Structure(structure.lattice.matrix @ turn, structure.species, structure.frac_coords)


def oxidised(structure: Structure) -> Structure:
    """With states that no chemist would write."""
    copy = strip_oxidation_states(structure)
    symbols = sorted({site.specie.symbol for site in copy})
    copy.add_oxidation_state_by_element({symbol: 7 - 2 * i for i, symbol in enumerate(symbols)})
    return copy


def strained(structure: Structure, by: float = 0.01, seed: int = 1) -> Structure:
    """Stretched and sheared, each component of the strain at most ``by``."""
    strain = np.eye(3) + np.random.default_rng(seed).uniform(-by, by, (3, 3))
    return Structure(structure.lattice.matrix @ strain, structure.species, structure.frac_coords)


def swollen(structure: Structure, by: float = 1.05) -> Structure:
    lattice = structure.lattice.scale(structure.volume * by**3)
    return Structure(lattice, structure.species, structure.frac_coords)


def pushed(structure: Structure, by: float) -> Structure:
    """Its first atom moved by so many Å."""
    copy = structure.copy()
    copy.translate_sites([0], [by, 0, 0], frac_coords=False)
    return copy


def disguised(structure: Structure) -> Structure:
    return supercell(turned(shuffled(shifted(structure))))


KNOWN = {
    "salt": rock_salt(),
    "titanate": perovskite("Sr", "Ti", "O", 3.905),
    "aluminate": perovskite("Nd", "Al", "O", 3.75),
    "dysprosium_zinc": caesium_chloride("Dy", "Zn", 3.56),
    "copper": fcc("Cu", 3.61),
    "fluorite": of_group("Fm-3m", Lattice.cubic(5.46), Ca=[0, 0, 0], F=[0.25] * 3),
}
LAYERED_SALT = Structure(Lattice.tetragonal(2.8, 5.6), ["Mg", "O"], [[0, 0, 0], [0, 0, 0.5]])
HEUSLER = of_group("Fm-3m", Lattice.cubic(5.95), Mn=[0, 0, 0], Al=[0.5] * 3, Cu=[0.25] * 3)
HALF_HEUSLER = of_group("F-43m", Lattice.cubic(6.2), Mg=[0, 0, 0], Ag=[0.5] * 3, As=[0.25] * 3)
GOLD_COPPER = of_group("Pm-3m", Lattice.cubic(3.75), Pt=[0, 0, 0], Fe=[0.5, 0.5, 0])
POLONIUM = Structure(Lattice.cubic(3.35), ["Po"], [[0, 0, 0]])
CORUNDUM = of_group("R-3c", Lattice.hexagonal(4.76, 12.99), Al=[0, 0, 0.352], O=[0.306, 0, 0.25])
QUARTZ = of_group("P3_221", Lattice.hexagonal(4.913, 5.405), Si=[0.4697, 0, 0], O=[0.4135, 0.2669, 0.1191])


@dataclass(frozen=True)
class Planted:
    """Structures of one kind, and on which levels, ``far`` aside, all of them are new."""

    structures: Sequence[Structure | None]
    tier: Tier | None
    new: frozenset[str] = field(default_factory=frozenset)
    rare_earth_swap: bool = False
    duplicates: int = 0


PLANTED = {
    "exact duplicates": Planted([s.copy() for s in KNOWN.values()], Tier.KNOWN),
    "supercells": Planted([supercell(s) for s in KNOWN.values()], Tier.KNOWN, duplicates=6),
    "shifted origins": Planted([shifted(s) for s in KNOWN.values()], Tier.KNOWN, duplicates=6),
    "strained by 1 %": Planted([strained(s) for s in KNOWN.values()], Tier.KNOWN, duplicates=6),
    "oxidation states": Planted([oxidised(s) for s in KNOWN.values()], Tier.KNOWN, duplicates=6),
    "all of it": Planted(
        [strained(disguised(oxidised(s))) for s in KNOWN.values()], Tier.KNOWN, duplicates=6
    ),
    "known formula, other structure": Planted(
        [caesium_chloride("Na", "Cl", 3.5), salt("Dy", "Zn", 5.6)],
        Tier.NEW_ARRANGEMENT,
        STRUCTURE | {"not_substitution"},
    ),
    "rare-earth swaps": Planted(
        [
            caesium_chloride("La", "Zn", 3.76),
            perovskite("Y", "Al", "O", 3.7),
            disguised(perovskite("La", "Al", "O", 3.8)),
            of_group("Fm-3m", Lattice.cubic(7.1), Ho=[0, 0, 0], Er=[0.5] * 3, Zn=[0.25] * 3),
        ],
        Tier.SUBSTITUTION,
        NEW,
        rare_earth_swap=True,
    ),
    "other swaps in a family": Planted(
        [
            perovskite("Ca", "Ti", "O", 3.9),
            strained(perovskite("Ba", "Zr", "O", 4.2)),
            salt("K", "Br", 6.6),
            fcc("Ag", 4.09),
        ],
        Tier.SUBSTITUTION,
        NEW,
    ),
    "known prototype, other elements": Planted(
        [
            perovskite("K", "Mg", "F", 4.0),
            salt("Mg", "O", 4.21),
            caesium_chloride("Ni", "Al", 2.88),
            fcc("Al", 4.05),
        ],
        Tier.KNOWN_PROTOTYPE,
        NEW | {"not_substitution"},
    ),
    "new orders on known frameworks": Planted(
        [LAYERED_SALT, HEUSLER, disguised(HALF_HEUSLER), GOLD_COPPER, POLONIUM],
        Tier.NEW_PROTOTYPE,
        NEW | {"not_substitution", "new_prototype"},
    ),
    "new frameworks": Planted(
        [rutile(), QUARTZ, disguised(CORUNDUM)],
        Tier.NEW_PROTOTYPE,
        NEW | {"not_substitution", "new_prototype", "new_framework"},
    ),
    "unreadable": Planted(
        [
            None,
            Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0]]),
            Structure(Lattice.cubic(4), ["H", "H"], [[0, 0, 0], [0.11, 0, 0]]),
            Structure(Lattice.cubic(4), ["Na"], [[np.nan, 0, 0]]),
            Structure(Lattice.orthorhombic(1.2, 1.2, 1e7), ["H"] * 2, [[0, 0, 0], [0, 0, 0.5]]),
        ],
        None,
    ),
}
ALL = [structure for planted in PLANTED.values() for structure in planted.structures]


@cache
def known() -> Reference:
    return Reference.from_structures("known", list(KNOWN.values()), list(KNOWN), "the planted set")


@pytest.fixture(scope="module")
def table() -> LadderTable:
    return Ladder([known()]).climb(ALL)


def verdict(structure: Structure, reference: Reference | None = None) -> Verdict:
    reference = known() if reference is None else reference
    (rung,) = Ladder([reference]).climb([structure]).as_written
    assert rung.outcome is Outcome.OK, rung.reason
    return rung.verdicts[reference.name]


def of_kind(table: LadderTable, kind: str) -> pd.DataFrame:
    names = [name for name, planted in PLANTED.items() for _ in planted.structures]
    return table.to_frame()[np.array(names) == kind]


@pytest.mark.parametrize("kind", PLANTED)
def test_every_level_tells_what_was_planted(table, kind):
    planted, rows = PLANTED[kind], of_kind(table, kind)
    if planted.tier is None:
        assert set(rows["outcome"]) == {"invalid"}
        assert rows["reason"].str.len().gt(0).all()
        assert rows[[f"known.{key}" for key in KEYS]].isna().all(axis=None)
        assert rows["unique"].isna().all()
        return
    assert set(rows["outcome"]) == {"ok"}
    assert set(rows["known.tier"]) == {planted.tier}
    for key in KEYS[:-1]:
        assert rows[f"known.{key}"].tolist() == [key in planted.new] * len(rows), key
    assert rows["known.rare_earth_swap"].tolist() == [planted.rare_earth_swap] * len(rows)
    assert (~rows["unique"]).sum() == planted.duplicates


def test_the_summary_counts_them_all(table):
    shares = {share.level: share for share in table.summary()}
    assert tuple(shares) == KEYS
    assert {share.requested for share in shares.values()} == {len(ALL)}
    assert {share.told for share in shares.values()} == {len(ALL) - 5}
    for key in KEYS[:-1]:
        expected = sum(len(planted.structures) for planted in PLANTED.values() if key in planted.new)
        assert shares[key].count == expected
        assert shares[key].share == expected / len(ALL)
    tiers = {share.level: share.count for share in table.tiers()}
    for tier in Tier:
        assert tiers[tier] == sum(len(p.structures) for p in PLANTED.values() if p.tier is tier)
    assert tiers["rare_earth_swap"] == 4


def test_duplicates_name_the_first_of_their_kind(table):
    first = {name: row for row, name in enumerate(KNOWN)}
    assert of_kind(table, "supercells")["duplicate_of"].tolist() == list(first.values())
    assert of_kind(table, "all of it")["duplicate_of"].tolist() == list(first.values())
    assert of_kind(table, "new frameworks")["duplicate_of"].isna().all()


@pytest.mark.parametrize(
    ("by", "matched"),
    # SrTiO3: 5 sites in 59.5 Å3; an atom moved by d is 0.8 d off the common centre, in units of 2.284 Å
    [(0.2, {"strict", "standard", "loose"}), (0.4, {"standard", "loose"}), (1.0, {"loose"}), (1.5, set())],
)
def test_tolerances(by, matched):
    assert {name for name, t in TOLERANCES.items() if 0.8 * by / 2.284 < t.stol} == matched
    new = verdict(pushed(KNOWN["titanate"], by)).new
    keys = {"strict": "new_structure_strict", "standard": "new_structure", "loose": "new_structure_loose"}
    assert {name for name, key in keys.items() if not new[key]} == matched


SWAPS = {"Sr": "Ba", "Ti": "Hf", "K": "Rb", "Mg": "Be", "F": "Cl", "Ca": "Ra", "Ag": "Au", "As": "Sb"}
OTHERS = {"Sr": "Pd", "Ti": "Se", "O": "Li", "K": "V", "Mg": "Te", "F": "Ir", "Ag": "Tc", "As": "Nb"}
OTHERS |= {"Ca": "W", "Na": "W", "Cl": "Bi"}


def replaced(structure: Structure, swaps: Mapping[str, str]) -> Structure:
    kinds = [swaps.get(site.specie.symbol, site.specie.symbol) for site in structure]
    return Structure(structure.lattice, kinds, structure.frac_coords)


TRANSFORMS: dict[str, Callable[[Structure], Structure]] = {
    "cell": supercell,
    "origin": shifted,
    "orientation": turned,
    "site order": shuffled,
    "oxidation states": oxidised,
    "volume": swollen,
    "positions": lambda s: s.copy().perturb(0.15),
    "elements of one family": lambda s: replaced(s, SWAPS),
    "elements": lambda s: replaced(s, OTHERS),
}
PANEL = [
    KNOWN["titanate"],
    perovskite("Ca", "Ti", "O", 3.9),
    perovskite("K", "Mg", "F", 4.0),
    LAYERED_SALT,
    HALF_HEUSLER,
    rutile(),
    caesium_chloride("Na", "Cl", 3.5),
]


@pytest.fixture(scope="module")
def panels() -> dict[str, LadderTable]:
    changed = {name: [transform(s) for s in PANEL] for name, transform in TRANSFORMS.items()}
    return {name: Ladder([known()]).climb(some) for name, some in ({"": PANEL} | changed).items()}


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.key)
def test_what_a_level_says_it_ignores(level, panels):
    assert set(level.ignores) >= set(WRITING)
    column = f"known.{level.key}"
    for name in level.ignores:
        assert panels[name].to_frame()[column].tolist() == panels[""].to_frame()[column].tolist(), name


def test_what_the_levels_do_not_ignore(panels):
    plain = panels[""].to_frame()
    for key, name in {
        "new_formula": "elements",
        "new_structure": "elements",
        "not_substitution": "elements",
    }.items():
        assert panels[name].to_frame()[f"known.{key}"].tolist() != plain[f"known.{key}"].tolist()
    assert not verdict(KNOWN["salt"]).new["far"]
    assert verdict(swollen(KNOWN["salt"])).new["far"]


def test_distance_is_known_in_closed_form():
    # both are simple cubic, elements aside; the 100th neighbour of a site is three edges away
    swap = verdict(salt("K", "Br", 5.79))
    assert swap.neighbour is not None
    assert swap.neighbour.material_id == "salt"
    assert swap.neighbour.amd == pytest.approx(0.15, abs=1e-3)
    assert swap.neighbour.pdd == pytest.approx(0.15, abs=1e-3)


def test_closest_is_nearest_by_brute_force():
    structures = aflow_structures(10)
    reference = Reference.from_structures("aflow", structures[::2])
    for structure in structures[1:40:4]:
        distances = [amd_distance(amd(structure), amd(other)) for other in structures[::2]]
        found = Ladder([reference]).climb([structure]).as_written[0].verdicts["aflow"].closest
        assert found is not None
        assert found.amd == pytest.approx(distances[int(found.material_id)], abs=2e-3)
        assert int(found.material_id) in np.argsort(distances)[: FEW + 2]
        assert min(distances) - 2e-3 <= found.amd <= found.pdd + 1e-9


@pytest.mark.parametrize(
    ("structure", "said"),
    [
        (
            disguised(KNOWN["titanate"]),
            ("SrTiO3 is in the planted set as titanate", "the same structure, AMD 0.00 Å"),
        ),
        (pushed(KNOWN["titanate"], 0.4), ("the same structure, though not by strict tolerances",)),
        (
            caesium_chloride("Na", "Cl", 3.5),
            ("NaCl is in the planted set, but not in this structure", "NaCl (salt), another framework"),
        ),
        (
            perovskite("Ca", "Ti", "O", 3.935),
            (
                "CaTiO3 is not in the planted set; nearest is SrTiO3 (titanate), same prototype, ",
                # a cell swollen by a factor has all its distances swollen by it
                f"AMD {(3.935 / 3.905 - 1) * amd(KNOWN['titanate']).max():.2f} Å: a substitution (Ca for Sr)",
            ),
        ),
        (
            caesium_chloride("La", "Zn", 3.56),
            ("nearest is DyZn (dysprosium_zinc)", "AMD 0.00 Å: a rare-earth substitution (La for Dy)"),
        ),
        (
            salt("Mg", "O", 5.69),
            ("NaCl (salt), same prototype", "a known prototype with elements of other families"),
        ),
        (LAYERED_SALT, ("NaCl (salt), same framework", "a new order of elements on a known framework")),
        (rutile(), ("TiO2 is not in the planted set", "another framework", ": a new framework")),
    ],
    ids=["known", "moved", "arrangement", "substitution", "rare earth", "prototype", "order", "framework"],
)
def test_reasons(structure, said):
    why = verdict(structure).why
    for part in said:
        assert part in why


def test_a_distortion_does_not_make_a_new_prototype():
    distorted = perovskite("Ba", "Zr", "O", 4.2).perturb(0.15)
    found = verdict(distorted)
    assert found.tier is Tier.SUBSTITUTION
    assert "a distortion of the same prototype" in found.why


def test_tiers_are_those_of_the_reward():
    structures = aflow_structures(10)
    reference = Reference.from_structures("aflow", structures[::2])
    assert reference.index is not None
    queries = [*structures[1:100:3], *(strained(s, 0.03) for s in structures[:20:2])]
    rungs = Ladder([reference]).climb(queries).as_written
    results = Novelty().against(reference.index).measure(queries)
    pairs = [(r, m) for r, m in zip(rungs, results, strict=True) if isinstance(m, Measurement)]
    assert len(pairs) > 35
    assert [r.verdicts["aflow"].tier for r, _ in pairs] == [m.details["tier"] for _, m in pairs]
    assert len({m.details["tier"] for _, m in pairs}) >= 3


def test_equals_brute_force_of_pymatgen():
    references = [strip_oxidation_states(s) for s in aflow_structures(12)[::2]]
    queries = [disguised(s) for s in references[:12]] + [strained(s, 0.03) for s in references[8:24]]
    queries += [pushed(s, 0.4) for s in references[20:30]] + [pushed(s, 0.9) for s in references[20:30]]
    queries += [strip_oxidation_states(s) for s in aflow_structures(12)[1:40:4]]
    table = Ladder([Reference.from_structures("aflow", references)]).climb(queries)
    frame = table.to_frame()
    read = np.flatnonzero(frame["outcome"] == "ok")
    assert len(read) > 50
    for name, key in (
        ("strict", "new_structure_strict"),
        ("standard", "new_structure"),
        ("loose", "new_structure_loose"),
    ):
        t = TOLERANCES[name]
        matcher = StructureMatcher(t.ltol, t.stol, t.angle_tol, comparator=ElementComparator())
        brute = [not any(matcher.fit(queries[i], r) for r in references) for i in read]
        assert frame[f"aflow.{key}"][read].tolist() == brute
        assert 3 < sum(brute) < len(brute) - 3
    matcher = StructureMatcher(comparator=ElementComparator())
    groups = matcher.group_structures([queries[i] for i in read])
    assert frame["unique"][read].sum() == len(groups)


def test_relaxed_partners():
    structures = [pushed(KNOWN["titanate"], 1.5), rutile(), None, KNOWN["salt"]]
    relaxed = [KNOWN["titanate"], rutile(), None, None]
    ticks: list[int] = []
    table = Ladder([known()]).climb(structures, relaxed, tick=lambda: ticks.append(1))
    frame = table.to_frame()
    assert len(ticks) == 8
    assert frame["known.new_structure"].tolist() == [True, True, pd.NA, False]
    assert frame["relaxed.known.new_structure"].tolist() == [False, True, pd.NA, pd.NA]
    assert frame["relaxed.outcome"].tolist() == ["ok", "ok", "failed", "failed"]
    shares = {s.stage: s for s in table.summary() if s.level == "new_structure"}
    assert (shares["relaxed"].count, shares["relaxed"].told, shares["relaxed"].share) == (1, 2, 0.25)
    with pytest.raises(ValueError, match="1 relaxed"):
        Ladder([known()]).climb(structures, [None])


def test_several_references():
    salts = Reference.from_structures("salts", [rock_salt()])
    table = Ladder([known(), salts, Reference.materials_project()]).climb([KNOWN["titanate"], QUARTZ])
    frame = table.to_frame()
    assert frame["known.new_formula"].tolist() == [False, True]
    assert frame["salts.new_formula"].tolist() == [True, True]
    assert frame["materials_project.new_formula"].tolist() == [False, False]
    assert "materials_project.new_structure" not in frame
    assert frame["materials_project.why"][0] == "SrTiO3 is a formula of the Materials Project"
    levels = [share.level for share in table.summary() if share.reference == "materials_project"]
    assert levels == ["new_formula"]


def test_everything_is_new_to_an_empty_reference():
    found = verdict(rock_salt(), Reference.from_structures("archive", [], title="the archive"))
    assert all(found.new.values())
    assert (found.tier, found.neighbour, found.closest) == (Tier.NEW_PROTOTYPE, None, None)
    assert found.why == "NaCl is new: the archive holds no structure"
    assert Ladder([known()]).climb([]).to_frame().empty


def test_reference_files(tmp_path: Path):
    write_structures([KNOWN["titanate"], rutile()], tmp_path / "more")
    (tmp_path / "more" / "broken.cif").write_text("data_x\n_cell_length_a ?\n")
    reference = Reference.from_file("more", tmp_path / "more")
    assert (len(reference), reference.title) == (2, "more")
    assert len(reference.left_out) == 1
    assert "broken.cif" in reference.left_out[0]
    assert verdict(rutile(), reference).tier is Tier.KNOWN
    np.savez(tmp_path / "index.npz", **build_arrays([rutile()], ["mp-1"], []))
    assert (
        verdict(rutile(), Reference.from_file("index", tmp_path / "index.npz")).neighbour.material_id
        == "mp-1"
    )
    with pytest.raises(StructureFileError, match=r"absent\.cif"):
        Reference.from_file("absent", tmp_path / "absent.cif")
    with pytest.raises(StructureFileError, match="No usable structure"):
        Reference.from_file("broken", tmp_path / "more" / "broken.cif")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(AssetError, match="no reference index"):
        Reference.from_file("other", tmp_path / "other.npz")


def test_what_cannot_be_indexed_is_left_out_and_told():
    overlapping = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0, 0, 0]])
    reference = Reference.from_structures("some", [None, overlapping, rutile()], ["a", "b", "c"])
    assert len(reference) == 1
    assert [text.split(":")[0] for text in reference.left_out] == ["a", "b"]


def test_names_of_references():
    with pytest.raises(ConfigError, match="letters, digits"):
        Reference.from_structures("my set", [])
    with pytest.raises(ConfigError, match="two references are named 'known'"):
        Ladder([known(), known()])


def test_the_archive_of_a_run(tmp_path: Path):
    (tmp_path / "samples").mkdir()
    steps = {1: [rock_salt(), rock_salt()], 2: [rutile(), POLONIUM]}
    for step, structures in steps.items():
        rows = [
            {"cif": str(s.to(fmt="cif")), "formula": s.composition.reduced_formula, "index": i}
            for i, s in enumerate(structures)
        ]
        rows.append({"cif": None, "formula": None, "index": 2})
        pd.DataFrame(rows).to_parquet(tmp_path / "samples" / f"step_{step:06d}.parquet")
    assert len(Reference.of_run(tmp_path)) == 3
    before = Reference.of_run(tmp_path, before=2)
    assert len(before) == 1
    assert verdict(rutile(), before).new["new_formula"]
    again = verdict(rock_salt(), before)
    assert (
        again.why
        == "NaCl is in what the run wrote before as step 1, sample 0: the same structure, AMD 0.00 Å"
    )
    assert len(Reference.of_run(tmp_path, before=1)) == 0
    with pytest.raises(StructureFileError):
        Reference.of_run(tmp_path / "none")
