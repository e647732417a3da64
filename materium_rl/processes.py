"""The processes of one data-parallel training, as ``accelerate launch`` or ``torchrun`` starts them.

Each takes its share of every batch; their gradients are summed before each step, so that all hold the same
weights. What the main process alone does or decides is told to the others, so that none waits for another
that has stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributed import all_reduce, broadcast_object_list

from materium_rl.errors import MateriumError

PATIENCE = timedelta(days=2)
"""How long a process waits for another, which may compute labels; a launcher ends all when one dies."""

CPU = torch.device("cpu")

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together.

    Args:
        index: 0 is the main process, which alone writes, validates, samples and prints.
        count: How many there are.
        device: Where this one computes.
    """

    index: int = 0
    count: int = 1
    device: torch.device = CPU

    def share(self, rows: np.ndarray) -> np.ndarray:
        """The rows of a batch that are this process's; none where there are fewer rows than processes."""
        return rows[self.index :: self.count]

    def sum(self, *values: float) -> list[float]:
        """Each value, added up over all processes."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        all_reduce(total)
        return total.tolist()

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Add up the gradients of all processes in place; one without a gradient adds zero."""
        if self.count == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in trained if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        all_reduce(flat)
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def from_main(self, make: Callable[[], T]) -> T:
        """What the main process makes, or the error that it meets, in all processes; the others wait."""
        if self.count == 1:
            return make()
        made: list[T | MateriumError | OSError | None] = [None]
        if self.index == 0:
            try:
                made[0] = make()
            except (MateriumError, OSError) as error:
                made[0] = error
        broadcast_object_list(made, src=0, device=self.device)
        if isinstance(made[0], MateriumError | OSError):
            raise made[0]
        return made[0]  # type: ignore[return-value]

    def say(self, text: str) -> None:
        """Print from the main process."""
        if self.index == 0:
            print(text, flush=True)


def launched() -> int:
    """Number of processes that a launcher has started together with this one, itself included."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> Processes:
    """Meet the other processes: NCCL with one GPU for each, gloo where there is no GPU."""
    if launched() == 1:
        return Processes(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    state.wait_for_everyone()
    return Processes(state.process_index, state.num_processes, state.device)
