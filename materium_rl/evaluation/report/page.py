"""``report.html``: one page that opens from disk and asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from materium_rl.errors import ConfigError
from materium_rl.evaluation.evaluate import CAVEAT, HELD_OUT_GAP, LABEL
from materium_rl.evaluation.metrics import Definition, Figure
from materium_rl.evaluation.report import changes, charts, distributions
from materium_rl.evaluation.report.findings import COLUMNS, Finding, Findings, atom_styles, find_best, pack
from materium_rl.evaluation.report.record import ComparisonRecord, read_comparison
from materium_rl.evaluation.report.tables import Row, Table, cell
from materium_rl.evaluation.report.wording import REASONS, TIERS, formula_markup
from materium_rl.evaluation.sources import read_samples
from materium_rl.evaluation.table import SECTIONS, TERMINAL_SECTIONS, format_ratio
from materium_rl.files import atomic_path
from materium_rl.resources import asset_path

if TYPE_CHECKING:
    import pandas as pd

REPORT = "report.html"
VIEWER, VIEWER_LICENCE = "viewer/3Dmol-min.js", "viewer/LICENSE.txt"
TEMPLATES = Path(__file__).parent / "templates"
OPEN = tuple(SECTIONS)[:TERMINAL_SECTIONS]
HEADLINE = ("sun", "sun_prototypes", "on_target_of_stable", "top5")
NUMERIC = ("rank", "n_sites", "e_above_hull", "band_gap", "density", "reward", "times")
DIGITS = {"e_above_hull": 3, "band_gap": 2, "density": 2, "distance": 3, "reward": 3}
CHOICES = ("tier", "policy")


def write_report(folder: Path) -> Path:
    """Render the report of a finished comparison into its folder; an older one is replaced.

    Returns:
        The file.

    Raises:
        ConfigError: The folder holds no comparison, or one of another layout.
        StructureFileError: None of its tables of samples can be read.
    """
    record = read_comparison(folder)
    samples = read_samples(folder)
    if missing := [p.samples for p in record.policies if p.name not in set(samples.frame["policy"])]:
        raise ConfigError(f"{folder} is not complete: {', '.join(missing)} is missing or empty")
    frames = {p.name: samples.frame[samples.frame["policy"] == p.name] for p in record.policies}
    page = render(record, frames, find_best(samples))
    with atomic_path(folder / REPORT) as path:
        path.write_text(page, encoding="utf-8")
    return folder / REPORT


def render(record: ComparisonRecord, frames: Mapping[str, pd.DataFrame], findings: Findings) -> str:
    """The page as text.

    Args:
        record: The comparison.
        frames: Name of each policy -> its samples, in the order of the record.
        findings: Its best discoveries.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["formula"] = formula_markup
    viewer = asset_path(VIEWER).read_text(encoding="utf-8")
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html").render(
        record=record,
        title=_title(record),
        contents=_contents(record),
        caveat=_caveat(record),
        tables=_tables(record),
        sections=changes.sections(record, _definitions(record)),
        headline=_headline(record),
        charts=_charts(record, frames),
        findings=findings,
        columns={key: COLUMNS[key] for key in findings.columns},
        numeric=NUMERIC,
        choices={key: _choices(findings, key) for key in CHOICES if key in findings.columns},
        shown=_shown,
        structures=[pack(f.structure) for f in findings.shown],
        atoms=atom_styles(f.structure for f in findings.shown),
        facts=[_facts(f) for f in findings.shown],
        rungs={TIERS[tier]: REASONS[tier] for tier in REASONS},
        config=json.dumps(record.config, indent=2, ensure_ascii=False),
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        viewer=viewer,
        script=script,
        hashes=" ".join(_sha256(text) for text in (viewer, script)),
        licence=asset_path(VIEWER_LICENCE).read_text(encoding="utf-8"),
    )


def _title(record: ComparisonRecord) -> str:
    return f"Comparison of {' and '.join(p.name for p in record.policies)}"


def _contents(record: ComparisonRecord) -> dict[str, str]:
    """Anchor of each section -> its name."""
    given = {
        "differences": record.differences,
        "rarefaction": record.rarefaction,
        "controls": record.controls,
        "cost": record.cost,
        "trajectory": record.trajectory,
    }
    first = {"verdict": "Verdict", "funnel": "Funnel", "variety": "Make-up", "novelty": "Ladder"}
    last = ("discoveries", "distributions", "settings", "definitions")
    return first | {key: key.capitalize() for key in (*(k for k, found in given.items() if found), *last)}


def _caveat(record: ComparisonRecord) -> str:
    """What the label means."""
    lines = [CAVEAT.removeprefix(f"{LABEL}: ")]
    if record.settings.get("band_gap_members") == "evaluation":
        lines.append(HELD_OUT_GAP)
    text = " ".join(lines)
    return text[0].upper() + text[1:]


def _facts(finding: Finding) -> dict[str, Any]:
    """What the 3D view tells of a structure: name -> text, and a line for those who cannot see it."""
    values = finding.values
    shown = {
        f"{name}, {unit}" if unit else name: _shown(key, values[key])
        for key, (name, unit) in COLUMNS.items()
        if key not in ("formula", "nearest", "reason") and values[key] is not None
    }
    if values["nearest"] is not None:
        parts = (
            values["nearest"],
            values["nearest_id"],
            f"distance {_shown('distance', values['distance'])}",
        )
        shown["Nearest known"] = ", ".join(part for part in parts if part)
    if values["prototype"] is not None:
        shown["Prototype"] = values["prototype"]
    if values["reason"] is not None:
        shown["Why it counts as new"] = values["reason"]
    shown["Sample"] = f"{values['sample']} of {values['best_policy']}"
    text = (
        f"{values['space_group'] or 'space group unknown'}, {values['n_sites']} sites in the primitive cell"
    )
    return {"rank": finding.rank, "formula": values["formula"], "list": list(shown.items()), "text": text}


def _sha256(script: str) -> str:
    """How a content security policy names a script that may run."""
    digest = hashlib.sha256(script.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _definitions(record: ComparisonRecord) -> dict[str, Definition]:
    return {d.key: d.definition() for d in record.definitions}


def _tables(record: ComparisonRecord) -> list[Table]:
    """The tables of figures, that of the funnel first."""
    definitions, policies = _definitions(record), record.figures()
    named = {d.key for part in SECTIONS.values() for d in part}
    parts = {
        title: [definitions[d.key] for d in part if d.key in definitions] for title, part in SECTIONS.items()
    }
    parts["Others"] = [d for key, d in definitions.items() if key not in named]
    columns = (*policies, "after / before") if len(policies) == 2 else tuple(policies)
    return [
        Table(title, columns, tuple(_row(d, list(policies.values())) for d in part), folded=title not in OPEN)
        for title, part in parts.items()
        if part
    ]


def _row(definition: Definition, policies: Sequence[Mapping[str, Figure]]) -> Row:
    found = [figures.get(definition.key, Figure(math.nan)) for figures in policies]
    cells = [cell(definition, figure) for figure in found]
    if len(found) == 2:
        cells.append((format_ratio(*found), ""))
    return Row(definition.title, tuple(cells), definition.key, _unit(definition))


def _unit(definition: Definition) -> str:
    return definition.unit if definition.unit in ("%", "bits") else ""


def _headline(record: ComparisonRecord) -> list[Row]:
    definitions, policies = _definitions(record), list(record.figures().values())
    return [_row(definitions[key], policies) for key in HEADLINE if key in definitions]


def _charts(record: ComparisonRecord, frames: Mapping[str, pd.DataFrame]) -> dict[str, list[charts.Chart]]:
    """Section of the page -> its charts."""
    policies, definitions = record.figures(), _definitions(record)
    found = {
        "funnel": [charts.funnel(policies, definitions)],
        "variety": [
            charts.variety(policies, definitions),
            charts.purchase(policies, definitions),
            changes.gain(record),
        ],
        "novelty": [distributions.tiers(frames)],
        "distributions": distributions.distributions(frames, record.settings),
    }
    return {section: [c for c in drawn if c is not None] for section, drawn in found.items()}


def _choices(findings: Findings, key: str) -> list[str]:
    """What a column with few different values can be filtered by."""
    values = [f.values[key] for f in findings.shown if f.values[key] is not None]
    return sorted({choice for value in values for choice in ([value] if isinstance(value, str) else value)})


def _shown(key: str, value: Any) -> str:
    """A value of the table of discoveries as text."""
    if value is None:
        return "–"
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:.{DIGITS[key]}f}" if key in DIGITS else str(value)
