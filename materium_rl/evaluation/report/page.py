"""``report.html``: one page that opens from disk and asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from materium_rl.errors import ConfigError
from materium_rl.evaluation.report.content import Content
from materium_rl.evaluation.report.findings import COLUMNS, Finding, Findings, atom_styles, pack
from materium_rl.evaluation.report.of_comparison import comparison_content
from materium_rl.evaluation.report.of_evaluation import evaluation_content
from materium_rl.evaluation.report.wording import formula_markup
from materium_rl.files import atomic_path
from materium_rl.resources import asset_path
from materium_rl.runs import COMPARISON, EVALUATION

REPORT = "report.html"
VIEWER, VIEWER_LICENCE = "viewer/3Dmol-min.js", "viewer/LICENSE.txt"
TEMPLATES = Path(__file__).parent / "templates"
NUMERIC = ("rank", "n_sites", "e_above_hull", "band_gap", "density", "reward", "times")
DIGITS = {"e_above_hull": 3, "band_gap": 2, "density": 2, "distance": 3, "reward": 3}
CHOICES = ("tier", "policy")


def write_report(folder: Path) -> Path:
    """Render the report of a finished comparison or evaluation into its folder; an older one is replaced.

    Returns:
        The file.

    Raises:
        ConfigError: The folder holds neither, or one of another layout.
        StructureFileError: None of its tables of samples can be read.
    """
    readers = {COMPARISON: comparison_content, EVALUATION: evaluation_content}
    reader = next((read for name, read in readers.items() if (folder / name).is_file()), None)
    if reader is None:
        raise ConfigError(
            f"{folder} holds no {COMPARISON} and no {EVALUATION}; expected a folder that materium-rl compare "
            "or evaluate has finished"
        )
    page = render(reader(folder))
    with atomic_path(folder / REPORT) as path:
        path.write_text(page, encoding="utf-8")
    return folder / REPORT


def render(content: Content) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["formula"] = formula_markup
    findings = content.findings
    viewer = asset_path(VIEWER).read_text(encoding="utf-8")
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    return environment.get_template("report.html").render(
        page=content,
        findings=findings,
        columns={key: COLUMNS[key] for key in findings.columns},
        numeric=NUMERIC,
        choices={key: _choices(findings, key) for key in CHOICES if key in findings.columns},
        shown=_shown,
        structures=[pack(f.structure) for f in findings.shown],
        atoms=atom_styles(f.structure for f in findings.shown),
        facts=[_facts(f) for f in findings.shown],
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        viewer=viewer,
        script=script,
        hashes=" ".join(_sha256(text) for text in (viewer, script)),
        licence=asset_path(VIEWER_LICENCE).read_text(encoding="utf-8"),
    )


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
