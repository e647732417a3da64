"""The page of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from materium_rl.evaluation.definitions import Definition
from materium_rl.evaluation.discoveries.sources import read_samples
from materium_rl.evaluation.evaluate.record import (
    EvaluationRecord,
    HistogramRecord,
    NoveltyRecord,
    read_record,
)
from materium_rl.evaluation.evaluate.text import BY_JUDGE, DESCRIBING, FUNNEL_ROWS, caveat
from materium_rl.evaluation.novelty.ladder import LEVELS
from materium_rl.evaluation.report import charts, distributions, drawing
from materium_rl.evaluation.report.charts import Chart
from materium_rl.evaluation.report.content import Content, Section
from materium_rl.evaluation.report.findings import find_best
from materium_rl.evaluation.report.tables import (
    Row,
    Table,
    cell,
    definitions_of,
    figure_of,
    figure_rows,
    scaled,
)
from materium_rl.evaluation.report.wording import RUNGS, in_words
from materium_rl.runs import EVALUATED, EVALUATION

SHARE = Definition("", "", "%", "")
DRAWN = ("e_above_hull", "band_gap", "density", "n_sites", "space_group")
"""Properties that are drawn from the samples."""


def read_evaluation(folder: Path) -> EvaluationRecord:
    """Read and check the JSON file of an evaluation.

    Raises:
        ConfigError: It is of another layout.
    """
    return read_record(EvaluationRecord, folder / EVALUATION, repeat="evaluation")


def evaluation_content(folder: Path) -> Content:
    """Read a folder of ``evaluate``.

    Raises:
        ConfigError: The record is of another layout.
        StructureFileError: The table of structures cannot be read.
    """
    record = read_evaluation(folder)
    samples = read_samples(folder)
    name = record.source.name
    samples.frame = samples.frame.assign(policy=name)
    frames = {name: samples.frame}
    figures = {name: {key: figure_of(e) for key, e in record.figures.items()}}
    definitions = definitions_of(record.definitions)
    judge = list(record.judges)[-1]
    limit = record.settings.get("metastable_below_eV_per_atom")
    settings = {**record.settings, "stable_below_eV_per_atom": limit}
    drawn = distributions.distributions(frames, settings)
    return Content(
        title=f"Evaluation of {name}",
        lead=(
            f"{record.source.requested:,} structures requested, {record.source.given:,} given; compared with "
            f"{record.reference.title} ({record.reference.structures:,} structures)."
        ),
        verdicts={f"by {record.judges[judge].title}": record.headline},
        label=record.label,
        caveat=caveat(record),
        names=(name,),
        cards=_cards(record, judge, definitions),
        before=[
            _funnel(record, figures, definitions),
            _judges(record),
            *_agreement(record),
            *_relaxation(record),
            Section(
                "variety",
                "What they are made of",
                charts=[
                    c
                    for c in (charts.variety(figures, definitions), charts.purchase(figures, definitions))
                    if c is not None
                ],
                tables=[
                    Table("What they are made of", (name,), figure_rows(DESCRIBING, list(figures.values())))
                ],
                name="Make-up",
            ),
            *_ladder(record, distributions.tiers(frames)),
            *_targets(record),
        ],
        findings=find_best(
            samples, stable=f"{judge}.metastable", energy="best.e_above_hull", by_reward=False
        ),
        after=[
            Section("distributions", "Distributions", charts=[*drawn, *_histograms(record)]),
            _reference(record),
        ],
        settings=_settings(record),
        config="",
        definitions={**definitions, **{f"judge-{d.key}": d for d in BY_JUDGE}},
        version=str(record.settings.get("materium_rl", "of an unknown version")),
        files=EVALUATED,
    )


def _cards(record: EvaluationRecord, judge: str, definitions: dict[str, Definition]) -> list[Row]:
    last = record.judges[judge].figures
    shown = [(definitions[key], record.figures[key]) for key in ("valid", "unique") if key in definitions]
    shown += [(d, last[d.key]) for d in BY_JUDGE if d.key in ("msun", "sun")]
    return [Row(d.title, (cell(d, figure_of(estimate)),), d.key, "%") for d, estimate in shown]


def _funnel(
    record: EvaluationRecord, figures: charts.Policies, definitions: dict[str, Definition]
) -> Section:
    rows = [definitions[key] for key in FUNNEL_ROWS if key in definitions]
    drawn = charts.funnel(figures, definitions)
    return Section(
        "funnel",
        "Funnel",
        "What is stable here is so by the potential of the reward; the judges follow.",
        charts=[] if drawn is None else [drawn],
        aside=Table(
            "Funnel, of the structures requested",
            (record.source.name,),
            figure_rows(rows, list(figures.values())),
        ),
    )


def _judges(record: EvaluationRecord) -> Section:
    judges = list(record.judges.values())
    names = [f"{key}: {j.title} [{j.label}]" for key, j in record.judges.items()]
    series = {
        key: [scaled(judge.figures[d.key], 100) for d in BY_JUDGE] for key, judge in record.judges.items()
    }
    rows = [
        Row(d.title, tuple(cell(d, figure_of(j.figures[d.key])) for j in judges), f"judge-{d.key}", "%")
        for d in BY_JUDGE
    ]
    rows.append(Row("measured, structures", tuple((f"{j.measured:,}", "") for j in judges)))
    rows.append(Row("valid, not measured", tuple((f"{j.failed:,}", "") for j in judges)))
    chart = Chart(
        "judges",
        "Stable, unique and novel, by who judges",
        "Each judge counts anew; what holds for all of them is the safer figure.",
        drawing.bars([d.title for d in BY_JUDGE], series, label="% of those requested (line: 95 % interval)"),
        alternative="The numbers stand in the table.",
    )
    return Section(
        "judges", "Judges", charts=[chart], aside=Table("By who judges", tuple(names), tuple(rows))
    )


def _agreement(record: EvaluationRecord) -> list[Section]:
    tables = []
    for key, found in record.agreement.items():
        signed = [(f"median difference, {found.unit}", found.median_difference)]
        signed.append((f"mean absolute difference, {found.unit}", found.mean_absolute_difference))
        rows = [
            Row(title, ((f"{e.value:.3f}", f"{e.low:.3f} to {e.high:.3f}" if e.low is not None else ""),))
            for title, e in signed
            if e.value is not None
        ]
        rows += [
            Row(f"same verdict: {title}", (cell(SHARE, figure_of(e)),), unit="%")
            for title, e in found.agree.items()
        ]
        rows += [
            Row(f"confirmed: {title}", (cell(SHARE, figure_of(e)),), unit="%")
            for title, e in found.confirmed.items()
        ]
        title = f"{key.replace('_', ' ').capitalize()}: {found.second} against {found.first}"
        tables.append(Table(title, (f"{found.n:,} structures",), tuple(rows)))
    if not tables:
        return []
    text = "Confirmed: of those that the first calls so, the share that the second does, too."
    return [Section("agreement", "Do the judges agree", text, tables=tables, name="Agreement")]


def _relaxation(record: EvaluationRecord) -> list[Section]:
    r = record.relaxation
    if r is None:
        return []
    counts = {
        "distinct valid structures relaxed": r.relaxed,
        "converged": r.converged,
        "became unphysical": r.broke_off,
        "failed": r.failed,
        "not relaxed, and not counted as stable": r.not_relaxed,
    }
    rows = [Row(title, ((f"{count:,}", ""),)) for title, count in counts.items()]
    for share, moved in zip(("5", "25", "50", "75", "95"), r.rmsd_quantiles, strict=False):
        rows.append(Row(f"{share} % moved at most (RMSD)", ((f"{moved:.3f}", ""),), unit="Å"))
    table = Table("Relaxation", ("",), tuple(rows))
    return [Section("relaxation", "Relaxation", f"{record.panel.relax_steps} steps at most.", tables=[table])]


def _ladder(record: EvaluationRecord, rungs: Chart | None) -> list[Section]:
    levels = {level.key: f"new by {level.title}" for level in LEVELS}
    levels |= {"not_substitution": "no substitution", "far": "far from all known"}
    tables = [
        _shares(found, title, titles)
        for title, found, titles in (
            ("New at each level, of the structures requested", record.novelty, levels),
            ("Each structure on one tier, of the structures requested", record.tiers, {}),
        )
        if found
    ]
    if rungs is None and not tables:
        return []
    drawn = [] if rungs is None else [rungs]
    return [Section("novelty", "Novelty ladder", charts=drawn, tables=tables, terms=RUNGS, name="Ladder")]


def _shares(shares: Sequence[NoveltyRecord], title: str, titles: dict[str, str]) -> Table:
    columns = list(dict.fromkeys((s.reference, s.stage) for s in shares))
    found = {(s.reference, s.stage, s.level): s for s in shares}
    rows = []
    for level in dict.fromkeys(s.level for s in shares):
        told = [found.get((*column, level)) for column in columns]
        cells = tuple(("–" if s is None else f"{100 * s.count / s.requested:.1f}", "") for s in told)
        rows.append(Row(titles.get(level, level.replace("_", " ")), cells, unit="%"))
    names = tuple(f"{reference}, {stage}".replace("_", " ") for reference, stage in columns)
    return Table(title, names, tuple(rows))


def _targets(record: EvaluationRecord) -> list[Section]:
    if not record.targets:
        return []
    rows = tuple(
        Row(
            f"{t.property.replace('_', ' ')} {t.wanted}",
            tuple(cell(SHARE, figure_of(e)) for e in (t.hits, t.hits_of_metastable, t.sun_hits)),
            unit="%",
        )
        for t in record.targets
    )
    columns = ("hits", "of the metastable", "meta-S.U.N. and a hit")
    return [Section("targets", "On target", tables=[Table("Wanted", columns, rows)], name="Targets")]


def _histograms(record: EvaluationRecord) -> list[Chart]:
    """Of the properties that are not drawn from the samples."""
    return [
        _histogram(name, found)
        for name, found in record.properties.items()
        if name not in DRAWN and any(found.counts)
    ]


def _histogram(name: str, found: HistogramRecord) -> Chart:
    heights = {
        series: _heights(counts)
        for series, counts in (("samples", found.counts), ("reference", found.reference))
        if any(counts)
    }
    title = name.replace("_", " ")
    unit = f" {found.unit}" if found.unit else ""
    names = drawing.bin_names(found.edges, 2)
    return Chart(
        f"property-{name}",
        title[0].upper() + title[1:],
        f"Median {found.quantiles[2]:.3g}{unit}; {found.measured:,} measured.",
        drawing.histogram(
            found.edges,
            heights,
            label=f"{title}{f', {found.unit}' if found.unit else ''}",
            share="% of those measured",
        ),
        ("", *(f"{series}, %" for series in heights)),
        tuple((row, *(f"{h[i]:.1f}" for h in heights.values())) for i, row in enumerate(names)),
    )


def _heights(counts: Sequence[int]) -> list[float]:
    return [100 * count / sum(counts) for count in counts]


def _reference(record: EvaluationRecord) -> Section:
    distances = tuple(
        Row(
            name.replace("_", " "),
            (
                (f"{d.value:.3f}", f"{d.low:.3f}–{d.high:.3f}"),
                (f"{d.chance:.3f}", f"up to {d.chance_high:.3f}"),
            ),
            unit=d.unit,
        )
        for name, d in record.distances.items()
    )
    coverage = tuple(
        Row(
            name,
            ((f"{c.met:,} of {c.known:,}", ""), ("–" if c.share is None else f"{100 * c.share:.2f}", "")),
        )
        for name, c in record.coverage.items()
    )
    tables = [
        Table("Distance from the reference", ("distance", "by chance, median"), distances),
        Table("Of the reference, met by the samples", ("number", "%"), coverage),
    ]
    text = "By chance: of as many structures drawn from the reference itself."
    return Section(
        "reference",
        "Distance from the reference",
        text,
        tables=[t for t in tables if t.rows],
        name="Reference",
    )


def _settings(record: EvaluationRecord) -> dict[str, str]:
    found = {key: in_words(value) for key, value in (*record.source.origin.items(), *record.settings.items())}
    found |= {f"not read: {place}": reason for place, reason in list(record.not_read.items())[:20]}
    if len(record.not_read) > 20:
        found["not read, others"] = f"{len(record.not_read) - 20:,}, named in {EVALUATION}"
    return found | {f"seconds, {part}": f"{s:.1f}" for part, s in record.seconds.items() if math.isfinite(s)}
