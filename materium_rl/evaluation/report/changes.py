"""What differs from the baseline, how sure that is, and what it cost: sections that the record may lack."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from materium_rl.evaluation.comparison.found import quarters
from materium_rl.evaluation.comparison.record import Changes, ComparisonRecord
from materium_rl.evaluation.definitions import Definition
from materium_rl.evaluation.report import drawing
from materium_rl.evaluation.report.charts import COUNTS, Chart
from materium_rl.evaluation.report.content import Section
from materium_rl.evaluation.report.tables import (
    Row,
    Table,
    cell,
    change_cells,
    figure_of,
    points_of,
    scaled,
    signed,
)
from materium_rl.evaluation.table import format_value

SHIFTED = (
    "valid",
    "stable",
    "unique",
    "novel",
    "sun",
    "sun_new",
    "sun_on_target",
    "top5",
    "rare_earth",
    "anion",
)
RAREFIED = {
    "structure": "Distinct S.U.N. structures",
    "prototype": "Distinct S.U.N. prototypes",
    "framework": "Distinct S.U.N. frameworks",
}
FOUND = {
    "formula": "Stable crystals of new formulas",
    "prototype": "Their prototypes",
    "framework": "Their frameworks",
}
CONTROLLED = ("sun", "sun_new", "sun_on_target", "sun_prototypes", "sun_frameworks", "valid")
FOLLOWED = ("sun", "sun_prototypes", "stable", "element_divergence")
GAINS = {
    "none": "new arrangements",
    "colouring": "other colouring",
    "family": "other substitution",
    "rare earth": "rare-earth substitution",
}
"""What a gain in S.U.N. is made of -> its name."""


Definitions = Mapping[str, Definition]


def _styles(record: ComparisonRecord) -> drawing.Styles:
    """Each policy and control has one colour on the whole page."""
    return {p.name: i for i, p in enumerate((*record.policies, *record.controls))}


def sections(record: ComparisonRecord, definitions: Definitions) -> list[Section]:
    """Those that the record has something for."""
    found = []
    if record.differences:
        found.append(_differences(record, definitions))
    if record.rarefaction is not None:
        found.append(_rarefaction(record))
    if record.controls:
        found.append(_controls(record, definitions))
    if record.cost:
        found.append(_cost(record, definitions))
    if record.found:
        found.append(_found(record))
    if record.trajectory:
        found.append(_trajectory(record, definitions))
    return found


def gain(record: ComparisonRecord) -> Chart | None:
    """What the gain in S.U.N. is made of; None where there is no certain gain."""
    own = {p.name: record.differences[p.name].gain for p in record.policies if p.name in record.differences}
    own = {name: found for name, found in own.items() if found}
    if not own:
        return None
    kinds = list(dict.fromkeys(kind for found in own.values() for kind in found))
    series = {name: [scaled(found.get(kind), 100) for kind in kinds] for name, found in own.items()}
    titles = [GAINS.get(kind, kind) for kind in kinds]
    text = "; ".join(
        f"{name}: "
        + ", ".join(f"{title} {value:.0f} %" for title, (value, _, _) in zip(titles, s, strict=True))
        for name, s in series.items()
    )
    return Chart(
        "gain",
        "What the gain in S.U.N. is",
        f"Shares of the gain, {text}. Below 0: fewer of the kind than before.",
        drawing.bars(
            titles, series, label="% of the gain (line: 95 % interval)", digits=0, styles=_styles(record)
        ),
    )


def _differences(record: ComparisonRecord, definitions: Definitions) -> Section:
    own = {p.name: record.differences[p.name] for p in record.policies if p.name in record.differences}
    columns = tuple(f"{name}, {what}" for name in own for what in ("difference", "ratio"))
    rows: dict[str, Row] = {}
    for key, definition in definitions.items():
        changes = [found.figures.get(key) for found in own.values()]
        if any(changes):
            cells = tuple(cell for change in changes for cell in change_cells(definition, change))
            rows[key] = Row(definition.title, cells, key, points_of(definition))
    main = tuple(row for key, row in rows.items() if key in (*SHIFTED, *COUNTS))
    return Section(
        "differences",
        "Differences",
        f"After minus {record.policies[0].name}, and after over it, with 95 % paired bootstrap intervals. An "
        "interval that holds 0 (or a ratio of 1) is no certain change.",
        [_shifts(record, own, definitions)],
        [Table("All differences to the baseline", columns, tuple(rows.values()), folded=True)],
        aside=Table("Main differences to the baseline", columns, main),
    )


def _shifts(record: ComparisonRecord, own: Mapping[str, Changes], definitions: Definitions) -> Chart:
    shown = [
        definitions[k]
        for k in SHIFTED
        if k in definitions and any(k in found.figures for found in own.values())
    ]
    series = {
        name: [
            scaled(found.figures[d.key].difference if d.key in found.figures else None, 100) for d in shown
        ]
        for name, found in own.items()
    }
    text = "; ".join(
        f"{d.title}: " + ", ".join(f"{name} {values[i][0]:+.1f}" for name, values in series.items())
        for i, d in enumerate(shown)
    )
    label = "difference, percentage points (line: 95 %)"
    return Chart(
        "differences",
        "Difference to the baseline",
        "Right of the line: more than the baseline. Not every rise is good.",
        drawing.points([d.title for d in shown], series, label=label, styles=_styles(record)),
        alternative=f"{text}.",
    )


def _rarefaction(record: ComparisonRecord) -> Section:
    assert record.rarefaction is not None
    sizes, charts = record.rarefaction.sizes, []
    for kind, title in RAREFIED.items():
        found = {name: kinds[kind] for name, kinds in record.rarefaction.policies.items() if kind in kinds}
        if not found:
            continue
        lines = {n: drawing.Line(sizes, c.expected, c.low, c.high) for n, c in found.items()}
        ends = ", ".join(f"{name} {curve.expected[-1]:.0f}" for name, curve in found.items())
        marked = sorted({0, len(sizes) // 4, len(sizes) // 2, 3 * len(sizes) // 4, len(sizes) - 1})
        rows = tuple(
            (
                f"{sizes[i]:,} samples",
                *(f"{c.expected[i]:.0f} ({c.low[i]:.0f}–{c.high[i]:.0f})" for c in found.values()),
            )
            for i in marked
        )
        svg = drawing.curves(
            lines, label="samples drawn", height="number of distinct ones", styles=_styles(record)
        )
        charts.append(
            Chart(f"rarefaction-{kind}", title, f"Of all samples: {ends}.", svg, ("", *found), rows)
        )
    return Section(
        "rarefaction",
        "Rarefaction",
        "How many distinct things a part of the samples holds, with 95 % bands. A curve that flattens has "
        "little more to give: the honest picture of a collapse.",
        charts,
        [],
    )


def _controls(record: ComparisonRecord, definitions: Definitions) -> Section:
    everything = {p.name: p for p in (*record.policies, *record.controls)}
    shown = [definitions[k] for k in CONTROLLED if k in definitions and definitions[k].unit == "%"]
    series = {
        name: [scaled(policy.figures.get(d.key), 100) for d in shown] for name, policy in everything.items()
    }
    text = "; ".join(
        f"{d.title}: " + ", ".join(f"{name} {values[i][0]:.1f} %" for name, values in series.items())
        for i, d in enumerate(shown)
    )
    chart = Chart(
        "controls",
        "Controls beside the policies",
        "What the baseline reaches without fine-tuning: sampled hotter, or the best of many by the reward.",
        drawing.bars([d.title for d in shown], series, label="% of those requested (line: 95 % interval)"),
        alternative=f"{text}.",
    )
    described = tuple(
        Row(
            c.name,
            (
                (
                    f"hotter: temperature {c.temperature:g}"
                    if c.kind == "hotter"
                    else f"{c.kind} for {c.of}",
                    "",
                ),
                (f"{c.reward_calls:,.0f}", ""),
                (f"{c.equal_reward_calls:,.0f}" if c.equal_reward_calls else "–", ""),
            ),
        )
        for c in record.controls
    )
    pairs = {f"{name} − {c.name}": found for c in record.controls for name, found in c.against.items()}
    over = tuple(
        Row(
            definitions[key].title,
            tuple(change_cells(definitions[key], found.figures.get(key))[0] for found in pairs.values()),
            key,
            points_of(definitions[key]),
        )
        for key in CONTROLLED
        if key in definitions
    )
    return Section(
        "controls",
        "Controls",
        "Would anything simpler have done as well?",
        [chart],
        [Table("What fine-tuning has over each control (difference, 95 % interval)", tuple(pairs), over)],
        aside=Table("The controls", ("how", "reward calls", "equal would be"), described),
    )


def _cost(record: ComparisonRecord, definitions: Definitions) -> Section:
    costs = record.cost
    rows = [
        Row("reward calls", tuple((f"{c.reward_calls:,.0f}", "") for c in costs.values())),
        Row("hours", tuple((f"{c.hours:.2f}", "") for c in costs.values())),
        Row("processor hours, at most", tuple((f"{c.processor_hours:.2f}", "") for c in costs.values())),
    ]
    per = {
        "per 1,000 reward calls": [c.per_1000_reward_calls for c in costs.values()],
        "per processor hour": [c.per_processor_hour for c in costs.values()],
    }
    for what, found in per.items():
        for key in dict.fromkeys(key for gains in found for key in gains):
            if key in definitions:
                cells = tuple(signed(definitions[key], gains.get(key)) for gains in found)
                title = f"gain in {definitions[key].title} {what}"
                rows.append(Row(title, cells, key, points_of(definitions[key])))
    gains = [scaled(c.per_1000_reward_calls.get("sun"), 100) for c in costs.values()]
    told = ", ".join(f"{name} {value:+.2f}" for name, (value, _, _) in zip(costs, gains, strict=True))
    chart = Chart(
        "cost",
        "Gain in S.U.N. for its cost",
        f"Percentage points of S.U.N. gained per 1,000 reward calls: {told}. Few calls gain more each.",
        drawing.bars(
            list(costs), {"gain": gains}, label="points per 1,000 reward calls (line: 95 %)", digits=2
        ),
    )
    return Section(
        "cost",
        "Cost",
        "A reward call is one structure scored in training or selection; the hours are those of the run.",
        [chart],
        [Table("Cost, and the gain for it", tuple(costs), tuple(rows))],
    )


def _found(record: ComparisonRecord) -> Section:
    charts = []
    for kind, title in FOUND.items():
        counts = {name: getattr(found, kind) for name, found in record.found.items()}
        lines = {name: drawing.Line(found.reward_calls, counts[name]) for name, found in record.found.items()}
        ends = ", ".join(f"{name} {values[-1]:,.0f}" for name, values in counts.items())
        rows = tuple(
            (f"{name}, {found.reward_calls[place]:,} calls", f"{counts[name][place]:,.0f}")
            for name, found in record.found.items()
            for place in quarters(len(found.reward_calls))
        )
        svg = drawing.curves(
            lines, label="reward calls", height="number of distinct ones", styles=_styles(record)
        )
        charts.append(Chart(f"found-{kind}", title, f"In the end: {ends}.", svg, ("", title), rows))
    return Section(
        "found",
        "Found with the reward calls",
        "Distinct ones among all samples that a run has paid for, as its own reward saw them: what counts if "
        "you want the crystals, not the policy.",
        charts,
        [],
    )


def _trajectory(record: ComparisonRecord, definitions: Definitions) -> Section:
    charts = []
    names = _distinct_names([t.name for t in record.trajectory])
    of_policy = _styles(record)
    styles = {name: of_policy.get(t.name, 0) for name, t in zip(names, record.trajectory, strict=True)}
    for key in FOLLOWED:
        if key not in definitions:
            continue
        definition = definitions[key]
        scale = 100.0 if definition.unit == "%" else 1.0
        lines, last = {}, []
        for name, trajectory in zip(names, record.trajectory, strict=True):
            values = [scaled(point.figures.get(key), scale) for point in trajectory.points]
            steps = [point.step for point in trajectory.points]
            band = all(not math.isnan(low) for _, low, _ in values)
            ends = ([v[1] for v in values], [v[2] for v in values]) if band else ((), ())
            lines[name] = drawing.Line(steps, [v[0] for v in values], *ends)
            ends_told = (
                format_value(definition, figure_of(point.figures.get(key)).value)
                for point in (trajectory.points[0], trajectory.points[-1])
            )
            last.append(f"{name} {' → '.join(ends_told)}")
        unit = f", {definition.unit}" if definition.unit in ("%", "bits") else ""
        rows = tuple(
            (f"{name}, step {point.step}", cell(definition, figure_of(point.figures.get(key)))[0])
            for name, trajectory in zip(names, record.trajectory, strict=True)
            for point in trajectory.points
        )
        svg = drawing.curves(
            lines, label="training step", height=f"{definition.title}{unit}", marks=True, styles=styles
        )
        text = f"{definition.title}{unit}, from the baseline to the last step: {'; '.join(last)}."
        charts.append(Chart(f"trajectory-{key}", definition.title, text, svg, ("", definition.title), rows))
    few = ", ".join(sorted({f"{t.n:,}" for t in record.trajectory}))
    return Section(
        "trajectory",
        "Trajectory",
        f"Every checkpoint of the runs, not the best one; {few} structures requested from each.",
        charts,
        [],
    )


def _distinct_names(names: Sequence[str]) -> list[str]:
    """Names, numbered where they repeat: the runs of one recipe."""
    return [
        f"{name}, run {names[: i + 1].count(name)}" if names.count(name) > 1 else name
        for i, name in enumerate(names)
    ]
