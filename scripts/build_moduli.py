"""Build ``materium_rl/assets/moduli``: MEGNet models of the bulk and shear modulus as safetensors.

The Keras weights come from the source distribution of megnet 1.3.2 on PyPI, folder
``mvl_models/mp-2019.4.1``. From the repository root (needs the ``dev`` extra, for h5py):

    python scripts/build_moduli.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from megnet_weights import Arrays, with_sdist, write
from pymatgen.core import Element

FOLDER = "mvl_models/mp-2019.4.1"
FILES = {"bulk_modulus": "log10K.hdf5", "shear_modulus": "log10G.hdf5"}
SOURCE = (
    f"megnet 1.3.2 (PyPI sdist), {FOLDER}/log10K and log10G; trained on 12,179 Voigt-Reuss-Hill moduli of "
    "the Materials Project of April 2019; Chen, Ye, Zuo, Zheng and Ong, Chem. Mater. 31, 3564 (2019)"
)
LARGEST_START = 0.05
"""Keras starts embeddings uniformly in ±0.05."""


def main() -> None:
    """Download, convert, write and record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sdist", type=Path, help="megnet-1.3.2.tar.gz, if already downloaded")
    with_sdist(build, parser.parse_args().sdist)


def build(sdist: Path) -> None:
    """Write the asset from the unpacked source distribution."""
    files = {name: sdist / FOLDER / file for name, file in FILES.items()}
    write("moduli", sdist, files, fidelities=("pbe",), trained_elements=trained_elements, source=SOURCE)


def trained_elements(members: list[Arrays]) -> list[str]:
    """Elements that the training data of every member held: rows that left their random start.

    The model of the shear modulus started from the embedding of another model, so only that of the
    bulk modulus tells; both were trained on the same crystals.
    """
    rows = np.stack([member["atom_embedding.weight"] for member in members])
    moved = (np.abs(rows).max(axis=2) > LARGEST_START).all(axis=0)
    return [Element.from_Z(z).symbol for z in range(1, rows.shape[1]) if moved[z]]


if __name__ == "__main__":
    main()
