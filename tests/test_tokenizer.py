"""The tokenizer gives back the crystal it was given, and refuses what it cannot write."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Species, Structure
from pymatgen.core.structure_matcher import ElementComparator, StructureMatcher
from real_structures import aflow_structures, rock_salt, rutile
from transformers import AutoTokenizer

from materium_rl.errors import PolicyError, TokenizationError
from materium_rl.structures import strip_oxidation_states
from materium_rl.token_layout import TokenClass, TokenLayout
from materium_rl.tokenizer import CrystalCodec, CrystalTokenizer, TokenizerSettings, species_of


def codec(**options: object) -> CrystalCodec:
    """Of all test crystals; some are compressed below the usual least distance."""
    options = {"min_distance": 0.3, **options}
    return CrystalCodec(TokenizerSettings(species=species_of(aflow_structures()), **options))  # type: ignore[arg-type]


def test_every_prototype_survives_the_round_trip() -> None:
    writer = codec(length_range=(1.0, 60.0))
    matcher = StructureMatcher(comparator=ElementComparator())
    kept = 0
    for structure in aflow_structures():
        decoded = writer.decode(writer.encode(structure))
        assert matcher.fit(structure, decoded), structure.composition
        before = structure.get_space_group_info(symprec=0.1)[1]
        kept += before == decoded.get_space_group_info(symprec=0.1)[1]
    assert kept / len(aflow_structures()) >= 0.99


def test_special_positions_are_exact() -> None:
    decoded = codec().decode(codec().encode(rock_salt()))
    assert sorted(decoded.frac_coords.flatten().tolist()) == [0, 0, 0, 0.5, 0.5, 0.5]
    assert len(set(np.round(decoded.lattice.abc, 9))) == 1


def test_rutile_keeps_its_space_group() -> None:
    decoded = codec().decode(codec().encode(rutile()))
    assert decoded.get_space_group_info(symprec=0.01)[1] == 136


@settings(max_examples=50, deadline=None)
@given(k=st.tuples(*[st.integers(0, 23)] * 3))
def test_multiples_of_a_24th_are_grid_points(k: tuple[int, int, int]) -> None:
    structure = Structure(Lattice.cubic(4.0), ["Na"], [[i / 24 for i in k]])
    decoded = codec(canonical=False).decode(codec(canonical=False).encode(structure, reduce=False))
    assert np.allclose(decoded.frac_coords[0], np.array(k) / 24, atol=1e-12)


@pytest.mark.parametrize("order", ["electronegativity", "heavy_first", "light_first", "xyz", "random"])
def test_site_orders_describe_the_same_crystal(order: str) -> None:
    writer = codec(site_order=order)
    decoded = writer.decode(writer.encode(rutile()))
    assert StructureMatcher(comparator=ElementComparator()).fit(rutile(), decoded)
    first = decoded[0].specie.symbol
    if order in ("electronegativity", "heavy_first"):
        assert first == "Ti"
    if order == "light_first":
        assert first == "O"


def test_oxidation_states_are_written_and_read_back() -> None:
    species = [Species("Na", 1), Species("Cl", -1)]
    charged = Structure(Lattice.cubic(4.0), species, [[0, 0, 0], [0.5, 0.5, 0.5]])
    writer = CrystalCodec(TokenizerSettings(species=("Na|+1", "Cl|-1")))
    decoded = writer.decode(writer.encode(charged))
    assert sorted(str(s) for s in decoded.species) == ["Cl-", "Na+"]
    assert strip_oxidation_states(decoded).composition.formula == "Na1 Cl1"


@pytest.mark.parametrize(
    ("structure", "message"),
    [
        (Structure(Lattice.cubic(60.0), ["Na"], [[0, 0, 0]]), "a = 60.000 Å, the limits are 1.5..50"),
        (Structure(Lattice.cubic(4.0), ["Og"], [[0, 0, 0]]), "unknown element: Og"),
        (Structure(Lattice.cubic(4.0), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]), "disordered"),
        (
            Structure(Lattice.cubic(20.0), ["Na"] * 25, np.random.default_rng(0).random((25, 3))),
            "too many sites: 25 in the primitive cell, the limit is 20",
        ),
    ],
)
def test_refusals_name_the_value_and_the_limit(structure: Structure, message: str) -> None:
    with pytest.raises(TokenizationError, match=message):
        codec().encode(structure)


@pytest.mark.parametrize(
    "ids", [[1, 2], [1, 2, 5, 3, 100, 100, 4], [1, 2, 5, 3, 1, 1, 1, 1, 1, 1, 100, 101, 102, 4]]
)
def test_incomplete_sequences_do_not_decode(ids: list[int]) -> None:
    with pytest.raises(TokenizationError):
        codec().decode(ids)


def equivalent_cells(structure: Structure, rng: np.random.Generator) -> Structure:
    """The same crystal in a sheared supercell, from another origin, with its sites in another order."""
    shear = np.eye(3, dtype=int)
    shear[0, 1], shear[2, 2] = 1, 2
    other = Structure(
        structure.lattice, structure.species, structure.frac_coords + rng.random(3)
    ).make_supercell(shear)
    order = rng.permutation(len(other))
    return Structure(other.lattice, [other.species[i] for i in order], other.frac_coords[order])


def same_up_to_rounding(a: list[int], b: list[int], layout: TokenLayout) -> bool:
    """Whether two sequences differ by at most one step in each coordinate."""
    if len(a) != len(b):
        return False
    steps = np.abs(np.subtract(a, b))
    n_coordinates = 3 * (len(a) - 10) // 4
    steps[-1 - n_coordinates : -1] %= layout.grid - 1  # the grid is a circle: 959 and 0 are neighbours
    return bool((steps[: -1 - n_coordinates] == 0).all() and steps.max() <= 1)


def test_a_crystal_has_one_sequence_in_whatever_cell_and_origin() -> None:
    writer, rng = codec(length_range=(1.0, 60.0)), np.random.default_rng(0)
    given = codec(length_range=(1.0, 60.0), canonical=False)
    one, as_given, chosen = 0, 0, aflow_structures()[::3]
    for structure in chosen:
        other = equivalent_cells(structure, rng)
        one += same_up_to_rounding(writer.encode(structure), writer.encode(other), writer.layout)
        as_given += same_up_to_rounding(given.encode(structure), given.encode(other), given.layout)
    assert one >= 0.95 * len(chosen)  # the rest sit within rounding of two settings
    assert as_given < 0.5 * len(chosen)


def test_a_chiral_crystal_keeps_its_hand() -> None:
    quartz = [s for s in aflow_structures() if s.get_space_group_info()[1] in (152, 154)]
    assert quartz
    for structure in quartz:
        decoded = codec().decode(codec().encode(structure))
        assert decoded.get_space_group_info(symprec=0.05)[1] == structure.get_space_group_info()[1]


def test_sites_too_close_are_refused() -> None:
    close = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.25, 0, 0]])
    with pytest.raises(TokenizationError, match=r"too close: two sites at 0\.3\d+ of the sum"):
        codec(min_distance=0.65).encode(close)


def test_auto_tokenizer_gives_the_codec_back(tmp_path) -> None:
    settings_ = codec().settings
    CrystalTokenizer(settings_).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert isinstance(loaded, CrystalTokenizer)
    assert loaded.token_settings == settings_
    ids = loaded.codec.encode(rutile())
    assert loaded(loaded.decode(ids))["input_ids"] == ids
    assert loaded.pad_token_id == TokenClass.PAD
    assert loaded.eos_token_id == TokenClass.EOS


def test_another_tokenizer_version_is_refused(tmp_path) -> None:
    stale = codec().settings.model_dump(mode="json") | {"version": 99}
    with pytest.raises(PolicyError, match="tokenizer version 99"):
        CrystalTokenizer(stale)


def test_round_trip_of_training_structures(shared_data) -> None:
    from materium_rl.datasets import read_reduced

    rows = read_reduced(shared_data / "mp_val.csv.gz").rows[:150]
    writer = CrystalCodec(TokenizerSettings(species=species_of(r.structure for r in rows)))
    matcher = StructureMatcher(comparator=ElementComparator())
    assert all(matcher.fit(r.structure, writer.decode(writer.encode(r.structure))) for r in rows)
