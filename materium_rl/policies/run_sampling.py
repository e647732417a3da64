"""How what a run ends with is sampled, where that is not by its weights alone: ``sampling.json``."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from materium_rl.errors import PolicyError

FILE = "sampling.json"


class RunSampling(BaseModel):
    """What stands beside the weights of a policy that was not changed but chosen from.

    Args:
        temperature: In units of the temperature that is asked for.
        best_of_samples: Whether not new samples count, but the best that the run has recorded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(1.0, gt=0)
    best_of_samples: bool = False

    def write(self, folder: Path) -> None:
        """Write it into a policy folder."""
        (folder / FILE).write_text(self.model_dump_json() + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> RunSampling:
        """That of a policy folder.

        Raises:
            PolicyError: The file is none of ours.
        """
        path = folder / FILE
        if not path.is_file():
            return cls()
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise PolicyError(
                f"{path}: {error.errors()[0]['msg']}; remove it, or make the run again"
            ) from None
