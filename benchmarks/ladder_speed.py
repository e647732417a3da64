"""How long the novelty ladder takes: samples of a policy against the training structures, and a large file.

    python benchmarks/ladder_speed.py

Judges 1,024 samples against the bundled training structures; then against these, the formulas of the
Materials Project and the archive of 1,024 other samples; then against an index of about 100,000 structures,
copies of the training structures that are strained by some percent each. Times are processor time of one
process on one thread, so a busy machine does not count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from ladder_agreement import sampled
from novelty_speed import peak_memory
from pymatgen.core import Structure

from materium_rl.evaluation.novelty.ladder import Ladder, Reference
from materium_rl.resources import asset_path
from materium_rl.rewards.references import ASSET


def timed(references: list[Reference], structures: list[Structure]) -> float:
    start = time.process_time()
    Ladder(references).climb(structures)
    return time.process_time() - start


def copies(times: int, seed: int) -> dict[str, np.ndarray]:
    """Arrays of an index that holds each training structure so many times, each copy strained in its way."""
    with np.load(asset_path(ASSET)) as archive:
        base = {name: archive[name] for name in archive.files}
    n = len(base["n_sites"])
    rng = np.random.default_rng(seed)
    several = {
        name: np.concatenate([array] * times)
        for name, array in base.items()
        if len(array) == n or name in ("coords", "numbers")
    }
    texts = ("material_id", "formula", "family_formula")
    several |= {name: np.frombuffer(b"\n".join([base[name].tobytes()] * times), np.uint8) for name in texts}
    prints = several["fingerprints"].astype(np.float32)
    tilt = np.linspace(-1, 1, prints.shape[1])
    several["fingerprints"] = (prints * (1 + 0.02 * rng.normal(size=(n * times, 1)) * tilt)).astype(
        np.float16
    )
    several["lattices"] = several["lattices"] * rng.uniform(0.95, 1.05, (n * times, 1, 1)).astype(np.float32)
    return base | several


def against_large(structures: list[Structure], times: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.npz"
        np.savez_compressed(path, **copies(times, seed))
        before, start = peak_memory(), time.process_time()
        reference = Reference.from_file("large", path)
    loaded = time.process_time() - start
    seconds = timed([reference], structures)
    print(
        f"| {len(reference):,} structures of an index (loaded in {loaded:.1f} s; peak memory {before:.2f} GB "
        f"before, {peak_memory():.2f} GB after) | {seconds:.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="nano")
    parser.add_argument("-n", type=int, default=1024, help="samples")
    parser.add_argument("--copies", type=int, default=6, help="of each training structure in the large index")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    both = sampled(arguments.policy, 2 * arguments.n, arguments.seed)
    samples, earlier = both[: arguments.n], both[arguments.n :]
    print(f"| {arguments.n:,} samples of {arguments.policy} against | seconds |\n|---|--:|")
    training, formulas = Reference.training(), Reference.materials_project()
    print(f"| {len(training):,} training structures | {timed([training], samples):.1f} |")
    start = time.process_time()
    archive = Reference.from_structures("archive", earlier)
    print(f"| (indexing an archive of {len(archive):,}) | {time.process_time() - start:.1f} |")
    seconds = timed([training, archive, formulas], samples)
    print(f"| the training structures again, the archive, and formulas | {seconds:.1f} |")
    against_large(samples, arguments.copies, arguments.seed)


if __name__ == "__main__":
    main()
