"""The index of a policy's own training structures: ``novelty(reference=...)`` measures against it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from materium_rl.datasets import TokenizedStructures, read_reduced, tokenize
from materium_rl.errors import ConfigError, StructureFileError
from materium_rl.files import atomic_path
from materium_rl.resources import TRAINING_INDEX, bundled_policies, policy_path
from materium_rl.rewards.base import Invalid
from materium_rl.rewards.fingerprint import fingerprints
from materium_rl.rewards.prototypes import prototypes
from materium_rl.rewards.reference_arrays import build_arrays
from materium_rl.rewards.shared import sharing
from materium_rl.structure_files import ReadResult, StructureRow
from materium_rl.tokenizer import CrystalCodec, load_tokenizer


def kept_rows(result: ReadResult, tokenized: TokenizedStructures) -> list[StructureRow]:
    """Those of the reduced structures that ``tokenize`` kept."""
    dropped = {drop.source for drop in tokenized.dropped}
    return [row for row in result.rows if row.source not in dropped]


def write_training_index(rows: Sequence[StructureRow], folder: Path) -> str:
    """Write ``training.npz`` into a policy folder: formulas, prototypes, fingerprints and cells.

    About 3 ms a structure. The id of a structure is its ``material_id``, else its place in the file.

    Args:
        rows: The reduced structures that the policy was trained on.
        folder: Policy folder.

    Returns:
        One line on how many structures it holds, and which could not be indexed.

    Raises:
        StructureFileError: No structure can be indexed; nothing has been written then.
    """
    structures = [row.structure for row in rows]
    with sharing():  # what is computed here is not computed again below
        pairs = zip(prototypes(structures), fingerprints(structures), strict=True)
        usable = [not isinstance(prototype, Invalid) and print_ is not None for prototype, print_ in pairs]
        kept = [row for row, good in zip(rows, usable, strict=True) if good]
        if not kept:
            raise StructureFileError(f"none of the {len(rows)} structures can be indexed: all are unphysical")
        ids = [str(row.properties.get("material_id", row.source)).replace("\n", " ") for row in kept]
        arrays = build_arrays([row.structure for row in kept], ids, ())
    with atomic_path(folder / TRAINING_INDEX) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
    left_out = [row.source for row, good in zip(rows, usable, strict=True) if not good]
    detail = f"; {len(left_out)} unphysical ones left out, first {left_out[0]}" if left_out else ""
    return f"{len(kept):,} training structures indexed in {TRAINING_INDEX}{detail}"


def index_policy(name: str, data: Path, *, overwrite: bool = False) -> str:
    """Give a policy folder the index of the structures that it was trained on.

    Args:
        name: Policy folder or run folder.
        data: The training structures; those that the policy's tokenizer refuses are left out.
        overwrite: Replace an index that is there.

    Returns:
        As ``write_training_index``.

    Raises:
        ConfigError: The policy is bundled, or has an index already.
        PolicyError: It is of another tokenizer version.
        StructureFileError: Nothing usable in the data.
    """
    if name in bundled_policies():
        raise ConfigError(
            f"{name} is bundled, and its files are checked against their checksums: copy its folder first "
            f"(materium-rl policies show {name} says where it is)"
        )
    folder = policy_path(name)
    if (folder / TRAINING_INDEX).is_file() and not overwrite:
        raise ConfigError(f"{folder / TRAINING_INDEX} exists already; add --overwrite to replace it")
    settings = load_tokenizer(folder).token_settings
    oxidation = any("|" in token for token in settings.species)
    result = read_reduced(data, oxidation=oxidation)
    tokenized = tokenize(result, CrystalCodec(settings)).require_any(data)
    print(tokenized.summary(), flush=True)
    return write_training_index(kept_rows(result, tokenized), folder)
