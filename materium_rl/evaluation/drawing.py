"""What policies write when they are compared: asked alike, and as the run of each says that it is sampled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from materium_rl.errors import ConfigError
from materium_rl.evaluation.comparison.controls import standing
from materium_rl.evaluation.comparison.entries import FinetuneRun, finetune_run
from materium_rl.evaluation.scored import sample_structures
from materium_rl.policies.loading import Policy
from materium_rl.policies.run_sampling import RunSampling
from materium_rl.prompting import prompt_tensors
from materium_rl.prompts import Prompt, PromptsConfig
from materium_rl.resources import policy_path
from materium_rl.rewards.base import Invalid

if TYPE_CHECKING:
    from pymatgen.core import Structure


def draw(
    policy: Policy,
    source: str,
    n: int,
    *,
    seed: int,
    temperature: float,
    batch_size: int,
    prompts: Sequence[Prompt] = (),
) -> list[Structure | Invalid]:
    """Sample n structures of a policy; of a best-of-n run the best n that it recorded.

    Args:
        policy: Policy.
        source: Its name or folder; says how it is sampled.
        n: How many.
        seed: Of the sampling.
        temperature: In units of the one that the run has chosen, if it has.
        batch_size: Sampled together.
        prompts: What samples are asked for, at least n or none.

    Raises:
        ConfigError: The policy cannot be asked for that, or the run recorded fewer than n samples.
    """
    how = RunSampling.read(policy_path(source))
    if how.best_of_samples:
        check_recorded([source], n)
        return best_recorded(policy, _run_of(source), n)
    return sample_structures(
        policy,
        n,
        seed=seed,
        temperature=temperature * how.temperature,
        batch_size=batch_size,
        asked=prompt_tensors(policy.model, prompts[:n]),
    )


def best_recorded(policy: Policy, run: FinetuneRun, n: int) -> list[Structure | Invalid]:
    """The n samples of a run with the highest rewards, in the order in which they were drawn.

    Of a run with prompts the best of each prompt come first, then the second best of each, and so on, so that
    easy prompts do not take the place of the others.
    """
    columns = ["outcome", "reward", "tokens", *(["prompt"] if run.config.prompts.enabled else [])]
    tables = {step: path for step, path in run.folder.sample_tables().items() if step <= run.step}
    frame = pd.concat(
        [pd.read_parquet(path, columns=columns).assign(step=step) for step, path in tables.items()],
        ignore_index=True,
    )
    frame["standing"] = [standing(*row) for row in zip(frame["outcome"], frame["reward"], strict=True)]
    order = frame.sort_values("standing", ascending=False, kind="stable")
    if "prompt" in order:
        order = order.assign(place=order.groupby(["step", "prompt"]).cumcount())
        order = order.sort_values("place", kind="stable")
    kept = np.sort(order.index[:n])
    return [policy.codec.decode(list(tokens)) for tokens in frame["tokens"].iloc[kept]]


def check_recorded(sources: Sequence[str], n: int) -> None:
    """Refuse best-of-n runs of fewer than n samples, before anything is sampled.

    Raises:
        ConfigError: Names the run.
    """
    for source in sources:
        if RunSampling.read(policy_path(source)).best_of_samples:
            run = _run_of(source)
            drawn = run.config.rl.batch_size * run.step
            if drawn < n:
                raise ConfigError(
                    f"{source} is a best-of-n run of {drawn} samples, which cannot give {n}: lower -n, or "
                    "make a run of more steps"
                )


def check_drawn_afresh(sources: Sequence[str]) -> None:
    """Refuse best-of-n runs, whose samples were asked for what was drawn then.

    Raises:
        ConfigError: Names the run.
    """
    for source in sources:
        if RunSampling.read(policy_path(source)).best_of_samples:
            raise ConfigError(
                f"{source} is a best-of-n run: its samples were asked for other things than those of the "
                "comparison; judge all by one target, as in --reward 'novelty+bandgap(target=2)'"
            )


def prompts_of(sources: Sequence[str]) -> PromptsConfig:
    """What the fine-tuning runs among some policies were asked for; nothing where there is no run.

    Raises:
        ConfigError: They were asked for different things.
    """
    runs = {source: run.config.prompts for source in sources if (run := finetune_run(source))}
    (first, found), *others = runs.items() if runs else [("", PromptsConfig())]
    if odd := [source for source, prompts in others if prompts != found]:
        raise ConfigError(
            f"{first} and {odd[0]} were trained with different prompts: say what all are to be asked for, "
            "such as --set prompts.constraints.n_sites=training, or --set prompts={} for nothing"
        )
    return found


def _run_of(source: str) -> FinetuneRun:
    run = finetune_run(source)
    if run is None:
        raise ConfigError(
            f"{source} is of a best-of-n run, whose samples are what counts, but the run is not there: give "
            "the run folder"
        )
    return run
