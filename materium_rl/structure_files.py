"""Read and write structure files; reading reports what was dropped and why."""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pymatgen.core import Element, Species, Structure

from materium_rl.errors import StructureFileError
from materium_rl.files import atomic_path
from materium_rl.structure_parsers import (
    PARSE_ERRORS,
    SUPPORTED,
    DropKind,
    Dropped,
    Item,
    Parser,
    StructureRow,
    clean_properties,
    parser_of,
    unreadable,
)

__all__ = ["DropKind", "Dropped", "ReadResult", "StructureRow", "read_structures", "write_structures"]

# A cell outside these is damage, not a crystal. The smallest real cells are about 2.2 Å and 5 Å³.
MIN_CELL_LENGTH = 0.5  # Å
MAX_CELL_LENGTH = 1000.0  # Å
MIN_VOLUME_PER_SITE = 0.5  # Å³
# A folder with this file was written by `generate`; its other files repeat the same structures.
GENERATED_TABLE = "generated.parquet"

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

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
    """Read a structure file, table, folder (recursive, sorted), zip or tar.

    CIF, POSCAR, (ext)xyz, pymatgen JSON, CSV or parquet in the MP-20 convention (a ``cif`` or ``structure``
    column, further columns are properties), and the tensors of CDVAE, DiffCSP and FlowMM (``.pt``); ``.gz``
    of any of them. A bad row or file is dropped with a reason and never stops the rest.

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
    if (fault := _range_fault(structure)) is not None:
        return Dropped(row.source, DropKind.OUT_OF_RANGE, fault)
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


def _read_path(path: Path) -> Iterator[Item]:
    if path.is_dir():
        yield from _read_folder(path)
    elif not path.exists():
        raise StructureFileError(
            f"No such file or folder: '{path}'. Expected a structure file or a folder of them; "
            "check the path."
        )
    elif path.suffix.lower() == ".zip":
        yield from _read_zip(path)
    elif path.name.lower().endswith(TAR_ENDINGS):
        yield from _read_tar(path)
    elif (parser := parser_of(path.name)) is None:
        raise StructureFileError(
            f"Cannot read '{path}': its name tells no known format. Expected {SUPPORTED}, or a folder, "
            ".zip or .tar of them. Convert or rename the file."
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
        raise StructureFileError(
            f"'{path}' is not a readable zip archive ({error}). Expected a .zip of structure files; "
            "download or pack it again."
        ) from error
    with archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        yield from _read_members(str(path), {name: partial(archive.read, name) for name in names})


def _read_tar(path: Path) -> Iterator[Item]:
    """Read an archive from front to end, since a compressed one cannot be read out of order."""
    contents: dict[str, bytes] = {}
    fault: Exception | None = None
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if parser_of(member.name) and (stream := archive.extractfile(member)):
                    contents[member.name] = stream.read()
    except (tarfile.TarError, *PARSE_ERRORS) as error:
        fault = error
    if fault is not None and not contents:
        raise StructureFileError(
            f"'{path}' is not a readable tar archive ({fault}). Expected a .tar of structure files; "
            "download or pack it again."
        ) from fault
    yield from _read_members(str(path), {name: partial(bytes, text) for name, text in contents.items()})
    if fault is not None:
        yield unreadable(f"{path.name} after {len(contents)} files", fault)


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


def write_structures(
    structures: Sequence[Structure],
    path: str | Path,
    *,
    properties: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Write N structures; the format follows from the name, and an older file is replaced whole.

    ``.extxyz`` (properties as info), ``.json`` (list of pymatgen dicts), ``.parquet`` or ``.csv``
    (columns cif, formula, n_sites, then properties), ``.cif`` (one structure); a name without an
    extension becomes a folder of ``000000.cif``, ``000001.cif``, ... Missing properties are left out.

    Args:
        structures: N ordered structures.
        path: Target file or folder.
        properties: N mappings of plain values; CIF holds none.

    Raises:
        StructureFileError: The extension is unknown, or the format cannot hold what is given.
        ValueError: ``properties`` has another length than ``structures``.
    """
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise StructureFileError(
            f"Cannot write '{path}': unknown extension '{path.suffix}'. "
            f"Expected {', '.join(filter(None, _WRITERS))}, or a name without extension (a folder of CIF)."
        )
    if writer in (_write_cif, _write_cif_folder) and properties is not None:
        raise StructureFileError(
            f"Cannot write properties to '{path}': CIF holds none. Use .extxyz or .parquet."
        )
    if path.suffix and path.is_dir():
        raise StructureFileError(f"Cannot write '{path}': a folder of that name exists. Choose another name.")
    if not path.suffix and path.is_file():
        raise StructureFileError(
            f"Cannot write folder '{path}': a file of that name exists. Choose another name."
        )
    cleaned = [clean_properties(p) for p in properties] if properties is not None else [{}] * len(structures)
    if len(cleaned) != len(structures):
        raise ValueError(f"{len(structures)} structures but {len(cleaned)} property mappings")
    with atomic_path(path) as temporary:
        writer(structures, cleaned, temporary)


_Properties = Sequence[Mapping[str, Any]]


def _cif_text(structure: Structure) -> str:
    return str(structure.to(fmt="cif"))


def _write_cif(structures: Sequence[Structure], _properties: _Properties, path: Path) -> None:
    if len(structures) != 1:
        raise StructureFileError(
            f"A .cif file takes one structure, not {len(structures)}; use .extxyz, .parquet or a folder name."
        )
    path.write_text(_cif_text(structures[0]), encoding="utf-8")


def _write_cif_folder(structures: Sequence[Structure], _properties: _Properties, path: Path) -> None:
    path.mkdir()
    for index, structure in enumerate(structures):
        (path / f"{index:06d}.cif").write_text(_cif_text(structure), encoding="utf-8")


def _write_extxyz(structures: Sequence[Structure], properties: _Properties, path: Path) -> None:
    import ase.io
    from ase import Atoms

    frames = [
        Atoms(
            symbols=[site.specie.symbol for site in structure],
            scaled_positions=structure.frac_coords,
            cell=structure.lattice.matrix,
            pbc=True,
            info=dict(info),
        )
        for structure, info in zip(structures, properties, strict=True)
    ]
    ase.io.write(path, frames, format="extxyz")


def _write_json(structures: Sequence[Structure], properties: _Properties, path: Path) -> None:
    entries = [{**s.as_dict(), "properties": dict(p)} for s, p in zip(structures, properties, strict=True)]
    path.write_text(json.dumps(entries), encoding="utf-8")


def _write_table(structures: Sequence[Structure], properties: _Properties, path: Path) -> None:
    import pandas as pd

    records = [
        {
            "cif": _cif_text(s),
            "formula": s.composition.element_composition.reduced_formula,
            "n_sites": len(s),
            **p,
        }
        for s, p in zip(structures, properties, strict=True)
    ]
    frame = pd.DataFrame(records, columns=None if records else ["cif", "formula", "n_sites"])
    if path.suffix.lower() == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)


_WRITERS: dict[str, Callable[[Sequence[Structure], _Properties, Path], None]] = {
    ".extxyz": _write_extxyz,
    ".json": _write_json,
    ".parquet": _write_table,
    ".csv": _write_table,
    ".cif": _write_cif,
    "": _write_cif_folder,
}
