"""The second judge in a comparison: every policy again by a potential that the reward did not use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from rich.console import Console

from materium_rl.cif import parse_cif
from materium_rl.config import CompareConfig
from materium_rl.evaluation.comparison.differences import Changes
from materium_rl.evaluation.comparison.results import Judged
from materium_rl.evaluation.definitions import N_BOOT
from materium_rl.evaluation.evaluate import judges
from materium_rl.evaluation.evaluate.judgements import add_judgements, judge_statistics, title_of
from materium_rl.evaluation.evaluate.judges import EVALUATOR, RELAXED, REWARD, Panel
from materium_rl.evaluation.evaluate.novel import add_novelty, open_references
from materium_rl.evaluation.evaluate.text import BY_JUDGE
from materium_rl.evaluation.metrics import Figure
from materium_rl.evaluation.statistics import Bootstrap
from materium_rl.evaluation.table import format_figure
from materium_rl.rewards.catalogue.bandgap import BandGap
from materium_rl.rewards.execution.progress import scoring_bar

T = TypeVar("T")


def judge_again(
    judged: Judged, config: CompareConfig, panel: Panel, gap: BandGap, console: Console
) -> Judged:
    """Add the verdicts of the second judge, as written and, if asked for, relaxed.

    Args:
        judged: What a policy wrote, scored.
        config: Of the comparison.
        panel: Who judges.
        gap: Target of the band gap.
        console: Where to say how far it is.

    Returns:
        The same with the columns ``<judge>.<verdict>``, and with figures and statistics of those names.
    """
    frame = judged.evaluation.frame
    structures = [
        parse_cif(text)[0] if isinstance(text, str) and valid else None
        for text, valid in zip(frame["cif"], frame["valid"], strict=True)
    ]
    with scoring_bar(console, "second opinion") as progress:
        frame = judges.second_opinion(frame, structures, panel, gap, config.reward, progress, halves=False)
    if config.evaluator.relax:
        console.print(f"relaxing by {config.evaluator.relaxer or panel.potential} ...", markup=False)
        with scoring_bar(console, "relaxing") as progress:
            frame = judges.relax(frame, structures, panel, config.reward, progress)
        relaxed = [parse_cif(text)[0] if isinstance(text, str) else None for text in frame["relaxed.cif"]]
        frame, _ = add_novelty(frame, structures, relaxed, open_references())
    else:
        frame = add_judgements(frame, None, {})
    found = judge_statistics(frame)
    bootstrap = Bootstrap(len(frame), n_boot=N_BOOT, seed=config.seed)
    figures = {key: Figure(s.value, *bootstrap.interval(s)) for key, s in found.items()}
    evaluation = replace(judged.evaluation, frame=frame, figures={**judged.evaluation.figures, **figures})
    return replace(judged, evaluation=evaluation, statistics={**judged.statistics, **found})


def judge_tables(
    figures: Mapping[str, Mapping[str, Figure]], changes: Mapping[str, Changes], panel: Panel
) -> list[str]:
    """A Markdown table for each judge: policies and controls, and how they differ from the first.

    Args:
        figures: By name, the baseline first.
        changes: By name, of all but the baseline.
        panel: Who judges.
    """
    lines: list[str] = []
    for judge in (REWARD, EVALUATOR, RELAXED):
        if not any(f"{judge}.stable" in found for found in figures.values()):
            continue
        label = panel.label if judge != REWARD or not panel.is_second else judges.PROXY
        columns = [*figures, *(f"{name} difference" for name in changes)]
        lines += [f"| {title_of(judge, panel)}: {label} | {' | '.join(columns)} |"]
        lines += [f"|---|{'--:|' * len(columns)}"]
        for definition in BY_JUDGE:
            key = f"{judge}.{definition.key}"
            cells = [format_figure(definition, found[key]) for found in figures.values()]
            cells += [_difference(found, key) for found in changes.values()]
            lines.append(f"| {definition.title}, % | {' | '.join(cells)} |")
        lines.append("")
    return lines


def apart(found: Mapping[str, T]) -> tuple[dict[str, T], dict[str, dict[str, T]]]:
    """Figures without those of the judges, and those of each judge by verdict."""
    judged: dict[str, dict[str, T]] = {}
    for key, value in found.items():
        judge, dot, verdict = key.partition(".")
        if dot:
            judged.setdefault(judge, {})[verdict] = value
    return {key: value for key, value in found.items() if "." not in key}, judged


def who_judges(panel: Panel) -> str:
    """What the figures of the second judge are worth."""
    own = ", ".join(panel.rewarded)
    if panel.independent:
        return f"The second judge of stability is {panel.evaluator}, which the reward ({own}) did not use."
    return f"There is no independent judge of stability: {panel.reason}."


def _difference(found: Changes, key: str) -> str:
    difference = found.figures[key].difference
    value, low, high = (100 * number for number in (difference.value, difference.low, difference.high))
    return f"{value:+.1f} ({low:+.1f}..{high:+.1f})"


def panel_record(panel: Panel) -> dict[str, object]:
    """Who judged, for ``comparison.json``."""
    return {
        "reward_potentials": list(panel.rewarded),
        "evaluator": panel.evaluator,
        "label": panel.label,
        "reason": panel.reason,
        "titles": {judge: title_of(judge, panel) for judge in _asked(panel)},
    }


def _asked(panel: Panel) -> Sequence[str]:
    second = [EVALUATOR] if panel.is_second else []
    return [REWARD, *second, *([RELAXED] if panel.config.relax else [])]
