"""What ``materium-rl evaluate`` is given: structures of any origin, or a policy to sample."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from materium_rl.config import EvaluateConfig, RewardConfig, read_yaml
from materium_rl.errors import ConfigError, did_you_mean
from materium_rl.evaluation.comparison.entries import REWARD_KEYS
from materium_rl.evaluation.drawing import draw, prompts_of
from materium_rl.evaluation.evaluate.judges import choose
from materium_rl.evaluation.evaluate.properties import Target
from materium_rl.hub import is_hub_id
from materium_rl.policies.loading import load_policy
from materium_rl.prompting import PromptSource
from materium_rl.resources import POLICY_FILES, bundled_policies, file_sha256, is_policy, policy_path
from materium_rl.rewards.base import Invalid
from materium_rl.rewards.expression import parse
from materium_rl.runs import COMPARISON, EVALUATED, EVALUATION
from materium_rl.structure_files import read_structures
from materium_rl.structure_parsers import parser_of

if TYPE_CHECKING:
    from pymatgen.core import Structure

SAMPLED = 1024
"""Structures sampled from a policy unless told."""

Kind = Literal["policy", "files"]


@dataclass(frozen=True)
class Source:
    """Structures to evaluate.

    Args:
        name: Short, for titles.
        kind: Whether they were sampled or read.
        structures: As many as were there; ``Invalid`` for what could not be decoded or read.
        places: Where each comes from, such as a file name.
        properties: What the source says of each.
        requested: The denominator.
        origin: What holds for all of them.
        seconds: Time for sampling or reading.
    """

    name: str
    kind: Kind
    structures: Sequence[Structure | Invalid]
    places: Sequence[str]
    properties: Sequence[Mapping[str, Any]]
    requested: int
    origin: Mapping[str, Any]
    seconds: float


def kind_of(source: str) -> Kind:
    """Whether a source is a policy, to be sampled, or holds structures; reads nothing.

    A run is the policy that it ended with: its samples were drawn from a policy that changed.

    Raises:
        ConfigError: There is nothing of that name, or it is a comparison of several policies.
    """
    path = Path(source).expanduser()
    if source in bundled_policies():
        return "policy"
    if not path.exists():
        if is_hub_id(source) and parser_of(source) is None:
            return "policy"
        near = did_you_mean(source, [*bundled_policies(), *_siblings(path)])
        raise ConfigError(
            f"nothing at {source!r}{near}; expected a structure file, a folder or archive of them, a policy "
            f"or a run; bundled policies: {', '.join(bundled_policies())}"
        )
    if (path / COMPARISON).is_file():
        tables = sorted(table.name for table in path.glob("samples_*.parquet"))
        raise ConfigError(
            f"{source} is a comparison of several policies; evaluate one of its tables: {', '.join(tables)}"
        )
    is_run = (path / "config.yaml").is_file() and (path / "checkpoints").is_dir()
    if path.is_dir() and (is_run or is_policy(path)):
        policy_path(source)
        return "policy"
    return "files"


def check_options(config: EvaluateConfig, *, temperature: float | None = None) -> EvaluateConfig:
    """Refuse what cannot be evaluated, or not with these options; reads no structure and loads no model.

    Args:
        config: As given.
        temperature: That of the command line, if any.

    Returns:
        The config with the reward of the run that is evaluated.

    Raises:
        ConfigError: Says what was expected.
    """
    kind = kind_of(config.source)
    if kind == "policy" and config.requested is not None:
        raise ConfigError("--requested is for structure files; -n says how many to sample from a policy")
    if kind == "files" and temperature is not None:
        raise ConfigError(f"--temperature is for a policy, {config.source} holds structures")
    if config.requested is not None and config.n is not None:
        raise ConfigError("--requested counts what is missing from all of the files; leave -n out")
    config = config.model_copy(update={"reward": reward_of(config)})
    if prompted := [term.name for term in parse(config.reward.expression) if term.prompted]:
        raise ConfigError(
            f"{prompted[0]}(target=prompt): all samples are judged by one target here; give a number, as in "
            f"--reward 'novelty+{prompted[0]}(target=2)', or compare policies, each sample by its prompt: "
            "materium-rl compare"
        )
    choose(config.evaluator, config.reward)
    for text in config.targets:
        Target.parse(text)
    return config


def reward_of(config: EvaluateConfig) -> RewardConfig:
    """The reward of the run that is evaluated; what the user has set is kept.

    A source that is no fine-tuning run has none of its own.
    """
    file = Path(config.source).expanduser() / "config.yaml"
    if not file.is_file() or config.source in bundled_policies():
        return config.reward
    recorded = read_yaml(file).get("reward")
    if not isinstance(recorded, dict):
        return config.reward
    default = RewardConfig()
    known = {
        key: recorded[key]
        for key in REWARD_KEYS
        if key in recorded and getattr(config.reward, key) == getattr(default, key)
    }
    return RewardConfig.model_validate(config.reward.model_dump() | known)


def read_source(config: EvaluateConfig) -> Source:
    """Sample a policy, or read structures.

    Raises:
        ConfigError: Fewer structures than ``n``, or more than ``requested``.
        StructureFileError: There is nothing to read.
    """
    start = time.monotonic()
    if kind_of(config.source) == "policy":
        return _sampled(config, start)
    return _read(config, start)


def _sampled(config: EvaluateConfig, start: float) -> Source:
    n = config.n or SAMPLED
    policy = load_policy(config.source, device="cuda" if torch.cuda.is_available() else "cpu")
    structures = draw(
        policy,
        config.source,
        n,
        seed=config.seed,
        temperature=config.temperature,
        batch_size=config.batch_size,
        prompts=PromptSource(prompts_of([config.source]), policy, config.source).draw_repeated(
            n, seed=config.seed, stream=0, repeats=1
        ),
    )
    folder = policy_path(config.source)
    name = config.source if config.source in bundled_policies() else Path(config.source).resolve().name
    return Source(
        name=name,
        kind="policy",
        structures=structures,
        places=[f"sample {i}" for i in range(n)],
        properties=[{} for _ in range(n)],
        requested=n,
        origin={
            "policy": config.source,
            "policy_sha256": file_sha256(folder / POLICY_FILES[1]),
            "seed": config.seed,
            "temperature": config.temperature,
        },
        seconds=time.monotonic() - start,
    )


def _read(config: EvaluateConfig, start: float) -> Source:
    path = Path(config.source).expanduser()
    if (path / EVALUATION).is_file():
        path /= EVALUATED
    read = read_structures(path, limit=config.n).require_any(path)
    available = len(read.rows) + len(read.dropped)
    if config.n is not None and available < config.n:
        raise ConfigError(
            f"-n {config.n}: {config.source} holds {available} structures; leave -n out to take all of them, "
            f"or count the missing ones as requested with --requested {config.n}"
        )
    if config.requested is not None and available > config.requested:
        raise ConfigError(
            f"--requested {config.requested}: {config.source} holds {available} structures, more than were "
            "requested; -n takes the first so many"
        )
    unread = [Invalid(f"{drop.kind}: {drop.message}") for drop in read.dropped]
    return Source(
        name=path.resolve().name,
        kind="files",
        structures=[*(row.structure for row in read.rows), *unread],
        places=[*(row.source for row in read.rows), *(drop.source for drop in read.dropped)],
        properties=[*(row.properties for row in read.rows), *({} for _ in read.dropped)],
        requested=config.requested or available,
        origin={"source": str(path)},
        seconds=time.monotonic() - start,
    )


def _siblings(path: Path) -> list[str]:
    """What could have been meant by a path that does not exist, written like it."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return []
    return [str(path.parent / name) for name in names]
