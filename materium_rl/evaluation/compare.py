"""``materium-rl compare``: sample several policies alike and say what changed, and at what cost."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from materium_rl import __version__
from materium_rl.config import CompareConfig
from materium_rl.evaluation.evaluate import (
    CAVEAT,
    HELD_OUT_GAP,
    LABEL,
    N_BOOT,
    Evaluation,
    evaluate_structures,
    make_scorer,
    sample_structures,
)
from materium_rl.evaluation.metrics import DEFINITIONS, STABLE_BELOW
from materium_rl.evaluation.plots import plot_comparison
from materium_rl.evaluation.report.page import REPORT, write_report
from materium_rl.evaluation.table import (
    make_console,
    markdown_definitions,
    markdown_table,
    print_table,
    ratio,
    verdict,
)
from materium_rl.files import atomic_path
from materium_rl.policies.loading import load_policy
from materium_rl.resources import bundled_policies
from materium_rl.rewards.catalogue.bandgap import BandGap
from materium_rl.rewards.execution.progress import scoring_bar
from materium_rl.rewards.scoring import Scorer
from materium_rl.runs import COMPARISON

PICTURE = "novelty_before_after.png"


@dataclass(frozen=True)
class Compared:
    """One policy of a comparison."""

    name: str
    policy: str
    evaluation: Evaluation
    sampling_seconds: float

    @property
    def samples_file(self) -> str:
        """Name of the file with its samples."""
        return f"samples_{self.name}.parquet"


def compare(config: CompareConfig) -> Path:
    """Sample each policy with the same settings and seeds, score all alike, write and print a report.

    Writes ``report.html``, ``report.md``, ``comparison.json``, a picture and one table of samples per
    policy. The folder takes its name only when it is complete.

    Returns:
        The output folder.

    Raises:
        ConfigError: A wrong policy, reward or option; nothing has been written then.
        RewardError: More structures failed to be measured than ``reward.max_failed`` allows.
    """
    console = make_console()
    scorer, gap = make_scorer(config.reward)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policies = {
        name: load_policy(policy, device=device)
        for name, policy in zip(display_names(config.policies), config.policies, strict=True)
    }
    compared: list[Compared] = []
    with scorer:
        for (name, policy), source in zip(policies.items(), config.policies, strict=True):
            start = time.monotonic()
            structures = sample_structures(
                policy,
                config.n,
                seed=config.seed,
                temperature=config.temperature,
                batch_size=config.batch_size,
            )
            sampling = time.monotonic() - start
            console.print(f"{name}: sampled {config.n} structures in {sampling:.0f} s, scoring them ...")
            with scoring_bar(console, name) as progress:
                evaluation = evaluate_structures(
                    structures, config.n, scorer, gap=gap, seed=config.seed, progress=progress
                )
            console.print(f"{name}: scored in {evaluation.seconds:.0f} s")
            compared.append(Compared(name, source, evaluation, sampling))
    verdicts = _verdicts(compared)
    _write(config, scorer, gap, compared, verdicts)
    _print(config, compared, verdicts, console)
    return config.out


def display_names(policies: Sequence[str]) -> list[str]:
    """Short, distinct names: of a bundled policy its own, of a folder the folder's."""
    bundled = bundled_policies()
    names: list[str] = []
    for policy in policies:
        name = policy if policy in bundled else Path(policy).expanduser().resolve().name
        others = (f"{name}-{k}" for k in count(2))
        names.append(name if name not in names else next(other for other in others if other not in names))
    return names


def _verdicts(compared: Sequence[Compared]) -> dict[str, str]:
    """Name of each policy after the baseline -> one line."""
    before = compared[0].evaluation.figures
    return {other.name: verdict(before, other.evaluation.figures) for other in compared[1:]}


def _settings(config: CompareConfig, scorer: Scorer, gap: BandGap) -> dict[str, Any]:
    return {
        "n": config.n,
        "seed": config.seed,
        "temperature": config.temperature,
        "expression": scorer.expression,
        "gates": list(scorer.gates),
        "stable_below_eV_per_atom": STABLE_BELOW,
        "band_gap_target_eV": gap.target,
        "band_gap_width_eV": gap.width,
        "band_gap_members": gap.members,
        "bootstrap_resamples": N_BOOT,
        "materium_rl": __version__,
    }


def _write(
    config: CompareConfig,
    scorer: Scorer,
    gap: BandGap,
    compared: Sequence[Compared],
    verdicts: Mapping[str, str],
) -> None:
    tables = {c.name: c.evaluation.figures for c in compared}
    settings = _settings(config, scorer, gap)
    record = {
        "label": LABEL,
        "verdicts": verdicts,
        "settings": settings,
        "config": config.model_dump(mode="json"),
        "policies": [_record(c) for c in compared],
        "definitions": [asdict(d) for d in DEFINITIONS],
    }
    if len(compared) == 2:
        before, after = tables.values()
        record["ratios"] = {d.key: _plain(ratio(before[d.key], after[d.key])) for d in DEFINITIONS}
    with atomic_path(config.out) as folder:
        folder.mkdir()
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / COMPARISON).write_text(text + "\n", encoding="utf-8")
        (folder / "report.md").write_text(_report(settings, compared, verdicts, gap), encoding="utf-8")
        for c in compared:
            c.evaluation.frame.to_parquet(folder / c.samples_file, index=False)
        plot_comparison(tables, folder / PICTURE, title=_title(compared, config))
        write_report(folder)


def _record(c: Compared) -> dict[str, Any]:
    found = c.evaluation.figures
    return {
        "name": c.name,
        "policy": c.policy,
        "samples": c.samples_file,
        "requested": len(c.evaluation.frame),
        "seconds": {"sampling": round(c.sampling_seconds, 1), "scoring": round(c.evaluation.seconds, 1)},
        "figures": {k: {e: _plain(v) for e, v in asdict(f).items()} for k, f in found.items()},
    }


def _report(
    settings: Mapping[str, Any], compared: Sequence[Compared], verdicts: Mapping[str, str], gap: BandGap
) -> str:
    names = " and ".join(f"`{c.name}`" for c in compared)
    lines = [f"# Comparison of {names}", ""]
    lines += [f"**{name}**: {line}." for name, line in verdicts.items()]
    lines += ["", f"![before and after]({PICTURE})", ""]
    lines += [
        f"Values with their 95 % bootstrap intervals; {settings['n']:,} structures requested from each.",
        "",
    ]
    lines += [markdown_table({c.name: c.evaluation.figures for c in compared}), "", "## Evaluator", ""]
    lines += [CAVEAT, *([HELD_OUT_GAP] if gap.members == "evaluation" else []), "", "## Settings", ""]
    lines += [f"- {key}: `{value}`" for key, value in settings.items()]
    lines += ["", "## Definitions", "", markdown_definitions(), "", "## Files", "", f"- `{COMPARISON}`"]
    lines += [f"- `{c.samples_file}`: every sample of `{c.policy}` with its scores and CIF" for c in compared]
    return "\n".join(lines) + "\n"


def _print(
    config: CompareConfig, compared: Sequence[Compared], verdicts: Mapping[str, str], console: Console
) -> None:
    console.print()
    print_table({c.name: c.evaluation.figures for c in compared}, _title(compared, config), console)
    console.print()
    for name, line in verdicts.items():
        console.print(f"{name}: {line}", style="bold", soft_wrap=True, markup=False)
    console.print(CAVEAT, soft_wrap=True, markup=False)
    console.print()
    for file in (REPORT, "report.md", PICTURE, COMPARISON, *(c.samples_file for c in compared)):
        console.print(str(config.out / file), soft_wrap=True, markup=False)


def _title(compared: Sequence[Compared], config: CompareConfig) -> str:
    names = " and ".join(c.name for c in compared)
    return f"{names}: {config.n:,} structures each, temperature {config.temperature:g}, seed {config.seed}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
