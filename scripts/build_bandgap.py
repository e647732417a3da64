"""Build ``materium_rl/assets/bandgap``: the multi-fidelity MEGNet band-gap ensemble as safetensors.

The Keras weights come from the source distribution of megnet 1.3.2 on PyPI, folder
``mvl_models/mf_2020/pbe_gllb_hse_exp``; megnet itself and TensorFlow are not installed. From the
repository root (needs the ``dev`` extra, for h5py):

    python scripts/build_bandgap.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from manifest import ASSETS, record
from pymatgen.core import Element
from safetensors.numpy import save_file

PACKAGE = "megnet==1.3.2"
FOLDER = "mvl_models/mf_2020/pbe_gllb_hse_exp"
MEMBERS = 6
KINDS = ("node", "edge", "state")
FIDELITIES = ("pbe", "gllb-sc", "hse", "experiment")
SOURCE = (
    f"megnet 1.3.2 (PyPI sdist), {FOLDER}/{{0..5}}; trained on Materials Project, Castelli et al., "
    "MaterialGo and Zhuo et al. band gaps; Chen, Zuo, Ye, Li and Ong, Nat. Comput. Sci. 1, 46 (2021)"
)
COMMAND = "python scripts/build_bandgap.py"

Arrays = dict[str, np.ndarray]


def main() -> None:
    """Download, convert, write and record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sdist", type=Path, help="megnet-1.3.2.tar.gz, if already downloaded")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        archive = arguments.sdist or download(Path(scratch))
        with tarfile.open(archive) as tar:
            tar.extractall(scratch, filter="data")
        build(Path(scratch) / "megnet-1.3.2", ASSETS / "bandgap")


def download(folder: Path) -> Path:
    """Fetch the source distribution with pip.

    pip runs its setup.py for metadata; without build isolation this needs no old numpy.
    """
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, PACKAGE], check=True)
    return next(folder.glob("megnet-*.tar.gz"))


def build(sdist: Path, target: Path) -> None:
    """Write model.safetensors, config.json and the licence text, and record them."""
    members = [convert(sdist / FOLDER / str(i) / "best_model.hdf5") for i in range(MEMBERS)]
    converter = json.loads((sdist / FOLDER / "0" / "best_model.hdf5.json").read_text())["graph_converter"]
    target.mkdir(parents=True, exist_ok=True)
    tensors = {f"{i}.{name}": array for i, member in enumerate(members) for name, array in member.items()}
    save_file(tensors, target / "model.safetensors")
    config = {
        "cutoff": converter["cutoff"],
        **gaussians(converter["bond_converter"]),
        "atomic_numbers": len(members[0]["atom_embedding.weight"]),
        "fidelities": FIDELITIES,
        "trained_elements": trained_elements(members),
        "members": MEMBERS,
        "embedding_size": members[0]["atom_embedding.weight"].shape[1],
        "hidden_size": members[0]["node_encoder.0.weight"].shape[0],
        "feature_size": members[0]["node_encoder.2.weight"].shape[0],
        "readout_size": members[0]["node_readout.project.weight"].shape[0],
        "blocks": 3,
        "readout_steps": 2,
    }
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (target / "LICENSE.md").write_bytes((sdist / "LICENSE.md").read_bytes())
    for file in ("model.safetensors", "config.json", "LICENSE.md"):
        (target / file).chmod(0o644)  # safetensors writes files that only their owner can read
        record(f"bandgap/{file}", source=SOURCE, licence="BSD-3-Clause", command=COMMAND)


def gaussians(converter: dict[str, Any]) -> dict[str, float | int]:
    """The evenly spaced Gaussian basis of the distances."""
    centers = np.array(converter["centers"]["data"])
    if not np.allclose(centers, np.linspace(centers[0], centers[-1], len(centers))):
        raise ValueError("the Gaussian centres are not evenly spaced; expected an even grid")
    return {
        "gaussian_start": float(centers[0]),
        "gaussian_stop": float(centers[-1]),
        "gaussian_count": len(centers),
        "gaussian_width": converter["width"],
    }


def trained_elements(members: list[Arrays]) -> list[str]:
    """Elements that the training data held.

    All members start from the same embedding and are trained on different splits: a row that is the
    same in all of them was never updated (Ne, Ar, Po, At, Rn, Fr, Ra).
    """
    rows = np.stack([member["atom_embedding.weight"] for member in members])
    moved = np.ptp(rows, axis=0).max(axis=1) > 0
    return [Element.from_Z(z).symbol for z in range(1, rows.shape[1]) if moved[z]]


def convert(path: Path) -> Arrays:
    """Rename and transpose the weights of one Keras model."""
    weights = read_layers(path)
    arrays: Arrays = {}
    for layer in weights["Embedding"]:
        kind = "fidelity" if len(layer["embeddings"]) == len(FIDELITIES) else "atom"
        arrays[f"{kind}_embedding.weight"] = layer["embeddings"]
    stages = ("{}_encoder", "blocks.1.{}_dense", "blocks.2.{}_dense")
    names = [f"{stage.format(kind)}.{i}" for stage in stages for kind in KINDS for i in (0, 2)]
    names += [f"output.{i}" for i in (0, 2, 4)]
    for name, layer in zip(names, weights["Dense"], strict=True):
        arrays |= linear(name, layer["kernel"], layer["bias"])
    for i, layer in enumerate(weights["MEGNetLayer"]):
        for kind, letter in zip(KINDS, "veu", strict=True):
            for j, part in enumerate(("first", "rest.1", "rest.3")):
                name = f"blocks.{i}.{kind}_update.{part}"
                arrays |= linear(name, layer[f"weight_{letter}_{j}"], layer[f"bias_{letter}_{j}"])
    for kind, layer in zip(("node", "edge"), weights["Set2Set"], strict=True):
        arrays |= linear(f"{kind}_readout.project", layer["x_to_m_weight"], layer["x_to_m_bias"])
        kernel, bias = without_forget_gate(layer["recurrent_kernel"]), layer["recurrent_bias"]
        arrays |= linear(f"{kind}_readout.gates", kernel, without_forget_gate(bias))
    return arrays


def read_layers(path: Path) -> dict[str, list[Arrays]]:
    """Weights of every layer by class, in the order in which the layers were created.

    The file lists them by depth; their names end in the number of creation: node, edge, then state.
    """
    with h5py.File(path) as file:
        layers = json.loads(file.attrs["model_config"])["config"]["layers"]
        layers = [layer for layer in layers if len(file["model_weights"][layer["name"]])]
        weights: dict[str, list[Arrays]] = {}
        for layer in sorted(layers, key=lambda layer: int(layer["name"].rpartition("_")[2])):
            check(layer)
            weights.setdefault(layer["class_name"], []).append(read(file["model_weights"][layer["name"]]))
    return weights


def check(layer: dict[str, Any]) -> None:
    """Refuse a layer whose mathematics the torch module does not have."""
    expected = {
        "MEGNetLayer": {"activation": "softplus2", "pool_method": "mean"},
        "Set2Set": {"T": 2, "activation_lstm": "tanh", "recurrent_activation": "hard_sigmoid"},
    }
    for key, value in expected.get(layer["class_name"], {}).items():
        if layer["config"][key] != value:
            raise ValueError(f"{layer['name']}: {key} is {layer['config'][key]!r}, expected {value!r}")


def read(group: h5py.Group) -> Arrays:
    """Collect the arrays below one layer, by their short names."""
    arrays: Arrays = {}

    def visit(name: str, node: h5py.Group | h5py.Dataset) -> None:
        if isinstance(node, h5py.Dataset):
            arrays[name.rpartition("/")[2].removesuffix(":0")] = np.asarray(node, dtype=np.float32)

    group.visititems(visit)
    return arrays


def linear(name: str, kernel: np.ndarray, bias: np.ndarray) -> Arrays:
    """Keras (in, out) kernel -> torch (out, in) weight."""
    return {f"{name}.weight": np.ascontiguousarray(kernel.T), f"{name}.bias": bias}


def without_forget_gate(array: np.ndarray) -> np.ndarray:
    """Keep the input, candidate and output gates: the cell state is always zero, nothing is forgotten."""
    enter, _, candidate, leave = np.split(array, 4, axis=-1)
    return np.concatenate([enter, candidate, leave], axis=-1)


if __name__ == "__main__":
    main()
