"""Build ``materium_rl/assets/bandgap``: the multi-fidelity MEGNet band-gap ensemble as safetensors.

The Keras weights come from the source distribution of megnet 1.3.2 on PyPI, folder
``mvl_models/mf_2020/pbe_gllb_hse_exp``. From the repository root (needs the ``dev`` extra, for h5py):

    python scripts/build_bandgap.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from megnet_weights import Arrays, with_sdist, write
from pymatgen.core import Element

FOLDER = "mvl_models/mf_2020/pbe_gllb_hse_exp"
MEMBERS = 6
FIDELITIES = ("pbe", "gllb-sc", "hse", "experiment")
SOURCE = (
    f"megnet 1.3.2 (PyPI sdist), {FOLDER}/{{0..5}}; trained on Materials Project, Castelli et al., "
    "MaterialGo and Zhuo et al. band gaps; Chen, Zuo, Ye, Li and Ong, Nat. Comput. Sci. 1, 46 (2021)"
)


def main() -> None:
    """Download, convert, write and record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sdist", type=Path, help="megnet-1.3.2.tar.gz, if already downloaded")
    with_sdist(build, parser.parse_args().sdist)


def build(sdist: Path) -> None:
    """Write the asset from the unpacked source distribution."""
    files = {str(i): sdist / FOLDER / str(i) / "best_model.hdf5" for i in range(MEMBERS)}
    write("bandgap", sdist, files, fidelities=FIDELITIES, trained_elements=trained_elements, source=SOURCE)


def trained_elements(members: list[Arrays]) -> list[str]:
    """Elements that the training data held.

    All members start from the same embedding and are trained on different splits: a row that is the
    same in all of them was never updated (Ne, Ar, Po, At, Rn, Fr, Ra).
    """
    rows = np.stack([member["atom_embedding.weight"] for member in members])
    moved = np.ptp(rows, axis=0).max(axis=1) > 0
    return [Element.from_Z(z).symbol for z in range(1, rows.shape[1]) if moved[z]]


if __name__ == "__main__":
    main()
