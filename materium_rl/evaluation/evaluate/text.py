"""The report of an evaluation, as Markdown and in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from materium_rl.evaluation.definitions import (
    DEFINITIONS,
    FUNNEL,
    HONESTY,
    PARSED_TOO,
    STABLE_BELOW,
    Definition,
)
from materium_rl.evaluation.evaluate.judgements import ON_HULL
from materium_rl.evaluation.evaluate.record import (
    AgreementRecord,
    Estimate,
    EvaluationRecord,
    JudgeRecord,
    NoveltyRecord,
)
from materium_rl.evaluation.metrics import Figure
from materium_rl.evaluation.novelty.ladder import LEVELS
from materium_rl.evaluation.table import format_figure

OTHERS = (
    Definition(
        "charge_neutral",
        "charge neutral",
        "%",
        "valid, and the usual oxidation states can add up to zero; alloys and elements count as neutral",
    ),
)
"""Figures of ``evaluate`` that ``compare`` has not."""
BY_JUDGE = (
    Definition("stable", f"stable ({ON_HULL:g})", "%", "valid; on the hull or below it"),
    Definition(
        "metastable",
        f"metastable ({STABLE_BELOW:g})",
        "%",
        f"valid; below {STABLE_BELOW} eV/atom",
    ),
    Definition("sun", "S.U.N.", "%", "stable, unique and novel by formula; of equal ones the first counts"),
    Definition("msun", "meta-S.U.N.", "%", "metastable, unique and novel by formula"),
    Definition("sun_structure", "S.U.N. by structure", "%", "S.U.N. with novel by structure"),
    Definition("msun_structure", "meta-S.U.N. by structure", "%", "meta-S.U.N. with novel by structure"),
)
_BY_KEY = {d.key: d for d in (*DEFINITIONS, *OTHERS)}
FUNNEL_ROWS = ("parsed", "valid", "charge_neutral", "failed", "unique", "novel", "novel_structure")
DESCRIBING = tuple(d for d in (*HONESTY, *PARSED_TOO))


def report(record: EvaluationRecord, files: Sequence[str]) -> str:
    """The whole report as Markdown."""
    lines = [f"# Evaluation of `{record.source.name}`", "", f"**{record.headline}**", "", caveat(record), ""]
    lines += _funnel(record) + _judges(record) + _agreement(record) + _relaxation(record) + _novelty(record)
    lines += _describing(record) + _targets(record) + _properties(record) + _reference(record)
    lines += _not_read(record) + _settings(record) + _definitions() + ["## Files", ""]
    return "\n".join([*lines, *(f"- `{file}`" for file in files)]) + "\n"


def print_summary(record: EvaluationRecord, console: Console) -> None:
    """The funnel, the judges, and the headline."""
    console.print()
    for rows in (_funnel_rows(record), _judge_rows(record)):
        table = Table(box=None, pad_edge=False, header_style="")
        for column, title in enumerate(rows[0]):
            table.add_column(title, justify="right" if column else "left", max_width=28 if column else None)
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
        console.print()
    console.print(record.headline, style="bold", soft_wrap=True, markup=False)
    console.print(caveat(record), soft_wrap=True, markup=False)


def caveat(record: EvaluationRecord) -> str:
    """Who judges, and what that is worth."""
    panel = record.panel
    own = ", ".join(panel.reward_potentials)
    gap = f"Band gaps: {panel.band_gap}."
    if panel.label == "independent":
        return (
            f"Stability is judged by {panel.evaluator}, which the reward ({own}) did not use; what {own} "
            f"says is an optimised proxy. {gap}"
        )
    return (
        f"Every figure here is an optimised proxy: {panel.reason}. If the structures were optimised against "
        f"{own}, a part of what they reach may be its blind spots. {gap}"
    )


def cell(definition: Definition, estimate: Estimate) -> str:
    """A figure with its interval."""
    numbers = [math.nan if v is None else v for v in (estimate.value, estimate.low, estimate.high)]
    return format_figure(definition, Figure(*numbers))


def headline(record_source: str, requested: int, judge: JudgeRecord, valid: Estimate) -> str:
    """One line: what was evaluated, how much is valid, how much S.U.N. and by whom."""
    shown = [cell(_of(key), judge.figures[key]) for key in ("msun", "sun")]
    return (
        f"{record_source}: of {requested:,} requested {cell(_BY_KEY['valid'], valid)} % valid, "
        f"{shown[0]} % meta-S.U.N. and {shown[1]} % S.U.N. by {judge.title}: {judge.label}"
    )


def _of(key: str) -> Definition:
    return next(d for d in BY_JUDGE if d.key == key)


def _funnel_rows(record: EvaluationRecord) -> list[list[str]]:
    rows = [[f"of {record.source.requested:,} requested", "%"]]
    return rows + [[_BY_KEY[k].title, cell(_BY_KEY[k], record.figures[k])] for k in FUNNEL_ROWS]


def _funnel(record: EvaluationRecord) -> list[str]:
    return ["## Funnel", "", *_markdown(_funnel_rows(record)), ""]


def _judge_rows(record: EvaluationRecord) -> list[list[str]]:
    judges = list(record.judges.values())
    rows = [["% of requested", *(f"{j.title}: {j.label}" for j in judges)]]
    rows += [[d.title, *(cell(d, j.figures[d.key]) for j in judges)] for d in BY_JUDGE]
    rows.append(["structures measured", *(f"{j.measured:,}" for j in judges)])
    rows.append(["valid, but it failed", *(f"{j.failed:,}" for j in judges)])
    if any(j.left for j in judges):
        rows.append(["valid, but not relaxed", *(f"{j.left:,}" for j in judges)])
    return rows


def _judges(record: EvaluationRecord) -> list[str]:
    return ["## Stable, unique and novel, by who judges", "", *_markdown(_judge_rows(record)), ""]


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; its first row is the header, its first column is text."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|---|{'--:|' * (len(rows[0]) - 1)}", *lines[1:]]


def _agreement(record: EvaluationRecord) -> list[str]:
    lines = ["## Do the judges agree", ""]
    if not record.agreement:
        return [
            *lines,
            f"There is no second judge to compare with: {record.panel.reason}.",
            "",
        ]
    for title, found in record.agreement.items():
        lines += [f"**{title.replace('_', ' ')}**: {_agrees(found)}", ""]
    return lines


def _agrees(found: AgreementRecord) -> str:
    middle, size = found.median_difference, found.mean_absolute_difference
    text = (
        f"{found.second} against {found.first} on {found.n:,} structures: median difference "
        f"{middle.value:+.3f} ({middle.low:+.3f}..{middle.high:+.3f}) {found.unit}, mean absolute difference "
        f"{size.value:.3f} {found.unit}"
    )
    share = Definition("", "", "%", "")
    for title, estimate in found.agree.items():
        text += f"; same verdict on *{title}* for {cell(share, estimate)} %"
        text += f", of those the first says yes to {cell(share, found.confirmed[title])} % confirmed"
    return f"{text}."


def _relaxation(record: EvaluationRecord) -> list[str]:
    r = record.relaxation
    if r is None:
        return ["## Relaxation", "", "Nothing was relaxed (`--relax STEPS` does).", ""]
    lines = ["## Relaxation", ""]
    lines.append(
        f"{r.relaxed:,} distinct valid structures relaxed in {r.seconds:.0f} s "
        f"({r.seconds / max(1, r.relaxed):.2f} s each): {r.converged:,} converged, {r.broke_off:,} became "
        f"unphysical, {r.failed:,} failed. Not relaxed, and so not counted as stable after relaxation: "
        f"{r.not_relaxed:,}."
    )
    if r.rmsd_quantiles:
        q = [f"{value:.3f}" for value in r.rmsd_quantiles]
        lines += [
            "",
            f"Distance moved (RMSD): median {q[2]} Å, half of them {q[1]} to {q[3]}, 95 % below {q[4]}.",
        ]
    return [*lines, ""]


def _novelty(record: EvaluationRecord) -> list[str]:
    lines = ["## Novelty ladder", ""]
    titles = {level.key: f"new by {level.title}" for level in LEVELS}
    titles |= {"not_substitution": "no substitution", "far": "far from all known"}
    lines += _shares(record.novelty, "new, % of requested", titles)
    lines += ["", "Each structure on one tier, counted by the nearest relative:", ""]
    return [*lines, *_shares(record.tiers, "% of requested", {}), ""]


def _shares(shares: Sequence[NoveltyRecord], corner: str, titles: Mapping[str, str]) -> list[str]:
    """A table with a row for each level and a column for each reference and stage."""
    columns = list(dict.fromkeys((s.reference, s.stage) for s in shares))
    found = {(s.reference, s.stage, s.level): s for s in shares}
    names = " | ".join(f"{text(reference)}, {text(stage)}" for reference, stage in columns)
    lines = [f"| {corner} | {names} |", f"|---|{'--:|' * len(columns)}"]
    told = {(s.reference, s.stage): s for s in shares}
    judged = [f"{100 * told[c].told / told[c].requested:.1f}" for c in columns]
    lines.append(f"| could be judged | {' | '.join(judged)} |")
    for level in dict.fromkeys(s.level for s in shares):
        cells = [found.get((*column, level)) for column in columns]
        shown = ["-" if s is None else f"{100 * s.count / s.requested:.1f}" for s in cells]
        lines.append(f"| {titles.get(level, text(level))} | {' | '.join(shown)} |")
    return lines


def text(name: str) -> str:
    """A name of a column in words."""
    return name.replace("_", " ")


def _describing(record: EvaluationRecord) -> list[str]:
    lines = ["## What they are made of", ""]
    lines += [
        f"S.U.N. in this table: below {STABLE_BELOW} eV/atom by {record.judges['reward'].title}.",
        "",
        "| | |",
        "|---|--:|",
    ]
    for d in DESCRIBING:
        unit = f", {d.unit}" if d.unit in ("%", "bits") else ""
        lines.append(f"| {d.title}{unit} | {cell(d, record.figures[d.key])} |")
    return [*lines, ""]


def _targets(record: EvaluationRecord) -> list[str]:
    share = Definition("", "", "%", "")
    lines = [
        "## On target",
        "",
        "| property | wanted | hits, % | of the metastable, % | meta-S.U.N. and hit, % |",
    ]
    lines.append("|---|---|--:|--:|--:|")
    for t in record.targets:
        cells = [cell(share, e) for e in (t.hits, t.hits_of_metastable, t.sun_hits)]
        lines.append(f"| {t.property} | {t.wanted} | {' | '.join(cells)} |")
    return [*lines, ""]


def _properties(record: EvaluationRecord) -> list[str]:
    lines = [
        "## Properties of the valid structures",
        "",
        "| | measured | mean | 5 % | 25 % | 50 % | 75 % | 95 % |",
    ]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, h in record.properties.items():
        numbers = " | ".join(f"{value:.3g}" for value in (h.mean, *h.quantiles))
        unit = f", {h.unit}" if h.unit else ""
        lines.append(f"| {name.replace('_', ' ')}{unit} | {h.measured:,} | {numbers} |")
    return [*lines, "", "Histograms are in `evaluation.json`.", ""]


def _reference(record: EvaluationRecord) -> list[str]:
    lines = ["## Distance from the reference", ""]
    left_out = f"; {len(record.reference.left_out)} left out" if record.reference.left_out else ""
    lines.append(f"{record.reference.title}: {record.reference.structures:,} structures{left_out}.")
    if record.distances:
        lines += [
            "",
            "| | distance (95 % interval) | by chance, median and 97.5 % | unit |",
            "|---|--:|--:|---|",
        ]
        for name, d in record.distances.items():
            numbers = f"{d.value:.3f} ({d.low:.3f}-{d.high:.3f}) | {d.chance:.3f}, {d.chance_high:.3f}"
            lines.append(f"| {name.replace('_', ' ')} | {numbers} | {d.unit} |")
    lines += ["", "| met by the samples | of the reference | % |", "|---|--:|--:|"]
    for name, c in record.coverage.items():
        share = "-" if c.share is None else f"{100 * c.share:.2f}"
        lines.append(f"| {name} | {c.met:,} of {c.known:,} | {share} |")
    return [*lines, ""]


def _not_read(record: EvaluationRecord) -> list[str]:
    if not record.not_read:
        return []
    lines = ["## Not read", ""]
    lines += [f"- {place}: {reason}" for place, reason in list(record.not_read.items())[:20]]
    more = len(record.not_read) - 20
    return [*lines, *([f"- and {more:,} more, in `evaluation.json`"] if more > 0 else []), ""]


def _settings(record: EvaluationRecord) -> list[str]:
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in record.seconds.items())
    lines = ["## Settings", "", *(f"- {key}: `{value}`" for key, value in record.settings.items())]
    return [*lines, f"- seconds: {seconds}", ""]


def _definitions() -> list[str]:
    shown = [*(_BY_KEY[k] for k in FUNNEL_ROWS), *BY_JUDGE, *DESCRIBING]
    return ["## Definitions", "", *(f"- **{d.title}**: {d.text}." for d in shown), ""]


ALL_DEFINITIONS = (*FUNNEL, *OTHERS, *BY_JUDGE, *HONESTY, *PARSED_TOO)
