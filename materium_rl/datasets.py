"""Structure files -> tokenized examples, length-bucketed batches, equivalent descriptions."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from materium_rl.errors import TokenizationError
from materium_rl.structure_files import ReadResult, read_structures
from materium_rl.structure_parsers import Dropped, DropKind
from materium_rl.structures import to_primitive_niggli, with_oxidation_states
from materium_rl.tokenizer import CrystalCodec

BUCKET_BATCHES = 40
"""Batches that are sorted by length together: little padding, still shuffled."""


@dataclass
class TokenizedStructures:
    """Token ids of each kept structure and a reason for each dropped one."""

    sequences: list[np.ndarray] = field(default_factory=list)
    formulas: list[str] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sequences)


def read_reduced(path: Path, *, oxidation: bool = False, elements: Collection[str] | None = None) -> ReadResult:
    """Read structures and reduce each to its primitive Niggli cell.

    Args:
        path: File, folder or zip.
        oxidation: Assign oxidation states.
        elements: Elements that a structure may hold; None for all.

    Raises:
        StructureFileError: Nothing usable at ``path``.
    """
    result = read_structures(path, elements=elements).require_any(path)
    rows = []
    for row in result.rows:
        reduced = to_primitive_niggli(row.structure)
        rows.append(replace(row, structure=with_oxidation_states(reduced) if oxidation else reduced))
    return ReadResult(rows, result.dropped)


def tokenize(result: ReadResult, codec: CrystalCodec, *, seed: int = 0) -> TokenizedStructures:
    """Encode reduced structures; those that the tokenizer refuses are reported with the reason."""
    rng = random.Random(seed)
    tokenized = TokenizedStructures(dropped=list(result.dropped))
    for row in result.rows:
        try:
            ids = codec.encode(row.structure, reduce=False, rng=rng)
        except TokenizationError as error:
            kind = DropKind(str(error).split(":")[0].replace(" ", "_"))
            tokenized.dropped.append(Dropped(row.source, kind, str(error)))
            continue
        tokenized.sequences.append(np.array(ids, dtype=np.int32))
        tokenized.formulas.append(row.structure.composition.reduced_formula)
    return tokenized


def equivalent(ids: np.ndarray, codec: CrystalCodec, rng: np.random.Generator) -> np.ndarray:
    """The same crystal, described from another origin (0 or 1/2 on each axis) or inverted.

    Args:
        ids: One sequence (T,) from ``[SOS]`` to ``[EOS]``.
        codec: Codec that wrote it.
        rng: Source of the choice.
    """
    grid, start = codec.layout.grid, codec.layout.coordinate_start
    n_sites = (len(ids) - 10) // 4
    sites = ids[2 : 2 + 4 * n_sites].reshape(n_sites, 4).copy()
    sign = rng.choice([-1, 1])
    shift = rng.integers(0, 2, size=3) * (grid // 2)
    sites[:, 1:] = (sign * (sites[:, 1:] - start) + shift) % grid + start
    rank = codec.species_rank[sites[:, 0] - codec.layout.species_start]
    if codec.settings.site_order == "random":
        order = rng.permutation(n_sites)
    else:
        order = np.lexsort((sites[:, 3], sites[:, 2], sites[:, 1], rank))
    return np.concatenate([ids[:2], sites[order].reshape(-1), ids[2 + 4 * n_sites :]])


def pad(sequences: Sequence[np.ndarray]) -> Tensor:
    """Right-pad sequences with ``[PAD]`` (id 0): (B, T) int64."""
    tensors = [torch.from_numpy(np.asarray(s, dtype=np.int64)) for s in sequences]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def bucketed_batches(lengths: Sequence[int], batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices of one epoch in batches of similar length, in random order.

    Args:
        lengths: Token count of each sequence.
        batch_size: Sequences in a batch.
        rng: Source of the shuffle; the same generator state gives the same epoch.
    """
    order = rng.permutation(len(lengths))
    size = batch_size * BUCKET_BATCHES
    batches = []
    for begin in range(0, len(order), size):
        bucket = order[begin : begin + size]
        bucket = bucket[np.argsort(np.asarray(lengths)[bucket], kind="stable")]
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    for i in rng.permutation(len(batches)):
        yield batches[i]

