"""Datasets: reasons of drops, equivalent descriptions, batches, hold-out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from real_structures import rock_salt, rutile
from tiny import MAX_SITES, small_structures, tiny_codec

from materium_rl.datasets import (
    TokenizedStructures,
    bucketed_batches,
    equivalent,
    hold_out,
    pad,
    read_reduced,
    tokenize,
    write_dropped,
)
from materium_rl.errors import StructureFileError
from materium_rl.structure_files import write_structures
from materium_rl.structure_parsers import DropKind, StructureRow
from materium_rl.structures import structures_match, to_primitive_niggli
from materium_rl.tokenizer import CrystalCodec

SHARED_ELEMENTS = [("Na", "Cl"), ("K", "Cl"), ("Na", "Br"), ("K", "Br"), ("Li", "F")]


def cubic(symbol: str, length: float) -> Structure:
    return Structure(Lattice.cubic(length), [symbol], [[0, 0, 0]])


def read(path: Path, *structures: Structure):
    write_structures(structures, path / "data.json")
    return read_reduced(path / "data.json")


def test_each_drop_has_its_reason(tmp_path: Path) -> None:
    """The small codec knows 4 sites, lengths of 1.5..50 Å and the elements of its own structures."""
    result = read(
        tmp_path, small_structures()[0], rutile(), cubic("Xe", 5.0), cubic("Cu", 51.0), small_structures()[1]
    )
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a what\n")
    folder = read_reduced(tmp_path)
    assert [d.kind for d in folder.dropped] == [DropKind.UNREADABLE]
    tokenized = tokenize(folder, tiny_codec())
    assert len(result.rows) == 5
    assert [(d.source, d.kind) for d in tokenized.dropped] == [
        ("broken.cif", DropKind.UNREADABLE),
        ("data.json[1]", DropKind.TOO_MANY_SITES),
        ("data.json[2]", DropKind.UNKNOWN_ELEMENT),
        ("data.json[3]", DropKind.OUT_OF_RANGE),
    ]
    assert tokenized.formulas == [s.composition.reduced_formula for s in small_structures()[:2]]
    assert len(tokenized.sequences[1]) == 10 + 4 * len(small_structures()[1])
    summary = tokenized.summary()
    assert summary.startswith("2 structures, 4 dropped (")
    assert "data.json[2]: unknown element: Xe is not among the" in summary
    write_dropped(tmp_path / "dropped.txt", {"training": tokenized, "validation": TokenizedStructures()})
    lines = (tmp_path / "dropped.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    assert lines[1].split("\t")[:3] == ["training", "data.json[1]", "too_many_sites"]


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    tokenized = tokenize(read(tmp_path, rutile()), tiny_codec())
    with pytest.raises(StructureFileError, match=r"too many sites: 6 in the primitive cell, the limit is 4"):
        tokenized.require_any(tmp_path)


def test_a_cell_that_cannot_be_reduced_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reduce(structure: Structure) -> Structure:
        if len(structure) == 1:
            raise ValueError("no reduced cell found")
        return to_primitive_niggli(structure)

    monkeypatch.setattr("materium_rl.datasets.to_primitive_niggli", reduce)
    result = read(tmp_path, cubic("Cu", 3.6), rock_salt())
    assert len(result.rows) == 1
    assert [(d.source, d.message) for d in result.dropped] == [
        ("data.json[0]", "ValueError: no reduced cell found")
    ]


def test_equivalent_is_the_same_crystal_in_the_order_of_the_codec() -> None:
    codec = tiny_codec()
    as_given = CrystalCodec(codec.settings.model_copy(update={"canonical": False}))
    rng = np.random.default_rng(0)
    different = 0
    for structure in small_structures()[:15]:
        ids = np.array(codec.encode(structure), dtype=np.int32)
        other = equivalent(ids, codec, rng)
        different += not np.array_equal(ids, other)
        decoded = codec.decode(other)
        assert structures_match(codec.decode(ids), decoded)
        assert as_given.encode(decoded, reduce=False) == other.tolist()
    assert different >= 10


def test_batches_hold_everything_once_and_little_padding() -> None:
    lengths = np.random.default_rng(1).integers(14, 90, size=1000)
    batches = list(bucketed_batches(lengths, 32, np.random.default_rng(2)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert len(batches) == 32
    padded = sum(len(b) * lengths[b].max() for b in batches)
    assert padded < 1.05 * lengths.sum()
    again = list(bucketed_batches(lengths, 32, np.random.default_rng(2)))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    other = list(bucketed_batches(lengths, 32, np.random.default_rng(3)))
    assert not np.array_equal(batches[0], other[0])
    means = [lengths[b].mean() for b in batches]
    assert means != sorted(means)


def test_pad() -> None:
    tokens = pad([np.array([1, 2, 4]), np.array([1, 2, 9, 9, 4])])
    assert tokens.tolist() == [[1, 2, 4, 0, 0], [1, 2, 9, 9, 4]]


def test_hold_out_by_formula_keeps_every_element_in_training(tmp_path: Path) -> None:
    pairs = [
        Structure(Lattice.cubic(a), [x, y], [[0, 0, 0], [0.5, 0.5, 0.5]])
        for x, y in SHARED_ELEMENTS
        for a in (3.5, 3.6)
    ]
    result = read(tmp_path, *pairs)
    for seed in range(5):
        training, validation = hold_out(result, tmp_path, seed=seed)
        formulas = [
            {r.structure.composition.reduced_formula for r in part.rows} for part in (training, validation)
        ]
        assert len(formulas[1]) == 1
        assert "LiF" not in formulas[1]
        assert not formulas[0] & formulas[1]
        assert len(training.rows) + len(validation.rows) == 10
    again = hold_out(result, tmp_path, seed=0)[1].rows
    assert _sources(again) == _sources(hold_out(result, tmp_path, seed=0)[1].rows)
    with pytest.raises(StructureFileError, match="none of the 1 formulas"):
        hold_out(read(tmp_path, *pairs[:2]), tmp_path, seed=0)


def _sources(rows: list[StructureRow]) -> list[str]:
    return [row.source for row in rows]


def test_small_structures_fit_the_tiny_tokenizer() -> None:
    """The other tests of training rest on this."""
    assert all(len(s) <= MAX_SITES for s in small_structures())
    assert len(small_structures()) == 40
