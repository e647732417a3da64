"""How long the novelty ladder takes: samples of a policy against the training structures, and a large file.

    python benchmarks/ladder_speed.py
    python benchmarks/ladder_speed.py --large 100000 --data mp_train.csv.gz

Judges 1,024 samples against the bundled training structures; then against these, the formulas of the
Materials Project and the archive of 1,024 other samples. With --large also against so many structures made
from those of --data as in novelty_speed.py, in an index that a new process loads. Times are processor time of
one process on one thread, so a busy machine does not count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ladder_agreement import read, sampled
from novelty_speed import peak_memory, synthetic_arrays
from pymatgen.core import Structure

from materium_rl.evaluation.ladder import Ladder, Reference


def timed(references: list[Reference], structures: list[Structure]) -> float:
    start = time.process_time()
    Ladder(references).climb(structures)
    return time.process_time() - start


def measure_large(path: Path, structures: list[Structure], connection: Any) -> None:
    """In a process of its own: load, judge, tell memory."""
    start = time.process_time()
    reference = Reference.from_file("large", path)
    loaded = time.process_time() - start
    connection.send((loaded, timed([reference], structures), len(reference), peak_memory()))


def against_large(data: Path, structures: list[Structure], n: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.npz"
        np.savez_compressed(path, **synthetic_arrays(read(data), n, seed))
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=measure_large, args=(path, structures, theirs)
        )
        process.start()
        loaded, seconds, size, peak = ours.recv()
        process.join()
    loading = f"loaded in {loaded:.1f} s, peak memory {peak:.2f} GB"
    print(f"| {size:,} structures in an index, {loading} | {seconds:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="nano")
    parser.add_argument("-n", type=int, default=1024, help="samples")
    parser.add_argument("--large", type=int, default=0, help="structures of the large index; 0 for none")
    parser.add_argument("--data", type=Path, help="structures to make the large index from")
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
    if arguments.large:
        against_large(arguments.data, samples, arguments.large, arguments.seed)


if __name__ == "__main__":
    main()
