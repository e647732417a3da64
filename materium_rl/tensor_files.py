"""Crystals out of the tensors that CDVAE, DiffCSP and FlowMM save."""

from __future__ import annotations

import io
import pickle
from argparse import Namespace
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core import Element, Lattice, Structure

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEYS = ("frac_coords", "atom_types", "lengths", "angles", "num_atoms")
# What Structure, Lattice and Element raise on values that are no crystal.
CRYSTAL_ERRORS = (ValueError, LookupError, TypeError, ArithmeticError)

Crystal = tuple[str, Structure | Exception]
"""Place in the file, such as ``[0][3]``, and the structure there or why there is none."""


def read_crystals(content: bytes) -> Iterator[Crystal]:
    """Read every crystal of an ``eval_gen.pt`` or a like file.

    Of C crystals with N sites in all it holds ``frac_coords`` (N, 3), ``atom_types`` (N,) as atomic numbers,
    or (N, Z) as weights of the elements from hydrogen on, ``lengths`` (C, 3) in Å, ``angles`` (C, 3) in
    degrees and ``num_atoms`` (C,). Each may have a further first dimension, or be a list, of repeated
    samplings. Other keys are passed over.

    Only tensors and plain values are loaded, and the ``argparse.Namespace`` of settings that these programs
    store: no code in the file is run.

    Yields:
        The crystals in the order of the file, of one sampling after the other.

    Raises:
        ValueError: It is no such file.
        RuntimeError: It is damaged.

    Source: CDVAE at commit 2c130d1 (``scripts/evaluate.py``, first dimension: samplings), DiffCSP at 044458e
    (``scripts/generation.py``) and 308770f (``scripts/compute_metrics.py``, element weights), FlowMM at
    3abc580 (``scripts_model/evaluate.py``, ``consolidate``).
    """
    data = _load(content)
    samplings = list(_samplings(data))
    for number, sampling in enumerate(samplings):
        prefix = f"[{number}]" if len(samplings) > 1 else ""
        for index, crystal in enumerate(_crystals(sampling)):
            yield f"{prefix}[{index}]", crystal


def _load(content: bytes) -> Mapping[str, Any]:
    import torch

    try:
        with torch.serialization.safe_globals([Namespace]):
            data = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next((line for line in str(error).splitlines() if "GLOBAL" in line), str(error))
        raise ValueError(
            f"is damaged, or holds more than tensors and plain values, which is not loaded since it can run "
            f"code ({reason.strip()[:120]}): save only {', '.join(KEYS)}"
        ) from error
    missing = [key for key in KEYS if not isinstance(data, dict) or key not in data]
    if missing:
        raise ValueError(f"has no {', '.join(missing)}; expected the tensors {', '.join(KEYS)}")
    return {key: data[key] for key in KEYS}


def _samplings(data: Mapping[str, Any]) -> Iterator[dict[str, NDArray[Any]]]:
    """Each sampling by itself: every key loses its first dimension if ``num_atoms`` has two."""
    counts = data["num_atoms"]
    columns = [data[key] for key in KEYS]
    repeated = isinstance(counts, list | tuple) or counts.ndim == 2
    for part in zip(*columns, strict=True) if repeated else [columns]:
        yield {key: tensor.detach().numpy() for key, tensor in zip(KEYS, part, strict=True)}


def _crystals(sampling: Mapping[str, NDArray[Any]]) -> Iterator[Structure | Exception]:
    counts = sampling["num_atoms"].astype(int)
    types, frac_coords = sampling["atom_types"], sampling["frac_coords"]
    if types.ndim == 2:
        types = types.argmax(axis=1) + 1
    shapes = {key: array.shape for key, array in sampling.items()}
    if not (
        counts.ndim == 1
        and frac_coords.shape == (counts.sum(), 3)
        and types.shape == (counts.sum(),)
        and sampling["lengths"].shape == sampling["angles"].shape == (len(counts), 3)
    ):
        raise ValueError(f"num_atoms adds up to {counts.sum()} sites, which the shapes do not fit: {shapes}")
    ends = counts.cumsum()
    cells = np.concatenate([sampling["lengths"], sampling["angles"]], axis=1)
    for start, end, cell in zip(ends - counts, ends, cells.tolist(), strict=True):
        try:
            yield _crystal(cell, types[start:end].tolist(), frac_coords[start:end])
        except CRYSTAL_ERRORS as error:
            yield error


def _crystal(cell: list[float], types: list[float], frac_coords: NDArray[Any]) -> Structure:
    if not types:
        raise ValueError("has 0 sites")
    if not np.isfinite(cell).all() or min(cell) <= 0:
        raise ValueError(f"cell {[round(value, 3) for value in cell]}; expected six positive numbers")
    species = [Element.from_Z(int(number)) for number in types]
    return Structure(Lattice.from_parameters(*cell), species, frac_coords.astype(np.float64))
