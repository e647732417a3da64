"""What the other judges of a comparison say, beside the reward's own potential."""

from __future__ import annotations

from materium_rl.evaluation.comparison.record import ComparisonRecord, JudgesRecord
from materium_rl.evaluation.evaluate.judges import PROXY, REWARD
from materium_rl.evaluation.evaluate.text import BY_JUDGE
from materium_rl.evaluation.report import drawing
from materium_rl.evaluation.report.charts import Chart
from materium_rl.evaluation.report.content import Section
from materium_rl.evaluation.report.tables import Row, Table, cell, change_cells, figure_of, scaled


def judges_section(record: ComparisonRecord) -> list[Section]:
    """One section where a second judge has been asked; the last one is drawn."""
    panel = record.panel
    asked = [] if panel is None else [judge for judge in panel.titles if _has(record, judge)]
    if panel is None or not asked:
        return []
    last = asked[-1]
    series = {p.name: [scaled(p.judges[last].get(d.key), 100) for d in BY_JUDGE] for p in record.policies}
    told = "; ".join(
        f"{d.title}: " + ", ".join(f"{name} {values[i][0]:.1f} %" for name, values in series.items())
        for i, d in enumerate(BY_JUDGE)
    )
    chart = Chart(
        "judges",
        f"By {panel.titles[last]}",
        "Would another judge agree: the same samples, counted anew by its energies.",
        drawing.bars([d.title for d in BY_JUDGE], series, label="% of those requested (line: 95 % interval)"),
        alternative=f"{told}.",
    )
    tables = [_table(record, judge, label_of(panel, judge)) for judge in asked]
    return [Section("judges", "Judges", who_judges(panel), [chart], tables[:-1], aside=tables[-1])]


def who_judges(panel: JudgesRecord) -> str:
    """What the figures of the second judge are worth."""
    own = ", ".join(panel.reward_potentials)
    if panel.label == PROXY:
        return f"There is no independent judge of stability: {panel.reason}."
    return f"The second judge of stability is {panel.evaluator}, which the reward ({own}) did not use."


def label_of(panel: JudgesRecord, judge: str) -> str:
    """Whether a judge is independent; the reward's own potential is none where there is a second."""
    return PROXY if judge == REWARD and len(panel.titles) > 1 else panel.label


def _has(record: ComparisonRecord, judge: str) -> bool:
    return all(judge in p.judges for p in record.policies)


def _table(record: ComparisonRecord, judge: str, label: str) -> Table:
    assert record.panel is not None
    own = {p.name: record.differences[p.name] for p in record.policies if p.name in record.differences}
    rows = []
    for d in BY_JUDGE:
        cells = [cell(d, figure_of(p.judges[judge].get(d.key))) for p in record.policies]
        cells += [change_cells(d, found.judges.get(judge, {}).get(d.key))[0] for found in own.values()]
        rows.append(Row(d.title, tuple(cells), f"judge-{d.key}", "%"))
    columns = (*(p.name for p in record.policies), *(f"{name}, difference" for name in own))
    return Table(f"{record.panel.titles[judge]}: {label}", columns, tuple(rows))
