"""The ``matgl`` reward: any property model of the matgl package."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from materium_rl.errors import RewardError
from materium_rl.rewards.base import Failure, Invalid, Measurement, Result, Reward
from materium_rl.rewards.potentials.base import DISORDERED, Cell, neighbours, unphysical
from materium_rl.rewards.potentials.catalogue import load_matgl
from materium_rl.rewards.shaping import TargetWindow

if TYPE_CHECKING:
    from pymatgen.core import Structure


class MatGLProperty(Reward):
    """What a matgl model predicts: ``matgl("my_model/", target=2.0, width=0.3)``.

    The model is a folder that matgl saved, or a name, which matgl downloads from the Hugging Face Hub at the
    first use. It must give one number for a structure. A model that was trained on several fidelities gets
    ``state``. Unphysical cells are invalid and never reach the model; elements that it does not know and
    sites without a neighbour are a failure. How far to trust the value is for the model's authors to say.
    """

    name: ClassVar[str] = "matgl"
    citation: ClassVar[str] = (
        "MatGL: Ko et al., npj Comput. Mater. 11, 253 (2025), and the paper of the model"
    )

    model: str = Field(min_length=1, description="folder or name of a matgl model; may stand without a name")
    target: float = Field(description="wanted value, in the unit of the model")
    width: float = Field(gt=0, description="distance from the target at which the score is 1/2")
    unit_: str = Field(default="", alias="unit", description="unit of the model, for the record")
    state: int | None = Field(default=None, ge=0, description="state (fidelity) that the model is asked for")

    def load(self) -> None:
        """Load the model.

        Raises:
            RewardError: matgl is not installed, has no such model, or this is a potential.
        """
        _load(self.model)

    def measure(self, structures: Sequence[Structure]) -> list[Result]:
        """Predictions for N structures; oxidation states are ignored."""
        return [self._one(structure) for structure in structures]

    def shaping(self) -> TargetWindow:
        """A window around the target."""
        return TargetWindow(target=self.target, width=self.width)

    def _one(self, structure: Structure) -> Result:
        import torch

        if not structure.is_ordered:
            return Invalid(DISORDERED)
        wrong = unphysical(Cell.of(structure))
        if wrong is not None:
            return wrong
        model = _load(self.model)
        plain = structure.copy()
        plain.remove_oxidation_states()
        unknown = sorted({e.symbol for e in plain.elements} - set(model.element_types))
        if unknown:
            return Failure(f"the matgl model {self.model} knows no {', '.join(unknown)}")
        if len(set(neighbours(Cell.of(plain), model.cutoff)[0].tolist())) < len(plain):
            return Failure(f"a site has no neighbour within the {model.cutoff:g} Å of the matgl model")
        state = None if self.state is None else torch.tensor([self.state])
        try:
            value = model.predict_structure(plain, state_attr=state)
        except (RuntimeError, ValueError, IndexError) as error:
            return Failure(f"the matgl model {self.model} raised {type(error).__name__}: {error}")
        if value.numel() != 1:
            return Failure(f"the matgl model {self.model} gave {value.numel()} numbers; expected one")
        details = {"unit": self.unit_} if self.unit_ else {}
        return Measurement(float(value), details=details)


@lru_cache(maxsize=4)
def _load(name: str) -> Any:
    model = load_matgl(name)
    if not hasattr(model, "predict_structure"):
        raise RewardError(
            f"the matgl model {name!r} is a {type(model).__name__}, no property model; a potential goes into "
            f"stability(calculator='matgl:{name}', scale=...)"
        )
    return model.eval()
