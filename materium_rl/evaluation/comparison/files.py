"""A comparison in files and in the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console

from materium_rl import __version__
from materium_rl.evaluation.comparison.costs import CALLS, gain_per
from materium_rl.evaluation.comparison.curves import plot_rarefaction, plot_trajectories
from materium_rl.evaluation.comparison.differences import Change, Changes
from materium_rl.evaluation.comparison.found import Found
from materium_rl.evaluation.comparison.plots import plot_comparison
from materium_rl.evaluation.comparison.results import Compared, Comparison, Control, Trajectory
from materium_rl.evaluation.comparison.second_judge import apart, judge_tables, panel_record, who_judges
from materium_rl.evaluation.comparison.tables import (
    markdown_controls,
    markdown_costs,
    markdown_differences,
    markdown_found,
    markdown_trajectory,
)
from materium_rl.evaluation.definitions import DEFINITIONS, GAP, STABLE_BELOW
from materium_rl.evaluation.metrics import Figure
from materium_rl.evaluation.report.page import REPORT, write_report
from materium_rl.evaluation.scored import CAVEAT, HELD_OUT_GAP, LABEL
from materium_rl.evaluation.table import markdown_definitions, markdown_table, print_table, ratio
from materium_rl.files import atomic_path
from materium_rl.runs import COMPARISON

if TYPE_CHECKING:
    import pandas as pd

PICTURE = "novelty_before_after.png"
RAREFACTION_PICTURE = "rarefaction.png"
TRAJECTORY_PICTURE = "trajectory.png"
FOUND = (
    "Distinct ones among all samples of a run that were stable and of a new formula, as its own reward saw "
    "them. What the baseline finds with as many: `finetune --algorithm best-of-n`, or `--controls`."
)
AGAINST = {
    "sun": "S.U.N.",
    "sun_new": "new arrangements",
    "sun_on_target": "S.U.N. and on target",
    "sun_frameworks": "frameworks",
}
"""What is said of a recipe against a control."""


def write_comparison(comparison: Comparison) -> None:
    """Write the output folder; it takes its name only when it is complete."""
    title = _title(comparison)
    with atomic_path(comparison.config.out) as folder:
        folder.mkdir()
        text = json.dumps(record(comparison), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / COMPARISON).write_text(text + "\n", encoding="utf-8")
        (folder / "report.md").write_text(_report(comparison), encoding="utf-8")
        for compared in comparison.everything:
            _samples(compared).to_parquet(folder / compared.samples_file, index=False)
        own = {c.name: comparison.figures[c.name] for c in comparison.policies}
        plot_comparison(own, folder / PICTURE, title=title)
        plot_rarefaction(comparison.sizes, comparison.curves, folder / RAREFACTION_PICTURE, title=title)
        if comparison.trajectories:
            plot_trajectories(comparison.trajectories, folder / TRAJECTORY_PICTURE)
        write_report(folder)


def record(comparison: Comparison) -> dict[str, Any]:
    """The content of ``comparison.json``; docs/evaluation.md says what each key holds."""
    found: dict[str, Any] = {
        "label": LABEL,
        "verdicts": comparison.verdicts,
        "settings": _settings(comparison),
        "config": comparison.config.model_dump(mode="json"),
        "policies": [_policy(c, comparison.figures[c.name]) for c in comparison.policies],
        "panel": panel_record(comparison.panel),
        "definitions": [asdict(d) for d in DEFINITIONS],
        "differences": {name: _changes(found) for name, found in comparison.changes.items()},
        "rarefaction": {
            "sizes": comparison.sizes.tolist(),
            "policies": {
                name: {kind: {k: v.tolist() for k, v in vars(curve).items()} for kind, curve in kinds.items()}
                for name, kinds in comparison.curves.items()
            },
        },
        "controls": [_control(control, comparison) for control in comparison.controls],
        "cost": {c.name: _cost(c, comparison) for c in comparison.everything if c.cost},
        "found": {c.name: _found(c.found) for c in comparison.everything if c.found},
        "trajectory": [_trajectory(t) for t in comparison.trajectories],
    }
    if len(comparison.policies) == 2:
        before, after = (comparison.figures[c.name] for c in comparison.policies)
        found["ratios"] = {d.key: _plain(ratio(before[d.key], after[d.key])) for d in DEFINITIONS}
    return found


def print_comparison(comparison: Comparison, console: Console) -> None:
    """Print table, verdicts and the names of the files."""
    console.print()
    print_table(comparison.figures, _title(comparison), console)
    console.print()
    for name, line in comparison.verdicts.items():
        console.print(f"{name}: {line}", style="bold", soft_wrap=True, markup=False)
    for line in _against(comparison):
        console.print(line, soft_wrap=True, markup=False)
    for line in judge_tables(comparison.figures, comparison.changes, comparison.panel):
        console.print(line, soft_wrap=True, markup=False)
    console.print(who_judges(comparison.panel), soft_wrap=True, markup=False)
    console.print(CAVEAT, soft_wrap=True, markup=False)
    console.print()
    for file in _files(comparison):
        console.print(str(comparison.config.out / file), soft_wrap=True, markup=False)


def _files(comparison: Comparison) -> list[str]:
    pictures = [PICTURE, RAREFACTION_PICTURE, *([TRAJECTORY_PICTURE] if comparison.trajectories else [])]
    return [REPORT, "report.md", *pictures, COMPARISON, *(c.samples_file for c in comparison.everything)]


def _samples(compared: Compared) -> pd.DataFrame:
    """The samples of every run; of several runs a column says which."""
    import pandas as pd

    frames = [run.evaluation.frame for run in compared.runs]
    if len(frames) == 1:
        return frames[0]
    return pd.concat(
        [frame.assign(run=run.source) for frame, run in zip(frames, compared.runs, strict=True)],
        ignore_index=True,
    )


def _settings(comparison: Comparison) -> dict[str, Any]:
    config, gap = comparison.config, comparison.gap
    return {
        "n": config.n,
        "seed": config.seed,
        "temperature": config.temperature,
        "expression": comparison.scorer.expression,
        "gates": list(comparison.scorer.gates),
        "stable_below_eV_per_atom": STABLE_BELOW,
        "band_gap_target_eV": None if GAP in comparison.scorer.prompted else gap.target,
        "band_gap_width_eV": gap.width,
        "band_gap_members": gap.members,
        "bootstrap_resamples": comparison.bootstrap.n_boot,
        "materium_rl": __version__,
    }


def _policy(compared: Compared, found: Mapping[str, Figure]) -> dict[str, Any]:
    evaluations = [run.evaluation for run in compared.runs]
    return {
        "name": compared.name,
        "policy": compared.text,
        "samples": compared.samples_file,
        "requested": len(evaluations[0].frame),
        "training_seeds": compared.seeds,
        "runs": [
            {"policy": run.source, **_figures_and_judges(run.evaluation.figures)} for run in compared.runs
        ],
        "seconds": {
            "sampling": round(sum(run.sampling_seconds for run in compared.runs), 1),
            "scoring": round(sum(evaluation.seconds for evaluation in evaluations), 1),
        },
        **_figures_and_judges(found),
    }


def _control(control: Control, comparison: Comparison) -> dict[str, Any]:
    compared = control.compared
    return {
        **_policy(compared, comparison.figures[compared.name]),
        "kind": control.kind,
        "temperature": control.temperature,
        "of": control.of,
        "reward_calls": compared.cost.reward_calls if compared.cost else 0,
        "equal_reward_calls": control.equal_calls,
        "against": {name: _changes(c) for name, c in comparison.against_controls[compared.name].items()},
    }


def _cost(compared: Compared, comparison: Comparison) -> dict[str, Any]:
    cost, found = compared.cost, comparison.changes.get(compared.name)
    assert cost is not None
    gains = {"per_1000_reward_calls": cost.reward_calls / CALLS, "per_processor_hour": cost.processor_hours}
    return {
        **asdict(cost),
        "processor_hours": cost.processor_hours,
        **{key: _figures(gain_per(found, amount) if found else {}) for key, amount in gains.items()},
    }


def _found(found: Found) -> dict[str, Any]:
    return {
        "reward_calls": found.reward_calls.tolist(),
        **{kind: counts.tolist() for kind, counts in found.distinct.items()},
    }


def _trajectory(trajectory: Trajectory) -> dict[str, Any]:
    return {
        "name": trajectory.name,
        "policy": trajectory.source,
        "n": trajectory.n,
        "points": [
            {"step": p.step, "policy": p.source, "figures": _figures(p.figures)} for p in trajectory.points
        ],
    }


def _changes(found: Changes) -> dict[str, Any]:
    plain, judged = apart(found.figures)
    return {
        "runs": list(found.n_runs),
        "figures": {key: _change(change) for key, change in plain.items()},
        "judges": {
            judge: {key: _change(change) for key, change in of.items()} for judge, of in judged.items()
        },
        "gain": _figures(found.gain),
    }


def _change(change: Change) -> dict[str, dict[str, float | None]]:
    return {"difference": _figure(change.difference), "ratio": _figure(change.ratio)}


def _figures_and_judges(found: Mapping[str, Figure]) -> dict[str, Any]:
    plain, judged = apart(found)
    return {
        "figures": _figures(plain),
        "judges": {judge: _figures(figures) for judge, figures in judged.items()},
    }


def _figures(found: Mapping[str, Figure]) -> dict[str, dict[str, float | None]]:
    return {key: _figure(figure) for key, figure in found.items()}


def _figure(figure: Figure) -> dict[str, float | None]:
    return {end: _plain(value) for end, value in asdict(figure).items()}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _report(comparison: Comparison) -> str:
    settings, gap = _settings(comparison), comparison.gap
    names = " and ".join(f"`{c.name}`" for c in comparison.policies)
    lines = [f"# Comparison of {names}", ""]
    lines += [f"**{name}**: {line}." for name, line in comparison.verdicts.items()]
    lines += ["", f"![before and after]({PICTURE})", ""]
    lines += [
        f"Values with their 95 % intervals; {settings['n']:,} structures requested from each.",
        "",
        markdown_table(comparison.figures),
        "",
        "## Differences",
        "",
        "After minus before, and after over before, with 95 % paired bootstrap intervals.",
        "",
        markdown_differences(comparison.changes),
        "",
        "## Distinct S.U.N. samples against samples drawn",
        "",
        f"![rarefaction]({RAREFACTION_PICTURE})",
    ]
    if comparison.controls:
        lines += ["", "## Controls", "", *[f"- {line}" for line in _controls_said(comparison)], ""]
        lines += [markdown_controls(comparison.against_controls)]
    costs = {c.name: (c.cost, comparison.changes[c.name]) for c in comparison.everything[1:] if c.cost}
    if costs:
        lines += ["", "## Cost", "", markdown_costs(costs)]
    if found := {c.name: c.found for c in comparison.everything if c.found}:
        lines += ["", "## Found with the reward calls", "", FOUND, "", markdown_found(found)]
    if comparison.trajectories:
        lines += ["", "## Trajectory", "", f"![trajectory]({TRAJECTORY_PICTURE})"]
        for trajectory in comparison.trajectories:
            lines += ["", f"`{trajectory.source}`, {trajectory.n:,} structures of each checkpoint:", ""]
            lines += [markdown_trajectory({p.step: p.figures for p in trajectory.points})]
    tables = judge_tables(comparison.figures, comparison.changes, comparison.panel)
    if tables:
        lines += ["", "## Stable, unique and novel, by who judges", "", *tables]
    lines += [
        "",
        "## Evaluator",
        "",
        who_judges(comparison.panel),
        "",
        CAVEAT,
        *([HELD_OUT_GAP] if gap.members == "evaluation" else []),
    ]
    lines += ["", "## Settings", "", *[f"- {key}: `{value}`" for key, value in settings.items()]]
    lines += ["", "## Definitions", "", markdown_definitions(), "", "## Files", ""]
    lines += [f"- `{REPORT}`", f"- `{COMPARISON}`"]
    lines += [
        f"- `{c.samples_file}`: every sample of `{c.text}` with its scores and CIF"
        for c in comparison.everything
    ]
    return "\n".join(lines) + "\n"


def _controls_said(comparison: Comparison) -> list[str]:
    """How each control was made, and what it cost."""
    said = []
    for control in comparison.controls:
        name, cost = control.compared.name, control.compared.cost
        if cost is None:
            said.append(f"`{name}`: the baseline at temperature {control.temperature:g}.")
            continue
        drawn = int(cost.reward_calls)
        equal = (
            "as many as the run and the samples of this comparison took"
            if drawn >= control.equal_calls
            else f"fewer than the {control.equal_calls:,} that equal the run, as --max-calls says"
        )
        said.append(
            f"`{name}`: the best {comparison.config.n:,} of {drawn:,} samples of the baseline by the reward "
            f"of `{control.of}` ({equal}; {60 * cost.hours:.0f} min)."
        )
    return [*said, *_against(comparison)]


def _against(comparison: Comparison) -> list[str]:
    """What each recipe has over each control, in words."""
    said = []
    for control, against in comparison.against_controls.items():
        for name, found in against.items():
            parts = []
            for key, title in AGAINST.items():
                if change := found.figures.get(key):
                    scale, unit = (1, "") if key == "sun_frameworks" else (100, " points")
                    gain = change.difference
                    parts.append(
                        f"{title} {scale * gain.value:+.1f}{unit} "
                        f"({scale * gain.low:.1f}..{scale * gain.high:.1f})"
                        + ("" if change.is_certain else ", within the uncertainty")
                    )
            said.append(f"{name} against {control}: {'; '.join(parts)}")
    return said


def _title(comparison: Comparison) -> str:
    config, names = comparison.config, " and ".join(c.name for c in comparison.policies)
    asked = config.prompts.text if config.prompts else ""
    sampling = f"temperature {config.temperature:g}, seed {config.seed}{asked}"
    return f"{names}: {config.n:,} structures each, {sampling}"
