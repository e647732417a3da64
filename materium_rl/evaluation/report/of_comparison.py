"""The page of a comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from materium_rl.errors import ConfigError
from materium_rl.evaluation.comparison.record import ComparisonRecord, read_comparison
from materium_rl.evaluation.definitions import Definition
from materium_rl.evaluation.discoveries.sources import read_samples
from materium_rl.evaluation.evaluate.text import BY_JUDGE
from materium_rl.evaluation.metrics import Figure
from materium_rl.evaluation.report import changes, charts, distributions
from materium_rl.evaluation.report.content import Content, Section
from materium_rl.evaluation.report.findings import find_best
from materium_rl.evaluation.report.second_judges import judges_section, who_judges
from materium_rl.evaluation.report.tables import Table, definitions_of, figure_of, figure_rows
from materium_rl.evaluation.report.wording import RUNGS, in_words
from materium_rl.evaluation.scored import CAVEAT, HELD_OUT_GAP, LABEL
from materium_rl.evaluation.table import SECTIONS, TERMINAL_SECTIONS

if TYPE_CHECKING:
    import pandas as pd

OPEN = tuple(SECTIONS)[:TERMINAL_SECTIONS]
"""Tables that are not folded."""
HEADLINE = ("sun", "sun_prototypes", "on_target_of_stable", "top5")


def comparison_content(folder: Path) -> Content:
    """Read a folder of ``compare``.

    Raises:
        ConfigError: It holds no comparison, one of another layout, or not all of it.
        StructureFileError: None of its tables of samples can be read.
    """
    record = read_comparison(folder)
    samples = read_samples(folder)
    if missing := [p.samples for p in record.policies if p.name not in set(samples.frame["policy"])]:
        raise ConfigError(f"{folder} is not complete: {', '.join(missing)} is missing or empty")
    frames = {p.name: samples.frame[samples.frame["policy"] == p.name] for p in record.policies}
    definitions = definitions_of(record.definitions)
    figures = {p.name: {key: figure_of(e) for key, e in p.figures.items()} for p in record.policies}
    settings = record.settings
    return Content(
        title=f"Comparison of {' and '.join(figures)}",
        lead=(
            f"{record.policies[0].requested:,} structures requested from each policy, temperature "
            f"{settings.get('temperature')}, seed {settings.get('seed')}. Baseline: {next(iter(figures))}."
        ),
        verdicts={f"{name} against {record.policies[0].name}": v for name, v in record.verdicts.items()},
        label=record.label,
        caveat=_caveat(record),
        names=tuple(figures),
        cards=figure_rows([definitions[k] for k in HEADLINE if k in definitions], list(figures.values())),
        before=_before(record, frames, figures, definitions),
        findings=find_best(samples),
        after=[
            Section("distributions", "Distributions", charts=distributions.distributions(frames, settings))
        ],
        settings=_settings(record),
        config=json.dumps(record.config, indent=2, ensure_ascii=False),
        definitions=definitions | {f"judge-{d.key}": d for d in BY_JUDGE if record.panel is not None},
        version=str(settings.get("materium_rl", "of an unknown version")),
        files="samples_*.parquet",
    )


def _caveat(record: ComparisonRecord) -> str:
    """What the label means."""
    text = CAVEAT.removeprefix(f"{LABEL}: ")
    gap = f" {HELD_OUT_GAP}" if record.settings.get("band_gap_members") == "evaluation" else ""
    second = f" {who_judges(record.panel)}" if record.panel is not None else ""
    return text[0].upper() + text[1:] + gap + second


def _before(
    record: ComparisonRecord,
    frames: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Mapping[str, Figure]],
    definitions: Mapping[str, Definition],
) -> list[Section]:
    tables = _tables(figures, definitions)
    drawn = [
        charts.variety(figures, definitions),
        charts.purchase(figures, definitions),
        changes.gain(record),
    ]
    found = [
        Section("funnel", "Funnel", charts=_given([charts.funnel(figures, definitions)]), aside=tables[0]),
        Section(
            "variety", "What the novelty is made of", charts=_given(drawn), tables=tables[1:], name="Make-up"
        ),
    ]
    if rungs := distributions.tiers(frames):
        found.append(Section("novelty", "Novelty ladder", charts=[rungs], terms=RUNGS, name="Ladder"))
    return [*found, *judges_section(record), *changes.sections(record, definitions)]


def _given(drawn: Sequence[charts.Chart | None]) -> list[charts.Chart]:
    return [chart for chart in drawn if chart is not None]


def _tables(
    figures: Mapping[str, Mapping[str, Figure]], definitions: Mapping[str, Definition]
) -> list[Table]:
    """The tables of figures, that of the funnel first."""
    named = {d.key for part in SECTIONS.values() for d in part}
    parts: dict[str, list[Definition]] = {
        title: [definitions[d.key] for d in part if d.key in definitions] for title, part in SECTIONS.items()
    }
    parts["Others"] = [d for key, d in definitions.items() if key not in named]
    columns = (*figures, "after / before") if len(figures) == 2 else tuple(figures)
    return [
        Table(title, columns, figure_rows(part, list(figures.values())), folded=title not in OPEN)
        for title, part in parts.items()
        if part
    ]


def _settings(record: ComparisonRecord) -> dict[str, str]:
    found = {key: in_words(value) for key, value in record.settings.items()}
    for p in (*record.policies, *record.controls):
        found[f"samples of {p.name}"] = f"{p.policy}, in {p.samples}"
    return found
