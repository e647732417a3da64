"""``materium-rl compare``: sample several policies alike and say what changed, and at what cost."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from materium_rl import __version__
from materium_rl.config import CompareConfig, RewardConfig
from materium_rl.errors import TokenizationError
from materium_rl.evaluation.metrics import (
    DEFINITIONS,
    GAP,
    NOVELTY,
    STABILITY,
    STABLE_BELOW,
    VALIDITY,
    Figure,
    add_verdicts,
    element_counts,
    figures,
    structure_groups,
)
from materium_rl.evaluation.plots import plot_comparison
from materium_rl.evaluation.table import (
    make_console,
    markdown_definitions,
    markdown_table,
    print_table,
    ratio,
    verdict,
)
from materium_rl.files import atomic_path
from materium_rl.policies.loading import Policy, load_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.resources import bundled_policies
from materium_rl.rewards import registry
from materium_rl.rewards.base import Invalid
from materium_rl.rewards.catalogue.bandgap import BandGap
from materium_rl.rewards.execution.batches import Progress
from materium_rl.rewards.execution.progress import scoring_bar
from materium_rl.rewards.expression import Term, format_expression, parse
from materium_rl.rewards.references import ReferenceIndex
from materium_rl.rewards.scoring import Scorer
from materium_rl.runs import COMPARISON

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

N_BOOT = 1000
LABEL = "optimised proxy"
CAVEAT = (
    f"{LABEL}: energies and novelty come from the models and references that the reward uses, so part of a "
    "gain may be their blind spots."
)
HELD_OUT_GAP = (
    "Band gaps come from the half of the ensemble that the reward does not use; it has the same architecture "
    "and training data."
)
PICTURE = "novelty_before_after.png"


@dataclass(frozen=True)
class Evaluation:
    """What one set of structures is worth.

    Args:
        frame: One row per structure requested: the score table, the columns of ``add_verdicts``, cif.
        figures: By key, see ``metrics.DEFINITIONS``.
        seconds: Time for scoring and grouping.
    """

    frame: pd.DataFrame
    figures: dict[str, Figure]
    seconds: float


@dataclass(frozen=True)
class Compared:
    """One policy of a comparison."""

    name: str
    policy: str
    evaluation: Evaluation
    sampling_seconds: float

    @property
    def samples_file(self) -> str:
        """Name of the file with its samples."""
        return f"samples_{self.name}.parquet"


def compare(config: CompareConfig) -> Path:
    """Sample each policy with the same settings and seeds, score all alike, write and print a report.

    Writes ``comparison.json``, ``report.md``, a picture and one table of samples per policy. The
    folder takes its name only when it is complete.

    Returns:
        The output folder.

    Raises:
        ConfigError: A wrong policy, reward or option; nothing has been written then.
        RewardError: More structures failed to be measured than ``reward.max_failed`` allows.
    """
    console = make_console()
    scorer, gap = make_scorer(config.reward)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policies = {
        name: load_policy(policy, device=device)
        for name, policy in zip(display_names(config.policies), config.policies, strict=True)
    }
    compared: list[Compared] = []
    with scorer:
        for (name, policy), source in zip(policies.items(), config.policies, strict=True):
            start = time.monotonic()
            structures = _sample(policy, config)
            sampling = time.monotonic() - start
            console.print(f"{name}: sampled {config.n} structures in {sampling:.0f} s, scoring them ...")
            with scoring_bar(console, name) as progress:
                evaluation = evaluate_structures(
                    structures, config.n, scorer, gap=gap, seed=config.seed, progress=progress
                )
            console.print(f"{name}: scored in {evaluation.seconds:.0f} s")
            compared.append(Compared(name, source, evaluation, sampling))
    verdicts = _verdicts(compared)
    _write(config, scorer, gap, compared, verdicts)
    _print(config, compared, verdicts, console)
    return config.out


def evaluate_structures(
    structures: Sequence[Structure | Invalid | None],
    n_requested: int,
    scorer: Scorer,
    *,
    gap: BandGap,
    training_elements: Mapping[str, int] | None = None,
    n_boot: int = N_BOOT,
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Score structures and count every figure, whatever they came from.

    Args:
        structures: At most ``n_requested``; None or ``Invalid`` for what could not be read. Those
            missing count as not parsed.
        n_requested: The denominator.
        scorer: Must have the reward ``validity`` as a gate; figures that need another reward that it
            has not are NaN. Batch-scope rewards start and end with the memory they had.
        gap: Target and width of the band gap.
        training_elements: Element -> number of training structures with it; the bundled training
            data by default.
        n_boot: Bootstrap resamples.
        seed: Of the resamples.
        progress: Is told how many structures have been measured.

    Raises:
        ValueError: There are more structures than were requested.
    """
    if len(structures) > n_requested:
        raise ValueError(f"{len(structures)} structures, but only {n_requested} were requested")
    start = time.monotonic()
    memory = scorer.state_dict()
    padded = [*structures, *[None] * (n_requested - len(structures))]
    frame = scorer.score(padded, progress).to_frame()
    scorer.load_state_dict(memory)
    readable = [None if s is None or isinstance(s, Invalid) else s for s in padded]
    valid = frame[f"{VALIDITY}.outcome"] == "ok"
    groups = structure_groups(
        [s if ok else None for s, ok in zip(readable, valid, strict=True)], frame["formula"].tolist()
    )
    verdicts = add_verdicts(frame, groups, target=gap.target, width=gap.width)
    verdicts["cif"] = [None if s is None else s.to(fmt="cif") for s in readable]
    elements = bundled_training_elements() if training_elements is None else training_elements
    found = figures(verdicts, elements, n_boot=n_boot, seed=seed)
    return Evaluation(verdicts, found, time.monotonic() - start)


def make_scorer(config: RewardConfig) -> tuple[Scorer, BandGap]:
    """A scorer that always measures validity, stability, novelty and band gap.

    What the expression does not name becomes a monitor; uniqueness is counted from the structures, so
    it is no gate here. The band gap is measured by the members of the ensemble that the reward does
    not use, unless the expression says which.

    Returns:
        The scorer, and the band gap reward with its target and width.
    """
    terms = list(parse(config.expression))
    gates = {parse(text)[0].name: text for text in config.gates}
    named = {term.name for term in terms}
    terms += [Term(name, weight=0.0) for name in (NOVELTY, GAP) if name not in named]
    for i, term in enumerate(terms):
        if term.name == GAP:
            terms[i] = replace(term, options={"members": "evaluation", **term.options})
    scorer = Scorer(
        format_expression(terms),
        gates=[gates.get(name, name) for name in (VALIDITY, STABILITY)],
        aggregation=config.aggregation,
        workers=config.workers,
        timeout=config.timeout,
        worker_memory=config.worker_memory,
        plugins=config.plugins,
        max_failed=config.max_failed,
        ray_address=config.ray_address,
        cache=config.cache,
        cache_limit=config.cache_limit,
    )
    options = next(term.options for term in terms if term.name == GAP)
    gap = registry.create(GAP, options)
    assert isinstance(gap, BandGap)
    return scorer, gap


def display_names(policies: Sequence[str]) -> list[str]:
    """Short, distinct names: of a bundled policy its own, of a folder the folder's."""
    bundled = bundled_policies()
    names: list[str] = []
    for policy in policies:
        name = policy if policy in bundled else Path(policy).expanduser().resolve().name
        others = (f"{name}-{k}" for k in count(2))
        names.append(name if name not in names else next(other for other in others if other not in names))
    return names


@cache
def bundled_training_elements() -> Counter[str]:
    """Element -> number of bundled training structures with it."""
    return element_counts(ReferenceIndex.bundled().formulas)


def _sample(policy: Policy, config: CompareConfig) -> list[Structure | Invalid]:
    completions = sample_many(
        policy.model, config.n, seed=config.seed, temperature=config.temperature, batch_size=config.batch_size
    )
    return [_decode(policy, row.tolist()) for row in completions.ids]


def _decode(policy: Policy, ids: list[int]) -> Structure | Invalid:
    try:
        return policy.codec.decode(ids)
    except TokenizationError as error:
        return Invalid(str(error))


def _verdicts(compared: Sequence[Compared]) -> dict[str, str]:
    """Name of each policy after the baseline -> one line."""
    before = compared[0].evaluation.figures
    return {other.name: verdict(before, other.evaluation.figures) for other in compared[1:]}


def _settings(config: CompareConfig, scorer: Scorer, gap: BandGap) -> dict[str, Any]:
    return {
        "n": config.n,
        "seed": config.seed,
        "temperature": config.temperature,
        "expression": scorer.expression,
        "gates": list(scorer.gates),
        "stable_below_eV_per_atom": STABLE_BELOW,
        "band_gap_target_eV": gap.target,
        "band_gap_width_eV": gap.width,
        "band_gap_members": gap.members,
        "bootstrap_resamples": N_BOOT,
        "materium_rl": __version__,
    }


def _write(
    config: CompareConfig,
    scorer: Scorer,
    gap: BandGap,
    compared: Sequence[Compared],
    verdicts: Mapping[str, str],
) -> None:
    tables = {c.name: c.evaluation.figures for c in compared}
    settings = _settings(config, scorer, gap)
    record = {
        "label": LABEL,
        "verdicts": verdicts,
        "settings": settings,
        "config": config.model_dump(mode="json"),
        "policies": [_record(c) for c in compared],
        "definitions": [asdict(d) for d in DEFINITIONS],
    }
    if len(compared) == 2:
        before, after = tables.values()
        record["ratios"] = {d.key: _plain(ratio(before[d.key], after[d.key])) for d in DEFINITIONS}
    with atomic_path(config.out) as folder:
        folder.mkdir()
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False)
        (folder / COMPARISON).write_text(text + "\n", encoding="utf-8")
        (folder / "report.md").write_text(_report(settings, compared, verdicts, gap), encoding="utf-8")
        for c in compared:
            c.evaluation.frame.to_parquet(folder / c.samples_file, index=False)
        plot_comparison(tables, folder / PICTURE, title=_title(compared, config))


def _record(c: Compared) -> dict[str, Any]:
    found = c.evaluation.figures
    return {
        "name": c.name,
        "policy": c.policy,
        "samples": c.samples_file,
        "requested": len(c.evaluation.frame),
        "seconds": {"sampling": round(c.sampling_seconds, 1), "scoring": round(c.evaluation.seconds, 1)},
        "figures": {k: {e: _plain(v) for e, v in asdict(f).items()} for k, f in found.items()},
    }


def _report(
    settings: Mapping[str, Any], compared: Sequence[Compared], verdicts: Mapping[str, str], gap: BandGap
) -> str:
    names = " and ".join(f"`{c.name}`" for c in compared)
    lines = [f"# Comparison of {names}", ""]
    lines += [f"**{name}**: {line}." for name, line in verdicts.items()]
    lines += ["", f"![before and after]({PICTURE})", ""]
    lines += [
        f"Values with their 95 % bootstrap intervals; {settings['n']:,} structures requested from each.",
        "",
    ]
    lines += [markdown_table({c.name: c.evaluation.figures for c in compared}), "", "## Evaluator", ""]
    lines += [CAVEAT, *([HELD_OUT_GAP] if gap.members == "evaluation" else []), "", "## Settings", ""]
    lines += [f"- {key}: `{value}`" for key, value in settings.items()]
    lines += ["", "## Definitions", "", markdown_definitions(), "", "## Files", "", f"- `{COMPARISON}`"]
    lines += [f"- `{c.samples_file}`: every sample of `{c.policy}` with its scores and CIF" for c in compared]
    return "\n".join(lines) + "\n"


def _print(
    config: CompareConfig, compared: Sequence[Compared], verdicts: Mapping[str, str], console: Console
) -> None:
    console.print()
    print_table({c.name: c.evaluation.figures for c in compared}, _title(compared, config), console)
    console.print()
    for name, line in verdicts.items():
        console.print(f"{name}: {line}", style="bold", soft_wrap=True, markup=False)
    console.print(CAVEAT, soft_wrap=True, markup=False)
    console.print()
    for file in ("report.md", PICTURE, COMPARISON, *(c.samples_file for c in compared)):
        console.print(str(config.out / file), soft_wrap=True, markup=False)


def _title(compared: Sequence[Compared], config: CompareConfig) -> str:
    names = " and ".join(c.name for c in compared)
    return f"{names}: {config.n:,} structures each, temperature {config.temperature:g}, seed {config.seed}"


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
