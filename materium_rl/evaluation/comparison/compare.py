"""``materium-rl compare``: sample several policies alike and say what changed, and at what cost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich.console import Console

from materium_rl.config import CompareConfig
from materium_rl.errors import ConfigError
from materium_rl.evaluation.comparison.controls import best_of
from materium_rl.evaluation.comparison.costs import Cost, mean_cost, run_cost
from materium_rl.evaluation.comparison.entries import (
    Entry,
    distinct_names,
    entries,
    finetune_run,
    with_reward_of_runs,
)
from materium_rl.evaluation.comparison.files import print_comparison, write_comparison
from materium_rl.evaluation.comparison.found import found_by, mean_found
from materium_rl.evaluation.comparison.results import Compared, Comparison, Control, Judged, Point, Trajectory
from materium_rl.evaluation.comparison.second_judge import judge_again
from materium_rl.evaluation.definitions import N_BOOT
from materium_rl.evaluation.drawing import check_drawn_afresh, check_recorded, draw, prompts_of
from materium_rl.evaluation.evaluate.judges import Panel, choose, load
from materium_rl.evaluation.metrics import Figure, figures, statistics
from materium_rl.evaluation.scored import (
    bundled_training_elements,
    evaluate_structures,
    make_scorer,
)
from materium_rl.evaluation.statistics import Bootstrap
from materium_rl.evaluation.table import make_console
from materium_rl.policies.loading import Policy, load_policy
from materium_rl.prompting import PromptSource
from materium_rl.prompts import Prompt, PromptsConfig
from materium_rl.rewards.base import Invalid
from materium_rl.rewards.catalogue.bandgap import BandGap
from materium_rl.rewards.execution.progress import scoring_bar
from materium_rl.rewards.scoring import Scorer

if TYPE_CHECKING:
    from pymatgen.core import Structure

TRAJECTORY_SHARE = 4
"""One n-th of the samples is drawn from each checkpoint."""


def compare(config: CompareConfig) -> Path:
    """Sample each policy with the same settings and seeds, score all alike, write and print a report.

    Writes ``report.html``, ``report.md``, ``comparison.json``, pictures and one table of samples per
    policy. The folder takes its name only when it is complete.

    Returns:
        The output folder.

    Raises:
        ConfigError: A wrong policy, prompt, reward or option; nothing has been written then.
        RewardError: More structures failed to be measured than ``reward.max_failed`` allows.
    """
    console = make_console()
    config, note = with_reward_of_runs(config)
    if note:
        console.print(note, markup=False)
    panel = choose(config.evaluator, config.reward)
    load(panel)
    wanted = entries(config.policies)
    scorer, gap = make_scorer(config.reward)
    _check_runs(wanted, config)
    sources = [source for entry in wanted for source in entry.policies]
    check_recorded(sources, config.n)
    prompts = prompts_of(sources) if config.prompts is None else config.prompts
    config = config.model_copy(update={"prompts": prompts})
    scorer.check_prompts(prompts.targets)
    if scorer.prompted:
        check_drawn_afresh(sources)
    with scorer:
        judge = _Judge(config, scorer, gap, panel, console)
        judge.load_all(sources)
        judge.ask(sources[0], prompts)
        policies = [judge.entry(entry) for entry in wanted]
        controls = _controls(judge, policies) if config.controls.enabled else []
        trajectories = _trajectories(judge, policies) if config.trajectory else []
    comparison = Comparison(
        config,
        scorer,
        gap,
        policies,
        controls,
        trajectories,
        panel,
        Bootstrap(config.n, n_boot=N_BOOT, seed=config.seed),
    )
    write_comparison(comparison)
    print_comparison(comparison, console)
    return config.out


class _Judge:
    """Samples and scores policies, all alike."""

    def __init__(
        self, config: CompareConfig, scorer: Scorer, gap: BandGap, panel: Panel, console: Console
    ) -> None:
        self.config, self.scorer, self.gap, self.panel, self.console = config, scorer, gap, panel, console
        self._loaded: dict[str, Policy] = {}

    def load_all(self, policies: Iterable[str]) -> None:
        """Load policies ahead, so that a wrong one is found before hours are spent on the others."""
        self._loaded = {policy: self.load(policy) for policy in policies}

    def load(self, policy: str) -> Policy:
        """A policy, where it was not loaded ahead from its folder."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return self._loaded.get(policy) or load_policy(policy, device=device)

    def ask(self, baseline: str, prompts: PromptsConfig) -> None:
        """Ask every policy for the same, as it is drawn for the baseline."""
        self._prompts = PromptSource(prompts, self.load(baseline), baseline)

    def prompts(self, n: int) -> list[Prompt]:
        """What n samples are asked for; empty for nothing."""
        return self._prompts.draw_repeated(n, seed=self.config.seed, stream=0, repeats=1)

    def entry(self, entry: Entry) -> Compared:
        """Every run of an entry."""
        judged, costs, found = [], [], []
        for i, source in enumerate(entry.policies):
            name = entry.name if len(entry.policies) == 1 else f"{entry.name}, run {i + 1}"
            judged.append(self.again(self.policy(source, name)))
            run = finetune_run(source)
            if run is not None:
                costs.append(run_cost(run))
                found.append(found_by(run))
        return Compared(
            entry.name,
            entry.text,
            tuple(judged),
            mean_cost(costs) if costs else None,
            len(costs),
            mean_found(found),
        )

    def again(self, judged: Judged) -> Judged:
        """What the second judge says, where there is one or something is to be relaxed."""
        if not self.panel.is_second and not self.config.evaluator.relax:
            return judged
        return judge_again(judged, self.config, self.panel, self.gap, self.console)

    def policy(
        self, source: str, name: str, *, n: int | None = None, temperature: float | None = None
    ) -> Judged:
        """Sample a policy and evaluate what it wrote."""
        n, start, policy = n or self.config.n, time.monotonic(), self.load(source)
        prompts = self.prompts(n)
        structures = draw(
            policy,
            source,
            n,
            seed=self.config.seed,
            temperature=temperature or self.config.temperature,
            batch_size=self.config.batch_size,
            prompts=prompts,
        )
        seconds = time.monotonic() - start
        self.console.print(f"{name}: sampled {n} structures in {seconds:.0f} s, scoring them ...")
        return self.structures(structures, source, name, seconds, prompts)

    def structures(
        self,
        structures: Sequence[Structure | Invalid],
        source: str,
        name: str,
        sampling_seconds: float,
        prompts: Sequence[Prompt],
    ) -> Judged:
        """Evaluate what a policy wrote, each for what it was asked."""
        with scoring_bar(self.console, name) as progress:
            evaluation = evaluate_structures(
                structures,
                len(structures),
                self.scorer,
                gap=self.gap,
                seed=self.config.seed,
                asked=[prompt.targets() for prompt in prompts],
                progress=progress,
            )
        self.console.print(f"{name}: scored in {evaluation.seconds:.0f} s")
        found = statistics(evaluation.frame, bundled_training_elements())
        return Judged(source, evaluation, found, sampling_seconds)


def _check_runs(wanted: Sequence[Entry], config: CompareConfig) -> None:
    """Controls at equal cost and trajectories are of runs."""
    if not (config.controls.enabled or config.trajectory):
        return
    if not any(finetune_run(policy) for entry in wanted[1:] for policy in entry.policies):
        option = "--trajectory" if config.trajectory else "--controls"
        raise ConfigError(
            f"{option} needs a fine-tuning run, but none of {', '.join(config.policies[1:])} is one: name a "
            "run folder made by materium-rl finetune"
        )


def _controls(judge: _Judge, policies: Sequence[Compared]) -> list[Control]:
    """The hotter baseline, and for every recipe the best of what the baseline writes at equal cost."""
    config, base = judge.config, policies[0]
    source = base.runs[0].source
    temperature = config.temperature * config.controls.temperature
    hot = judge.again(
        judge.policy(source, f"{base.name}, temperature {temperature:g}", temperature=temperature)
    )
    hotter = Compared(f"{base.name}-hotter", source, (hot,))
    found = [Control("hotter", hotter, temperature, of=None, equal_calls=0)]
    for policy in policies[1:]:
        run = finetune_run(policy.runs[0].source)
        if run is None or policy.cost is None:
            continue
        equal = config.n + round(policy.cost.reward_calls)
        calls = max(config.n, min(equal, config.controls.max_calls or equal))
        name = f"{base.name}-best-for-{policy.name}"
        judge.console.print(f"{name}: drawing {calls} structures of {base.name}, rewarding them ...")
        with scoring_bar(judge.console, name) as progress:
            chosen = best_of(judge.load(source), run, config, calls, progress, judge.prompts(calls))
        judged = judge.again(
            judge.structures(chosen.structures, source, name, chosen.seconds, chosen.prompts)
        )
        cost = Cost(calls, chosen.seconds / 3600, policy.cost.processors)
        found.append(
            Control(
                "best-of-n",
                Compared(name, source, (judged,), cost, found=chosen.found),
                config.temperature,
                of=policy.name,
                equal_calls=equal,
            )
        )
    names = distinct_names([p.name for p in policies] + [c.compared.name for c in found])[len(policies) :]
    return [control.renamed(name) for control, name in zip(found, names, strict=True)]


def _trajectories(judge: _Judge, policies: Sequence[Compared]) -> list[Trajectory]:
    """Fewer samples of every checkpoint of every run; the first of the samples where there are some."""
    config = judge.config
    n = max(1, config.n // TRAJECTORY_SHARE)
    start = Point(0, policies[0].runs[0].source, _figures_of_first(policies[0].runs[0], n, config))
    found = []
    for policy in policies[1:]:
        for judged in policy.runs:
            run = finetune_run(judged.source)
            if run is None:
                continue
            points = [start]
            for step, folder in run.folder.checkpoint_folders().items():
                if step < run.step:
                    name = f"{policy.name}, step {step}"
                    few = judge.policy(str(folder), name, n=n)
                    points.append(Point(step, str(folder), few.evaluation.figures))
            points.append(Point(run.step, judged.source, _figures_of_first(judged, n, config)))
            found.append(Trajectory(policy.name, judged.source, n, points))
    return found


def _figures_of_first(judged: Judged, n: int, config: CompareConfig) -> dict[str, Figure]:
    """Figures of the first n samples alone; they are those that n samples would have been."""
    frame = judged.evaluation.frame.head(n)
    return figures(frame, bundled_training_elements(), seed=config.seed)
