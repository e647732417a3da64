"""Structure files -> tokenized examples, length-bucketed batches, equivalent descriptions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from materium_rl.errors import StructureFileError, TokenizationError
from materium_rl.files import atomic_path
from materium_rl.structure_files import ReadResult, read_structures
from materium_rl.structure_parsers import DropKind, Dropped, unreadable
from materium_rl.structures import to_primitive_niggli, with_oxidation_states
from materium_rl.tokenizer import CrystalCodec

HELD_OUT = 0.05
"""Share of the formulas that validates when no validation data are named."""
SHOWN_DROPS = 3
"""Examples in a summary."""
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

    def summary(self) -> str:
        """Counts of what is used and what was dropped, and the first examples."""
        kinds = Counter(str(d.kind) for d in self.dropped).most_common()
        detail = f" ({', '.join(f'{kind} {count}' for kind, count in kinds)})" if kinds else ""
        examples = "".join(f"\n  {d.source}: {d.message}" for d in self.dropped[:SHOWN_DROPS])
        return f"{len(self)} structures, {len(self.dropped)} dropped{detail}{examples}"

    def require_any(self, path: Path) -> Self:
        """Return self.

        Args:
            path: What was read, for the message.

        Raises:
            StructureFileError: No structure is left; names the first reasons.
        """
        if not self.sequences:
            raise StructureFileError(
                f"no structure in {path} fits the tokenizer: {self.summary()}\n"
                "Give other structures, or raise the limit (tokenizer.max_sites, tokenizer.length_range)."
            )
        return self


def read_reduced(
    path: Path, *, oxidation: bool = False, elements: Collection[str] | None = None
) -> ReadResult:
    """Read structures and reduce each to its primitive Niggli cell.

    Args:
        path: File, folder or zip.
        oxidation: Assign oxidation states.
        elements: Elements that a structure may hold; None for all.

    Raises:
        StructureFileError: Nothing usable at ``path``.
    """
    result = read_structures(path, elements=elements).require_any(path)
    rows, dropped = [], list(result.dropped)
    for row in result.rows:
        try:
            reduced = to_primitive_niggli(row.structure)
        except (ValueError, RuntimeError) as error:  # pymatgen's search gives up
            dropped.append(unreadable(row.source, error))
            continue
        rows.append(replace(row, structure=with_oxidation_states(reduced) if oxidation else reduced))
    return ReadResult(rows, dropped).require_any(path)


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


def hold_out(result: ReadResult, path: Path, *, seed: int) -> tuple[ReadResult, ReadResult]:
    """Split off ``HELD_OUT`` of the formulas, at least one: (training, validation).

    Every element that validates stays in at least one formula that trains.

    Raises:
        StructureFileError: No formula can be spared.
    """
    compositions = [row.structure.composition.element_composition for row in result.rows]
    formulas = [composition.reduced_formula for composition in compositions]
    elements = {formula: set(c.elements) for formula, c in zip(formulas, compositions, strict=True)}
    uses = Counter(element for members in elements.values() for element in members)
    names = sorted(elements)
    wanted = max(1, round(HELD_OUT * len(names)))
    held_out: set[str] = set()
    for i in np.random.default_rng(seed).permutation(len(names)):
        members = elements[names[i]]
        if len(held_out) < wanted and all(uses[element] > 1 for element in members):
            held_out.add(names[i])
            uses.subtract(members)
    if not held_out:
        raise StructureFileError(
            f"none of the {len(names)} formulas in {path} can be held out: each has an element that no other "
            "has; give more structures, or name others with --validation"
        )
    rows = list(zip(result.rows, formulas, strict=True))
    training = [row for row, formula in rows if formula not in held_out]
    return ReadResult(training, result.dropped), ReadResult([row for row, f in rows if f in held_out], [])


def write_dropped(path: Path, parts: Mapping[str, TokenizedStructures]) -> None:
    """Write one line per dropped structure: part, source, kind, message, with tabs between."""
    lines = [
        f"{name}\t{d.source}\t{d.kind}\t{d.message}\n" for name, data in parts.items() for d in data.dropped
    ]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def equivalent(ids: np.ndarray, codec: CrystalCodec, rng: np.random.Generator) -> np.ndarray:
    """The same crystal or its mirror image, with the axes in another order and from another origin.

    The origin moves by 0 or 1/2 on each axis.

    Args:
        ids: One sequence (T,) from ``[SOS]`` to ``[EOS]``.
        codec: Codec that wrote it.
        rng: Source of the choice.
    """
    grid, start = codec.layout.grid, codec.layout.coordinate_start
    n_sites = (len(ids) - 10) // 4
    species, triples = ids[2 : 2 + n_sites], ids[-1 - 3 * n_sites : -1].reshape(n_sites, 3)
    sign = rng.choice([-1, 1])
    shift = rng.integers(0, 2, size=3) * (grid // 2)
    axes = rng.permutation(3)
    coords = (sign * (triples[:, axes] - start) + shift) % grid
    if codec.settings.site_order == "random":
        order = rng.permutation(n_sites)
    else:
        rank = codec.species_rank[species - codec.layout.species_start]
        order = np.lexsort((coords[:, 2], coords[:, 1], coords[:, 0], rank))
    lattice, cell = ids[2 + n_sites : 3 + n_sites], ids[3 + n_sites : 9 + n_sites].reshape(2, 3)
    moved = (coords[order] + start).astype(ids.dtype).reshape(-1)
    return np.concatenate([ids[:2], species[order], lattice, cell[:, axes].reshape(-1), moved, ids[-1:]])


def pad(sequences: Sequence[np.ndarray]) -> Tensor:
    """Right-pad sequences with ``[PAD]`` (id 0): (B, T) int64."""
    tensors = [torch.from_numpy(np.asarray(s, dtype=np.int64)) for s in sequences]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)


def bucketed_batches(
    lengths: Sequence[int], batch_size: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
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
