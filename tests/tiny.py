"""Small real data and small policies, for tests that run whole commands."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from pymatgen.core import Structure
from real_structures import aflow_structures

from materium_rl import cli
from materium_rl.config import ModelConfig
from materium_rl.policies.loading import build_model, save_policy
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.structure_files import write_structures
from materium_rl.structures import minimum_distance_ratio
from materium_rl.tokenizer import CrystalCodec, TokenizerSettings, species_of

MAX_SITES = 4
SHAPE = ModelConfig(hidden_size=32, layers=2, heads=4, intermediate_size=64, dropout=0.1)
OPTIONS = (
    *(f"model.{key}={value}" for key, value in SHAPE.model_dump(exclude={"attention"}).items()),
    f"tokenizer.max_sites={MAX_SITES}",
    "training.batch_size=8",
    "training.warmup_steps=2",
)
"""``--set`` values of a pretraining that takes seconds."""


@cache
def small_structures() -> tuple[Structure, ...]:
    """Real crystals of at most ``MAX_SITES`` sites, none of them compressed."""
    chosen = [s for s in aflow_structures(MAX_SITES) if minimum_distance_ratio(s) > 0.66]
    return tuple(chosen[:40])


def write_data(path: Path, n: int = 40) -> Path:
    """Write the first n small structures."""
    write_structures(small_structures()[:n], path)
    return path


def write_policy(folder: Path) -> Path:
    """Write a policy folder with random weights."""
    settings = TokenizerSettings(species=species_of(small_structures()), max_sites=MAX_SITES)
    torch.manual_seed(0)
    save_policy(build_model(settings, SHAPE), settings, folder)
    return folder


def random_model(codec: CrystalCodec) -> CrystalForCausalLM:
    """A policy with random weights far from uniform, so that mistakes in its probabilities show."""
    torch.manual_seed(0)
    model = build_model(codec.settings, SHAPE)
    for parameter in model.parameters():
        parameter.data.mul_(3.0)
    return model.eval()


def tiny_codec() -> CrystalCodec:
    """Codec of the small structures."""
    return CrystalCodec(TokenizerSettings(species=species_of(small_structures()), max_sites=MAX_SITES))


Command = Callable[..., tuple[int, str, str]]


def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *first: str) -> Command:
    """A function that runs ``materium-rl`` in this process: (exit code, stdout, stderr).

    Args:
        monkeypatch: Sets the arguments.
        capsys: Takes the output.
        *first: Arguments that every command starts with.
    """

    def command(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["materium-rl", *first, *args])
        try:
            cli.main()
        except SystemExit as error:
            out, err = capsys.readouterr()
            return int(error.code or 0), out, err
        raise AssertionError("main() returned without an exit code")

    return command


def start(*args: str, cwd: Path) -> subprocess.Popen[str]:
    """Start ``materium-rl`` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "materium_rl.cli", *args],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 240.0) -> None:
    """Wait until a file is there; fail if the process ends before."""
    end = time.monotonic() + seconds
    while not path.is_file():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, f"no {path} after {seconds} s"
        time.sleep(0.05)
