"""What a page says, whatever it is about: the template shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from materium_rl.evaluation.definitions import Definition
from materium_rl.evaluation.report.charts import Chart
from materium_rl.evaluation.report.findings import Findings
from materium_rl.evaluation.report.tables import Row, Table


@dataclass(frozen=True, slots=True)
class Section:
    """A section of the page.

    Args:
        key: Name of its anchor.
        title: Heading.
        text: A sentence or two.
        charts: Side by side.
        tables: Below them.
        aside: Beside them.
        terms: Words and what they mean, beside the charts.
        name: In the list of sections; the heading by default.
    """

    key: str
    title: str
    text: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    aside: Table | None = None
    terms: Mapping[str, str] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """A page.

    Args:
        title: Heading of the page.
        lead: What was done, in a sentence.
        verdicts: Of whom -> what is found, in words.
        label: Who judges: ``optimised proxy`` or ``independent``.
        caveat: What that means.
        names: What is compared, the baseline first; each has its colour.
        cards: Main figures, one cell for each name and for two names one with the ratio.
        before: Sections above the discoveries.
        findings: The discoveries.
        after: Sections below them.
        settings: Name -> value as text.
        config: Configuration of the command as text; empty where it is not known.
        definitions: Anchor -> what a figure is.
        version: Of the program that made the numbers.
        files: Which files hold all samples.
    """

    title: str
    lead: str
    verdicts: Mapping[str, str]
    label: str
    caveat: str
    names: Sequence[str]
    cards: Sequence[Row]
    before: Sequence[Section]
    findings: Findings
    after: Sequence[Section]
    settings: Mapping[str, str]
    config: str
    definitions: Mapping[str, Definition]
    version: str
    files: str

    @property
    def contents(self) -> dict[str, str]:
        """Anchor of each section -> its name."""
        of = {s.key: s.name or s.title for s in self.before}
        of |= {"discoveries": "Discoveries"} | {s.key: s.name or s.title for s in self.after}
        return {"verdict": "Verdict"} | of | {"settings": "Settings", "definitions": "Definitions"}
