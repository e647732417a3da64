"""Read structure files of any common format, with a report of what was dropped and why."""

from __future__ import annotations

import gzip
import io
import json
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core import Element, Species, Structure

from materium_rl.cif import parse_cif
from materium_rl.errors import StructureFileError

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

# A cell outside these is damage, not a crystal. The smallest real cells are about 2.2 Å and 5 Å³.
MIN_CELL_LENGTH = 0.5  # Å
MAX_CELL_LENGTH = 1000.0  # Å
MIN_VOLUME_PER_SITE = 0.5  # Å³
# A folder with this file was written by `generate`; its other files repeat the same structures.
GENERATED_TABLE = "generated.parquet"

_EXAMPLES_PER_KIND = 3
@dataclass(frozen=True, slots=True)
class ReadResult:
    """What was read and what was dropped, each in file order."""

    rows: list[StructureRow] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)

    def summary(self) -> str:
        """One line of counts, then the first examples of each kind of drop."""
        lines = [f"{len(self.rows)} structures read, {len(self.dropped)} dropped"]
        for kind, count in Counter(drop.kind for drop in self.dropped).most_common():
            lines.append(f"  {kind}: {count}")
            examples = [drop for drop in self.dropped if drop.kind is kind][:_EXAMPLES_PER_KIND]
            lines += [f"    {drop.source}: {drop.message}" for drop in examples]
        return "\n".join(lines)

    def require_any(self, path: str | Path) -> ReadResult:
        """Return self.

        Args:
            path: What was read, for the message.

        Raises:
            StructureFileError: No structure is left; names the first reasons.
        """
        if not self.rows:
            raise StructureFileError(
                f"No usable structure in '{path}': expected at least one ordered crystal. {self.summary()}\n"
                "Mend or remove these entries, or raise the limit that they exceed."
            )
        return self


def read_structures(
    path: str | Path,
    *,
    max_sites: int | None = None,
    elements: Collection[str] | None = None,
    limit: int | None = None,
) -> ReadResult:
    """Read a structure file, table, folder (recursive, sorted) or zip.

    CIF, POSCAR, (ext)xyz, pymatgen JSON, and CSV or parquet in the MP-20 convention (a ``cif`` or
    ``structure`` column, further columns are properties); ``.gz`` of any of them. A bad row or file
    is dropped with a reason and never stops the rest.

    Args:
        path: File or folder.
        max_sites: Most sites in the primitive cell.
        elements: Symbols to accept; every element if None.
        limit: Look at the first so many entries only, kept or dropped.

    Raises:
        StructureFileError: ``path`` is missing, of an unsupported kind, holds no structure file, or
            is a table without a structure column.
    """
    result = ReadResult()
    for item in islice(_read_path(Path(path)), limit):
        checked = _check(item, max_sites, elements) if isinstance(item, StructureRow) else item
        if isinstance(checked, StructureRow):
            result.rows.append(checked)
        else:
            result.dropped.append(checked)
    return result


def _check(row: StructureRow, max_sites: int | None, elements: Collection[str] | None) -> Item:
    """Return the row, or why it is dropped."""
    structure = row.structure
    for index, site in enumerate(structure):
        if not site.is_ordered:
            message = f"site {index} holds {site.species_string}; expected one whole atom on every site"
            return Dropped(row.source, DropKind.DISORDERED, message)
        if not isinstance(site.specie, Element | Species):
            message = f"site {index} holds '{site.specie}', which is no chemical element"
            return Dropped(row.source, DropKind.UNKNOWN_ELEMENT, message)
    symbols = {site.specie.symbol for site in structure}
    if elements is not None and (unknown := symbols - set(elements)):
        message = f"{', '.join(sorted(unknown))} is not among the {len(elements)} accepted elements"
        return Dropped(row.source, DropKind.UNKNOWN_ELEMENT, message)
    if (message := _range_fault(structure)) is not None:
        return Dropped(row.source, DropKind.OUT_OF_RANGE, message)
    if max_sites is not None and len(structure) > max_sites:
        n_primitive = len(structure.get_primitive_structure(tolerance=0.05))
        if n_primitive > max_sites:
            message = f"{n_primitive} sites in the primitive cell, limit {max_sites}"
            return Dropped(row.source, DropKind.TOO_MANY_SITES, message)
    return row


def _range_fault(structure: Structure) -> str | None:
    """Name the value and the limit if the cell cannot be a crystal's."""
    if len(structure) == 0:
        return "0 sites, expected at least 1"
    if not (np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()):
        return "a cell vector or coordinate is not a finite number"
    for length in structure.lattice.abc:
        if not MIN_CELL_LENGTH <= length <= MAX_CELL_LENGTH:
            return f"cell length {length:.3g} Å, expected {MIN_CELL_LENGTH} to {MAX_CELL_LENGTH:.0f} Å"
    volume = structure.volume / len(structure)
    if volume < MIN_VOLUME_PER_SITE:
        return f"{volume:.3g} Å³ per site, expected at least {MIN_VOLUME_PER_SITE} Å³"
    return None


# ---- where the entries are -------------------------------------------------------------------------


def _read_path(path: Path) -> Iterator[Item]:
    if path.is_dir():
        yield from _read_folder(path)
    elif not path.exists():
        raise StructureFileError(f"No such file or folder: '{path}'. Check the path and the working directory.")
    elif path.suffix.lower() == ".zip":
        yield from _read_zip(path)
    elif (parser := parser_of(path.name)) is None:
        raise StructureFileError(
            f"Cannot read '{path}': its name tells no known format. Expected {SUPPORTED}, or a folder "
            "or .zip of them. Convert or rename the file."
        )
    else:
        yield from _parse_file(path.name, path.read_bytes, parser)


def _read_folder(folder: Path) -> Iterator[Item]:
    if (folder / GENERATED_TABLE).is_file():
        yield from _read_path(folder / GENERATED_TABLE)
        return
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    yield from _read_members(str(folder), {name: file.read_bytes for name, file in files.items()})


def _read_zip(path: Path) -> Iterator[Item]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise StructureFileError(f"'{path}' is not a readable zip archive ({error}). Download or pack it again.") from error
    with archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        yield from _read_members(str(path), {name: lambda name=name: archive.read(name) for name in names})


def _read_members(where: str, members: Mapping[str, Callable[[], bytes]]) -> Iterator[Item]:
    """Read every supported member, by sorted name; hidden ones and other formats are passed over."""
    found = False
    for name in sorted(members):
        parser = parser_of(name)
        if parser is None or any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts):
            continue
        found = True
        try:
            yield from _parse_file(name, members[name], parser)
        except StructureFileError as error:
            yield Dropped(name, DropKind.UNREADABLE, str(error))
    if not found:
        raise StructureFileError(
            f"No structure file in '{where}'. Expected at least one of {SUPPORTED}. Check the path."
        )


def _parse_file(name: str, read: Callable[[], bytes], parser: Parser) -> Iterator[Item]:
    """Parse one file; what was read before a fault is kept, the fault ends the file."""
    try:
        content = read()
        yield from parser(name, gzip.decompress(content) if name.lower().endswith(".gz") else content)
    except (*PARSE_ERRORS, zipfile.BadZipFile) as error:
        yield unreadable(name, error)
