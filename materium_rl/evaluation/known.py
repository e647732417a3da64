"""What novelty is judged against: a named set of known structures, from whatever source."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from materium_rl.rewards.references import ReferenceIndex

if TYPE_CHECKING:
    from pymatgen.core import Structure


class Reference:
    """A named set of R known structures; or of formulas alone, where no more is at hand.

    Args:
        name: Short name, used in columns: letters, digits and underscores.
        title: As it reads in a sentence, such as ``the training data``.
        index: The structures; None for an empty set, or for formulas alone.
        formulas: Reduced formulas, where there are no structures to judge by.
        left_out: What could not be indexed, one text each, with the reason.
    """

    def __init__(
        self,
        name: str,
        title: str,
        index: ReferenceIndex | None,
        *,
        formulas_only: bool = False,
        left_out: Iterable[str] = (),
    ) -> None:
        raise NotImplementedError

    def __len__(self) -> int:
        """Number of structures R; 0 for formulas alone."""
        raise NotImplementedError

    @classmethod
    def training(cls, policy: str | None = None) -> Reference:
        """``training``: the training structures of a policy, those of the bundled policy if None.

        Raises:
            ConfigError: The policy has no index of its training structures.
        """
        raise NotImplementedError

    @classmethod
    def materials_project(cls) -> Reference:
        """``materials_project``: formulas alone, those of the Materials Project that are bundled."""
        raise NotImplementedError

    @classmethod
    def from_file(cls, name: str, path: str | Path, title: str | None = None) -> Reference:
        """Any structure file, folder or archive, or an ``.npz`` index (much faster to load).

        About 3 ms a structure. What cannot be indexed is left out and told in ``left_out``.

        Raises:
            StructureFileError: The file is missing, unreadable, or holds no usable structure.
            AssetError: The ``.npz`` is no index of this version.
        """
        raise NotImplementedError

    @classmethod
    def from_structures(
        cls,
        name: str,
        structures: Sequence[Structure | None],
        ids: Sequence[str] | None = None,
        title: str | None = None,
    ) -> Reference:
        """Structures at hand; an empty set is one that everything is new to.

        Args:
            name: As in ``Reference``.
            structures: R structures; None and what cannot be indexed is left out and told.
            ids: One each; their places (``0``, ``1``, ...) if None.
            title: As in ``Reference``.
        """
        raise NotImplementedError

    @classmethod
    def of_run(cls, run: Path, *, before: int | None = None) -> Reference:
        """``archive``: the structures that a run has written, those of the steps below ``before``.

        Equal ones are kept once. The id is ``step 12, sample 3``.

        Raises:
            StructureFileError: The run has no samples; none below ``before`` is an empty set, no error.
        """
        raise NotImplementedError
