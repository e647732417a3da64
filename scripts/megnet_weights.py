"""Read the Keras models in the source distribution of megnet 1.3.2 from PyPI.

megnet itself and TensorFlow are not installed; h5py (``dev`` extra) reads the weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np
from manifest import ASSETS, record
from safetensors.numpy import save_file

PACKAGE = "megnet==1.3.2"
KINDS = ("node", "edge", "state")
NO_STATE = 2
"""Width of the state input of a model without fidelities; all zeros."""

Arrays = dict[str, np.ndarray]


def with_sdist(build: Callable[[Path], None], archive: Path | None) -> None:
    """Unpack the source distribution, downloaded first unless given, and build from its folder."""
    with TemporaryDirectory() as scratch:
        with tarfile.open(archive or _download(Path(scratch))) as tar:
            tar.extractall(scratch, filter="data")
        build(Path(scratch) / "megnet-1.3.2")


def _download(folder: Path) -> Path:
    """Fetch the source distribution with pip.

    pip runs its setup.py for metadata; without build isolation this needs no old numpy.
    """
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, PACKAGE], check=True)
    return next(folder.glob("megnet-*.tar.gz"))


def write(
    name: str,
    sdist: Path,
    files: dict[str, Path],
    *,
    fidelities: Sequence[str],
    trained_elements: Callable[[list[Arrays]], list[str]],
    source: str,
) -> None:
    """Convert the models of one asset folder and record it in the manifest.

    Args:
        name: Folder below the assets.
        sdist: Folder of the unpacked source distribution.
        files: Name of the member -> its hdf5 file; all of one architecture.
        fidelities: Names of the states, one for a model without fidelities.
        trained_elements: From all members to the elements that they were trained on.
        source: Where the models come from.
    """
    target = ASSETS / name
    members = {member: convert(path) for member, path in files.items()}
    first = next(iter(members.values()))
    converter = _converter(next(iter(files.values())))
    steps = {_set2set_steps(path) for path in files.values()}
    if len(steps) != 1 or any(_converter(path) != converter for path in files.values()):
        raise ValueError(
            f"the members of {name} differ in their graphs or readout; expected one architecture"
        )
    target.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{member}.{key}": array for member, arrays in members.items() for key, array in arrays.items()
    }
    save_file(tensors, target / "model.safetensors")
    config = {
        "cutoff": converter["cutoff"],
        **gaussians(converter["bond_converter"]),
        "atomic_numbers": len(first["atom_embedding.weight"]),
        "fidelities": fidelities,
        "trained_elements": trained_elements(list(members.values())),
        "members": list(members),
        "embedding_size": first["atom_embedding.weight"].shape[1],
        "hidden_size": first["node_encoder.0.weight"].shape[0],
        "feature_size": first["node_encoder.2.weight"].shape[0],
        "readout_size": first["node_readout.project.weight"].shape[0],
        "blocks": 3,
        "readout_steps": steps.pop(),
    }
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (target / "LICENSE.md").write_bytes((sdist / "LICENSE.md").read_bytes())
    for file in ("model.safetensors", "config.json", "LICENSE.md"):
        (target / file).chmod(0o644)  # safetensors writes files that only their owner can read
        command = f"python scripts/build_{name}.py"
        record(f"{name}/{file}", source=source, licence="BSD-3-Clause", command=command)


def _converter(path: Path) -> dict[str, Any]:
    """How the model's authors made graphs of crystals; refuses a scaled target."""
    described = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
    scaler = described.get("target_scaler", {}).get("@class", "DummyScaler")
    if scaler != "DummyScaler":
        raise ValueError(f"{path.name}: the target is scaled by {scaler}; expected no scaling")
    converter: dict[str, Any] = described["graph_converter"]
    return {key: converter[key] for key in ("cutoff", "bond_converter")}


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


def convert(path: Path) -> Arrays:
    """Rename and transpose the weights of one Keras model.

    A model without fidelities has two zeros as its state. It becomes one with a single fidelity whose
    embedding is zero: the same numbers from the same network.
    """
    weights = read_layers(path)
    arrays: Arrays = {"atom_embedding.weight": weights["Embedding"][0]["embeddings"]}
    if len(weights["Embedding"]) == 2:
        fidelity, atom = sorted((layer["embeddings"] for layer in weights["Embedding"]), key=len)
        arrays = {"atom_embedding.weight": atom, "fidelity_embedding.weight": fidelity}
    else:
        width = arrays["atom_embedding.weight"].shape[1]
        arrays["fidelity_embedding.weight"] = np.zeros((1, width), dtype=np.float32)
    stages = ("{}_encoder", "blocks.1.{}_dense", "blocks.2.{}_dense")
    names = [f"{stage.format(kind)}.{i}" for stage in stages for kind in KINDS for i in (0, 2)]
    names += [f"output.{i}" for i in (0, 2, 4)]
    for name, layer in zip(names, weights["Dense"], strict=True):
        arrays |= linear(name, layer["kernel"], layer["bias"])
    inputs = arrays["state_encoder.0.weight"]
    if inputs.shape[1] == NO_STATE:
        missing = arrays["fidelity_embedding.weight"].shape[1] - NO_STATE
        arrays["state_encoder.0.weight"] = np.pad(inputs, ((0, 0), (0, missing)))
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
        layers = [layer for layer in _layers(file) if len(file["model_weights"][layer["name"]])]
        weights: dict[str, list[Arrays]] = {}
        for layer in sorted(layers, key=lambda layer: int(layer["name"].rpartition("_")[2])):
            check(layer)
            weights.setdefault(layer["class_name"], []).append(read(file["model_weights"][layer["name"]]))
    return weights


def _layers(file: h5py.File) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = json.loads(file.attrs["model_config"])["config"]["layers"]
    return layers


def _set2set_steps(path: Path) -> int:
    with h5py.File(path) as file:
        (steps,) = {layer["config"]["T"] for layer in _layers(file) if layer["class_name"] == "Set2Set"}
    return int(steps)


def check(layer: dict[str, Any]) -> None:
    """Refuse a layer whose mathematics the torch module does not have."""
    expected = {
        "MEGNetLayer": {"activation": "softplus2", "pool_method": "mean"},
        "Set2Set": {"activation_lstm": "tanh", "recurrent_activation": "hard_sigmoid"},
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
