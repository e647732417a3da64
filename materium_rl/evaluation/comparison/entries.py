"""What is compared: policies, and recipes that were trained with several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path
from typing import Any

from materium_rl.config import CompareConfig, FinetuneConfig, RewardConfig, load_config
from materium_rl.errors import ConfigError
from materium_rl.resources import bundled_policies, policy_path
from materium_rl.runs import CONFIG, RunFolder

REWARD_KEYS = ("expression", "gates", "aggregation", "plugins")
"""What a run says of its reward; the rest of the section is how to compute it."""
SAME = (
    "policy",
    "reward.expression",
    "reward.gates",
    "reward.aggregation",
    "prompts",
    "rl",
    "guards",
    "replay",
)
"""What the runs of one recipe must have in common."""


@dataclass(frozen=True)
class Entry:
    """One policy, or the runs of one recipe.

    Args:
        text: As it was given.
        name: Short, and different from that of the other entries.
        policies: Name or folder of each run.
    """

    text: str
    name: str
    policies: tuple[str, ...]


@dataclass(frozen=True)
class FinetuneRun:
    """The fine-tuning run that a policy comes from.

    Args:
        folder: Run folder.
        config: Its settings.
        step: Of the checkpoint.
    """

    folder: RunFolder
    config: FinetuneConfig
    step: int


def entries(texts: Sequence[str]) -> list[Entry]:
    """Read the entries of a comparison; ``a0,a1,a2`` are three runs of one recipe.

    Raises:
        ConfigError: A policy is not found, or the runs of an entry are not of one recipe.
    """
    split = [_split(text) for text in texts]
    for policies in split:
        for policy in policies:
            policy_path(policy)
        if len(policies) > 1:
            _check_one_recipe(policies)
    names = distinct_names([_name(policies) for policies in split])
    return [Entry(*fields) for fields in zip(texts, names, split, strict=True)]


def distinct_names(wanted: Sequence[str]) -> list[str]:
    """The names in order, with ``-2``, ``-3`` ... added where one is taken."""
    names: list[str] = []
    for name in wanted:
        others = (f"{name}-{k}" for k in count(2))
        names.append(name if name not in names else next(other for other in others if other not in names))
    return names


def with_reward_of_runs(config: CompareConfig) -> tuple[CompareConfig, str]:
    """The settings with the reward that all fine-tuning runs among the policies were trained on.

    What the user has set is kept, and so are the defaults where the runs were trained on different rewards.

    Returns:
        The settings, and what the user should know of it; empty if nothing.
    """
    runs = {
        source: run for text in config.policies for source in _split(text) if (run := finetune_run(source))
    }
    default = RewardConfig()
    if not runs or any(getattr(config.reward, key) != getattr(default, key) for key in REWARD_KEYS):
        return config, ""
    rewards = {source: run.config.reward for source, run in runs.items()}
    (first, reward), *others = rewards.items()
    odd = next((s for s, r in others if any(getattr(r, k) != getattr(reward, k) for k in REWARD_KEYS)), None)
    if odd is not None:
        return config, (
            f"{first} was trained on {reward.expression}, {odd} on {rewards[odd].expression}: all are "
            f"judged by {config.reward.expression}; --reward sets another"
        )
    update = {key: getattr(reward, key) for key in REWARD_KEYS}
    return config.model_copy(update={"reward": config.reward.model_copy(update=update)}), ""


def finetune_run(policy: str) -> FinetuneRun | None:
    """The run that a run folder, checkpoint or policy folder belongs to; None if it is not fine-tuned."""
    if policy in bundled_policies() or not Path(policy).expanduser().is_dir():
        return None
    weights = policy_path(policy).resolve()
    for folder in weights.parents:
        if (folder / CONFIG).is_file() and (folder / "checkpoints").is_dir():
            try:
                config = load_config(FinetuneConfig, [folder / CONFIG])
            except ConfigError:  # a pretraining, or a run of another version
                return None
            run = RunFolder(folder)
            steps = {path.resolve(): step for step, path in run.checkpoint_folders().items()}
            found = [steps[place] for place in (weights, *weights.parents) if place in steps]
            return FinetuneRun(run, config, found[0]) if found else None
    return None


def _split(text: str) -> tuple[str, ...]:
    if Path(text).expanduser().exists():
        return (text,)
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise ConfigError(f"{text!r}: expected policies between the commas, such as runs/a0,runs/a1")
    return parts


def _name(policies: Sequence[str]) -> str:
    """Of a bundled policy its own, of a folder the folder's, of several what they begin with."""
    bundled = bundled_policies()
    names = [p if p in bundled else Path(p).expanduser().resolve().name for p in policies]
    if len(names) == 1:
        return names[0]
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    return "".join(letters[0] for letters in alike).rstrip("-_. ") or "-".join(names)


def _check_one_recipe(policies: Sequence[str]) -> None:
    """Runs of one recipe differ in their training seed, and in nothing else that matters."""
    runs = [finetune_run(policy) for policy in policies]
    known = [(policy, run) for policy, run in zip(policies, runs, strict=True) if run]
    if len(known) < len(runs):
        odd = next(p for p, run in zip(policies, runs, strict=True) if run is None)
        raise ConfigError(
            f"{odd!r} is no fine-tuning run; only runs of one recipe are joined by commas, give it apart"
        )
    (first, reference), *others = known
    seeds = {reference.config.seed: first}
    for policy, run in others:
        for key in SAME:
            if _setting(run.config, key) != _setting(reference.config, key):
                raise ConfigError(
                    f"{first} and {policy} are no runs of one recipe: they differ in {key}; give them apart, "
                    "with a space"
                )
        if run.step != reference.step:
            raise ConfigError(
                f"{first} is at step {reference.step}, {policy} at step {run.step}; compare equal steps"
            )
        if run.config.seed in seeds:
            raise ConfigError(
                f"{seeds[run.config.seed]} and {policy} have the same training seed {run.config.seed}; runs "
                "of one recipe are to differ in it"
            )
        seeds[run.config.seed] = policy


def _setting(config: FinetuneConfig, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
