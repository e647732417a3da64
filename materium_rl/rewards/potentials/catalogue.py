"""Potentials by name: ``chgnet``, ``sevenn``, ``mace``, ``matgl:MODEL`` or ``package.module:factory``."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from contextlib import contextmanager, redirect_stdout
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materium_rl.errors import ConfigError, RewardError, did_you_mean
from materium_rl.rewards.potentials.ase_calculator import ASEPotential
from materium_rl.rewards.potentials.base import Potential, Scale
from materium_rl.rewards.potentials.chgnet import CHGNetPotential

if TYPE_CHECKING:
    from collections.abc import Iterator

Made = tuple[Any, str]
"""An ASE calculator and the version to record."""

MATGL = "matgl:"
SCALES: dict[str, Scale] = {"chgnet": "mp2020", "sevenn": "uncorrected", "mace": "uncorrected"}
"""The energies of the calculators that have a name of their own."""


def check_name(name: str, scale: Scale | None) -> None:
    """Refuse a calculator that does not exist, or whose energy scale is not known or given twice.

    Raises:
        ConfigError: Says what was expected.
    """
    if name in SCALES:
        if scale is not None:
            raise ConfigError(f"the energy scale of {name!r} is known ({SCALES[name]}); leave scale out")
        return
    is_matgl = name.startswith(MATGL) and len(name) > len(MATGL)
    module, _, attribute = name.partition(":")
    is_path = all(part.isidentifier() for part in module.split(".")) and attribute.isidentifier()
    if not (is_matgl or is_path):
        raise ConfigError(
            f"unknown calculator {name!r}{did_you_mean(name, SCALES)}; expected one of {', '.join(SCALES)}, "
            "matgl:NAME_OR_FOLDER, or package.module:factory for any ASE calculator"
        )
    if scale is None:
        raise ConfigError(
            f"the calculator {name!r} does not say what its energies are; set scale='uncorrected' for plain "
            "PBE(+U) energies with the settings of the Materials Project, to which the MP2020 corrections "
            "are then added, or scale='mp2020' if they already hold them"
        )


@lru_cache(maxsize=8)
def find_potential(name: str, scale: Scale | None = None) -> Potential:
    """The potential of that name, the same object each time; loads nothing yet.

    Args:
        name: See the head of this file.
        scale: Its energies, where the name does not tell.

    Raises:
        ConfigError: As ``check_name``.
    """
    check_name(name, scale)
    if name == "chgnet":
        return CHGNetPotential()
    if name == "sevenn":
        from materium_rl.rewards.potentials.sevennet import SevenNetPotential

        return SevenNetPotential()
    if name in _MAKERS:
        return ASEPotential(name, _MAKERS[name], SCALES[name])
    assert scale is not None
    if name.startswith(MATGL):
        return ASEPotential(name, partial(_matgl, name.removeprefix(MATGL)), scale)
    return ASEPotential(name, partial(_imported, name), scale)


def require(package: str, extra: str, what: str) -> Any:
    """Import an optional package.

    Raises:
        RewardError: It is not installed; says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise RewardError(
            f'{what} needs the package {package}: pip install "materium-rl[{extra}]" ({error})'
        ) from error


def load_matgl(name: str) -> Any:
    """A matgl model or potential, from a folder or by name from the Hugging Face Hub.

    Raises:
        RewardError: matgl is missing, or it found no such model.
    """
    matgl = require("matgl", "matgl", f"the matgl model {name!r}")
    folder = Path(name).expanduser()
    where = "the Hugging Face Hub, which needs a connection"
    if folder.is_dir():
        where = f"the folder {folder}, where model.json, model.pt and state.pt are expected"
    elif name.startswith((".", "~", "/")) or name.count("/") > 1:
        raise RewardError(f"no folder {name}; expected a matgl model, as its save method writes it")
    try:
        with quiet():
            return matgl.load_model(folder if folder.is_dir() else name)
    except Exception as error:
        cause = error.__cause__ or error
        raise RewardError(
            f"matgl cannot load {name!r} from {where}: {type(cause).__name__}: {cause}"
        ) from error


def _mace() -> Made:
    """MACE-MPA-0, trained on plain Materials Project and Alexandria energies; downloaded at the first use."""
    module = require("mace.calculators", "mace", "the calculator 'mace'")
    with quiet():
        return module.mace_mp(
            "medium-mpa-0", default_dtype="float32"
        ), f"MACE-MPA-0, mace-torch {version('mace-torch')}"


def _matgl(name: str) -> Made:
    potential = load_matgl(name)
    if not hasattr(potential, "calc_forces"):
        raise RewardError(
            f"the matgl model {name!r} is a {type(potential).__name__}, no potential; a property model goes "
            f"into the reward matgl({name!r}, target=..., width=...)"
        )
    module = importlib.import_module("matgl.ext.ase")
    calculator = module.PESCalculator(potential, stress_unit="eV/A3", use_voigt=True)
    return calculator, f"{name}, matgl {version('matgl')}"


def _imported(name: str) -> Made:
    module_name, _, attribute = name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise RewardError(
            f"the calculator {name!r} cannot be imported: {error}; expected an importable "
            "package.module:factory, such as ase.calculators.emt:EMT"
        ) from error
    try:
        known = version(module_name.partition(".")[0])
    except PackageNotFoundError:
        known = "of unknown version"
    return factory(), f"{name}, {known}"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what packages announce while they load out of the terminal."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        yield


_MAKERS: dict[str, Callable[[], Made]] = {"mace": _mace}
