"""``materium-rl evaluate``: what structures of any origin are worth, who says so, and why."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console

from materium_rl.cif import parse_cif
from materium_rl.config import EvaluateConfig
from materium_rl.evaluation.evaluate import judges
from materium_rl.evaluation.evaluate.inputs import Source, read_source
from materium_rl.evaluation.evaluate.judgements import CHARGE, add_reasons, energies, judges_of
from materium_rl.evaluation.evaluate.novel import add_novelty, open_references, population_reference
from materium_rl.evaluation.evaluate.properties import Target, monitors, values_of
from materium_rl.evaluation.evaluate.record import EvaluationRecord
from materium_rl.evaluation.evaluate.summary import Judged, record_of
from materium_rl.evaluation.evaluate.text import print_summary, report
from materium_rl.evaluation.report.page import REPORT as PAGE
from materium_rl.evaluation.report.page import write_report
from materium_rl.evaluation.scored import make_scorer, score_structures
from materium_rl.evaluation.table import make_console
from materium_rl.files import atomic_path
from materium_rl.rewards.execution.progress import scoring_bar
from materium_rl.runs import EVALUATED, EVALUATION

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

REPORT = "report.md"


def evaluate(config: EvaluateConfig) -> Path:
    """Sample or read structures, judge them, and write ``evaluation.json``, ``report.md`` and a table.

    The folder takes its name only when it is complete.

    Returns:
        The output folder.

    Raises:
        ConfigError: A wrong source, option or reward; nothing has been written then.
        StructureFileError: The source or the reference cannot be read.
        RewardError: A potential is missing, or too many structures could not be measured.
    """
    console = make_console()
    judged = judge(config, console)
    record = record_of(judged, config)
    _write(config.out, record, judged.frame)
    print_summary(record, console)
    console.print()
    for file in (PAGE, REPORT, EVALUATION, EVALUATED):
        console.print(str(config.out / file), soft_wrap=True, markup=False)
    return config.out


def judge(config: EvaluateConfig, console: Console) -> Judged:
    """Do all that takes time: sample or read, score, ask the second judge, relax, compare with the known."""
    panel = judges.choose(config.evaluator, config.reward)
    judges.load(panel)
    wanted = [Target.parse(text) for text in config.targets]
    scorer, gap = make_scorer(config.reward, [CHARGE, *monitors(wanted)])
    references = open_references(config.source, config.reference)
    source = read_source(config)
    seconds = {"sampling" if source.kind == "policy" else "reading": source.seconds}
    console.print(f"{source.name}: {source.requested:,} structures requested, scoring them ...", markup=False)
    with _timed(seconds, "scoring"), scorer, scoring_bar(console, "scoring") as progress:
        structures, frame = score_structures(
            source.structures, source.requested, scorer, gap=gap, progress=progress
        )
    frame = _with_source(frame, source, structures)
    with _timed(seconds, "second opinion"), scoring_bar(console, "second opinion") as progress:
        frame = judges.second_opinion(frame, structures, panel, gap, config.reward, progress)
    relaxed = None
    if config.evaluator.relax:
        console.print(f"relaxing by {config.evaluator.relaxer or panel.potential} ...", markup=False)
        with _timed(seconds, "relaxing"), scoring_bar(console, "relaxing") as progress:
            frame = judges.relax(frame, structures, panel, config.reward, progress)
        relaxed = [parse_cif(text)[0] if isinstance(text, str) else None for text in frame["relaxed.cif"]]
    valid = [s if ok else None for s, ok in zip(structures, frame["valid"], strict=True)]
    with _timed(seconds, "novelty"):
        frame, ladder = add_novelty(frame, valid, relaxed, references)
    targets = [Target("band_gap", gap.target - gap.width, gap.target + gap.width), *wanted]
    frame = _with_targets(frame, targets)
    return Judged(
        source=source,
        structures=valid,
        frame=add_reasons(frame, panel, targets, source.places),
        panel=panel,
        gap=gap,
        targets=targets,
        reference=population_reference(references),
        novelty=ladder.summary(),
        tiers=ladder.tiers(),
        seconds=seconds,
    )


def _with_source(frame: pd.DataFrame, source: Source, structures: Sequence[Structure | None]) -> pd.DataFrame:
    """Put where each structure comes from, and what its file says of it, into columns of its own."""
    import pandas as pd

    missing = len(frame) - len(source.places)
    columns = {"source": [*source.places, *["not in the files"] * missing]}
    told = pd.DataFrame([*source.properties, *[{}] * missing], index=frame.index).add_prefix("source.")
    per_atom = [np.nan if s is None else s.volume / max(1, len(s)) for s in structures]
    neutral = (frame[f"{CHARGE}.value"] == 0) & frame["valid"]
    frame = frame.assign(**columns, volume_per_atom=per_atom, charge_neutral=neutral)
    return pd.concat([frame, told.drop(columns="source.cif", errors="ignore")], axis=1)


def _with_targets(frame: pd.DataFrame, targets: Sequence[Target]) -> pd.DataFrame:
    """Add the energy that counts, and which structures are as wanted."""
    last = judges_of(frame)[-1]
    frame = frame.assign(**{"best.e_above_hull": energies(frame, last)})
    valid = frame["valid"].to_numpy()
    return frame.assign(**{f"target.{t.name}": valid & t.hit(values_of(frame, t.name)) for t in targets})


def _write(out: Path, record: EvaluationRecord, frame: pd.DataFrame) -> None:
    with atomic_path(out) as folder:
        folder.mkdir()
        text = json.dumps(record.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
        (folder / EVALUATION).write_text(text + "\n", encoding="utf-8")
        (folder / REPORT).write_text(report(record, (PAGE, EVALUATION, EVALUATED)), encoding="utf-8")
        frame.to_parquet(folder / EVALUATED, index=False)
        write_report(folder)


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    seconds[part] = time.monotonic() - start
