"""What a worker unpacks is what was packed."""

from __future__ import annotations

import numpy as np
from pymatgen.core import Lattice, Structure

from materium_rl.rewards.execution.packing import pack, unpack
from materium_rl.structures import strip_oxidation_states


def test_round_trip_is_exact() -> None:
    rng = np.random.default_rng(0)
    structures = [
        strip_oxidation_states(
            Structure(
                Lattice(rng.normal(size=(3, 3)) * 5, pbc=(True, True, bool(i % 2))),
                rng.choice(["Na+", "Cl-", "D", "X", "Fe"], n),
                rng.normal(size=(n, 3)) * 3,
            )
        )
        for i, n in enumerate((1, 0, 7, 3))
    ]
    structures.append(Structure(Lattice([[np.nan, 0, 0], [0, 3, 0], [0, 0, 3]]), ["Fe"], [[0, np.inf, 0]]))
    again = unpack(pack(structures))
    assert len(again) == 5
    for before, after in zip(structures, again, strict=True):
        assert before.lattice.matrix.tobytes() == after.lattice.matrix.tobytes()
        assert before.frac_coords.tobytes() == after.frac_coords.tobytes()
        assert before.species == after.species
        assert before.lattice.pbc == after.lattice.pbc
        assert after.frac_coords.flags.writeable
    assert unpack(pack([])) == []
