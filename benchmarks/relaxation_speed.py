"""How fast samples of a policy are relaxed: all together against one by one with ASE.

    python benchmarks/relaxation_speed.py

Samples structures (not timed) and relaxes positions and cell with CHGNet, once with
``materium_rl.rewards.relaxation`` and once with ASE: FIRE and FrechetCellFilter over chgnet's own calculator,
one structure after the other. Both have the same steps, force limit and threads. Samples that this program
refuses before the first step (atoms too close, a gap in space) are left out of both. Seconds are of the wall
clock and, for a machine that is not quiet, of the processor. Prints a Markdown table, and how the final
energies compare.

With ``--ase M`` the ASE side relaxes the first M of the structures only, and the ratio is that of these.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure

from materium_rl.policies.loading import load_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.rewards.base import Failure
from materium_rl.rewards.potentials.base import Prediction
from materium_rl.rewards.potentials.catalogue import find_potential
from materium_rl.rewards.potentials.chgnet import load_chgnet
from materium_rl.rewards.relaxation import MAX_FORCE, Relaxed, relax


@dataclass(frozen=True)
class Timing:
    """Seconds and results of one side."""

    wall: float
    processor: float
    ends: list[Any]


def sampled(policy_name: str, n: int, seed: int) -> list[Structure]:
    policy = load_policy(policy_name)
    return [policy.codec.decode(row.tolist()) for row in sample_many(policy.model, n, seed=seed).ids]


def timed(work: Callable[[], list[Any]]) -> Timing:
    wall, processor = time.perf_counter(), time.process_time()
    ends = work()
    return Timing(time.perf_counter() - wall, time.process_time() - processor, ends)


def relax_with_ase(structures: Sequence[Structure], steps: int) -> list[Any]:
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE
    from chgnet.model.dynamics import CHGNetCalculator
    from pymatgen.io.ase import AseAtomsAdaptor

    with redirect_stdout(StringIO()):
        calculator = CHGNetCalculator(load_chgnet(), on_isolated_atoms="error")
    ends: list[Any] = []
    for structure in structures:
        atoms = AseAtomsAdaptor.get_atoms(structure)
        atoms.calc = calculator
        optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
        try:
            converged = bool(optimizer.run(fmax=MAX_FORCE, steps=steps))
            energy = atoms.get_potential_energy() / len(atoms)
        except (ValueError, RuntimeError) as error:
            ends.append(Failure(str(error)))
            continue
        largest = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        relaxed = AseAtomsAdaptor.get_structure(atoms)
        ends.append(Relaxed(relaxed, float(energy), largest, optimizer.nsteps, converged))
    return ends


def row(name: str, timing: Timing, n: int) -> str:
    done = [end for end in timing.ends if isinstance(end, Relaxed)]
    steps = sum(end.steps for end in done)
    return (
        f"| {name} | {n} | {timing.wall:.1f} | {timing.processor:.1f} | {steps:,} | "
        f"{1000 * timing.processor / steps:.1f} | {sum(end.converged for end in done)} | {n - len(done)} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="nano")
    parser.add_argument("-n", type=int, default=256, help="samples")
    parser.add_argument("--ase", type=int, help="relax only so many with ASE (all)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    potential = find_potential("chgnet")
    samples = sampled(arguments.policy, arguments.n, arguments.seed)
    predictions = potential.predict(samples)  # also warms up
    structures = [
        s for s, prediction in zip(samples, predictions, strict=True) if isinstance(prediction, Prediction)
    ]
    some = structures[: arguments.ase]
    together = timed(lambda: relax(structures, potential, steps=arguments.steps))
    same = (
        together
        if len(some) == len(structures)
        else timed(lambda: relax(some, potential, steps=arguments.steps))
    )
    alone = timed(lambda: relax_with_ase(some, arguments.steps))

    print(
        f"{len(structures)} of {len(samples)} samples of {arguments.policy} (seed {arguments.seed}, "
        f"{np.mean([len(s) for s in structures]):.1f} sites in the mean), at most {arguments.steps} steps, "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}.\n"
    )
    print("| | structures | s | processor s | steps | ms a step | converged | broke off |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    print(row("together", together, len(structures)))
    if same is not together:
        print(row("together, the same as ASE", same, len(some)))
    print(row("ASE, one by one", alone, len(some)))
    pairs = [
        (a, b)
        for a, b in zip(same.ends, alone.ends, strict=True)
        if isinstance(a, Relaxed) and isinstance(b, Relaxed)
    ]
    differences = 1000 * np.abs([a.energy_per_atom - b.energy_per_atom for a, b in pairs])
    print(
        f"\n{alone.wall / same.wall:.1f} times faster ({alone.processor / same.processor:.1f} times by the "
        f"processor). Final energies of {len(pairs)}: mean difference {differences.mean():.3f}, largest "
        f"{differences.max():.2f} meV/atom, {np.mean(differences <= 5):.1%} within 5; "
        f"{sum(a.steps == b.steps for a, b in pairs)} took the same number of steps."
    )


if __name__ == "__main__":
    main()
