"""From the table of verdicts to the record of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from materium_rl import __version__
from materium_rl.config import EvaluateConfig
from materium_rl.evaluation.definitions import N_BOOT, STABLE_BELOW, Flags
from materium_rl.evaluation.evaluate.agreement import Agreement, agreement
from materium_rl.evaluation.evaluate.distributions import (
    Population,
    coverage,
    distances,
    population,
    population_of,
)
from materium_rl.evaluation.evaluate.inputs import Source
from materium_rl.evaluation.evaluate.judgements import (
    JUDGED,
    ON_HULL,
    energies,
    judge_statistics,
    judges_of,
    title_of,
    version_of,
)
from materium_rl.evaluation.evaluate.judges import EVALUATOR, NOT_RELAXED, PROXY, RELAXED, REWARD, Panel
from materium_rl.evaluation.evaluate.properties import (
    ALWAYS,
    NO_HISTOGRAM,
    Target,
    histogram,
    property_of,
    values_of,
)
from materium_rl.evaluation.evaluate.record import EvaluationRecord, plain
from materium_rl.evaluation.evaluate.text import ALL_DEFINITIONS, headline
from materium_rl.evaluation.metrics import Figure, figures, ratio_of
from materium_rl.evaluation.novelty.known import Reference
from materium_rl.evaluation.novelty.ladder import Share
from materium_rl.evaluation.scored import bundled_training_elements
from materium_rl.evaluation.statistics import Bootstrap, Statistic
from materium_rl.rewards.base import Invalid
from materium_rl.rewards.catalogue.bandgap import BandGap

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

WHO_GAP = {
    "evaluation": "the half of the ensemble that the reward does not use, of the same architecture and "
    "training data",
    "reward": "the half of the ensemble that the reward uses (optimised proxy)",
    "all": "the whole ensemble, with the half that the reward uses (optimised proxy)",
}


@dataclass(frozen=True)
class Judged:
    """Every structure with every verdict.

    Args:
        source: What was evaluated.
        structures: One for each structure requested; None for what is not valid.
        frame: One row likewise.
        panel: Who judged stability.
        gap: Who judged band gaps, and the target.
        targets: What was wanted.
        reference: What distances and coverage are measured against.
        novelty: Shares of the levels of the novelty ladder.
        tiers: Shares of its tiers.
        seconds: Of each part of the work.
    """

    source: Source
    structures: Sequence[Structure | None]
    frame: pd.DataFrame
    panel: Panel
    gap: BandGap
    targets: Sequence[Target]
    reference: Reference
    novelty: Sequence[Share]
    tiers: Sequence[Share]
    seconds: dict[str, float]


def record_of(judged: Judged, config: EvaluateConfig) -> EvaluationRecord:
    """Count everything, with intervals from resamples of the structures requested."""
    frame, source, panel = judged.frame, judged.source, judged.panel
    counter = _Counter(frame, config.seed)
    found = figures(frame, bundled_training_elements(), n_boot=N_BOOT, seed=config.seed)
    found["charge_neutral"] = counter.share(frame["charge_neutral"].to_numpy())
    told = judge_statistics(frame)
    by_judge = {key: _judge(frame, key, panel, told, counter) for key in judges_of(frame)}
    last = list(by_judge.values())[-1]
    everyone, samples = _populations(judged)
    content = {
        "headline": "",
        "label": last["label"],
        "source": {
            "name": source.name,
            "kind": source.kind,
            "requested": source.requested,
            "given": len(source.structures),
            "origin": dict(source.origin),
        },
        "panel": {
            "reward_potentials": panel.rewarded,
            "evaluator": panel.evaluator,
            "label": panel.label,
            "reason": panel.reason,
            "relax_steps": panel.config.relax,
            "band_gap": WHO_GAP[judged.gap.members],
        },
        "figures": found,
        "judges": by_judge,
        "agreement": _agreements(judged, config.seed),
        "relaxation": _relaxation(judged) if panel.config.relax else None,
        "novelty": [asdict(share) for share in judged.novelty],
        "tiers": [asdict(share) for share in judged.tiers],
        "reference": {
            "title": judged.reference.title,
            "structures": len(judged.reference),
            "left_out": judged.reference.left_out,
        },
        "distances": {} if samples is None else distances(samples, everyone, n_boot=N_BOOT, seed=config.seed),
        "coverage": _coverage(judged),
        "properties": _properties(judged, everyone),
        "targets": [_target(frame, t, counter) for t in judged.targets],
        "not_read": {
            place: item.reason
            for place, item in zip(source.places, source.structures, strict=True)
            if isinstance(item, Invalid)
        },
        "definitions": [asdict(d) for d in ALL_DEFINITIONS],
        "settings": _settings(judged, config),
        "seconds": {name: round(value, 1) for name, value in judged.seconds.items()},
    }
    record = EvaluationRecord.model_validate(plain(content))
    text = headline(source.name, source.requested, list(record.judges.values())[-1], record.figures["valid"])
    return record.model_copy(update={"headline": text})


class _Counter:
    """Shares of one table with the same resamples."""

    def __init__(self, frame: pd.DataFrame, seed: int) -> None:
        self._bootstrap = Bootstrap(len(frame), n_boot=N_BOOT, seed=seed)
        self._all = np.ones(len(frame), dtype=np.bool_)

    def figure(self, statistic: Statistic) -> Figure:
        """A figure with its interval."""
        return Figure(statistic.value, *self._bootstrap.interval(statistic))

    def share(self, flags: Flags, among: Flags | None = None) -> Figure:
        """Share of the flagged rows; of all, or among some."""
        among = self._all if among is None else among
        return ratio_of(self._bootstrap, flags & among, among)


def _judge(
    frame: pd.DataFrame, key: str, panel: Panel, found: Mapping[str, Statistic], counter: _Counter
) -> dict[str, Any]:
    missing = frame["valid"].to_numpy() & ~np.isfinite(energies(frame, key))
    left = missing & (key == RELAXED)
    if key == RELAXED:
        left &= (frame["relaxed.outcome"] == NOT_RELAXED).to_numpy()
    return {
        "title": title_of(key, panel),
        "version": version_of(key, panel),
        "label": panel.label if key != REWARD or not panel.is_second else PROXY,
        "measured": int(np.isfinite(energies(frame, key)).sum()),
        "failed": int((missing & ~left).sum()),
        "left": int(left.sum()),
        "figures": {name: counter.figure(found[f"{key}.{name}"]) for name in JUDGED},
    }


def _agreements(judged: Judged, seed: int) -> dict[str, Agreement]:
    """Between the potentials as written, and between the halves of the band-gap ensemble."""
    frame, found = judged.frame, {}
    if EVALUATOR in judges_of(frame):
        verdicts = {
            f"{name} ({limit:g} eV/atom)": (
                frame[f"{REWARD}.{name}"].to_numpy(),
                frame[f"{EVALUATOR}.{name}"].to_numpy(),
            )
            for name, limit in (("stable", ON_HULL), ("metastable", STABLE_BELOW))
        }
        titles = [title_of(key, judged.panel) for key in (REWARD, EVALUATOR)]
        values = [energies(frame, key, raw=True) for key in (REWARD, EVALUATOR)]
        found["potentials"] = agreement(
            (titles[0], values[0]), (titles[1], values[1]), "eV/atom", verdicts, seed=seed
        )
    if "gap_other_half.value" in frame:
        ours = values_of(frame, "band_gap")
        other = frame["gap_other_half.value"].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
        gap = judged.gap
        verdicts = {
            f"band gap in {gap.target:g} ± {gap.width:g} eV": (
                np.abs(other - gap.target) <= gap.width,
                np.abs(ours - gap.target) <= gap.width,
            )
        }
        halves = ("the reward's half", "the other half")
        first, second = (other, ours) if gap.members == "evaluation" else (ours, other)
        found["band_gap"] = agreement((halves[0], first), (halves[1], second), "eV", verdicts, seed=seed)
    return {key: value for key, value in found.items() if value is not None}


def _relaxation(judged: Judged) -> dict[str, Any]:
    frame = judged.frame
    own = frame[frame["relaxed.row"] == np.arange(len(frame))]
    outcomes = own["relaxed.outcome"].value_counts()
    rmsd = own["relaxed.rmsd"].dropna().astype(float)
    converged = own["relaxed.converged"].dropna().astype(bool)
    far = frame[(frame["relaxed.outcome"] == NOT_RELAXED) & frame["unique"]]
    return {
        "relaxed": len(own),
        "converged": int(converged.sum()),
        "broke_off": int(outcomes.get("invalid", 0)),
        "failed": int(outcomes.get("failed", 0)),
        "not_relaxed": len(far),
        "rmsd_quantiles": np.quantile(rmsd, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist() if len(rmsd) else [],
        "seconds": round(judged.seconds["relaxing"], 1),
    }


def _populations(judged: Judged) -> tuple[Population, Population | None]:
    """Of the reference, and of the valid structures (None if there are none)."""
    assert judged.reference.index is not None
    rows = np.flatnonzero(judged.frame["valid"]).tolist()
    structures = [s for row in rows if (s := judged.structures[row]) is not None]
    labels = judged.frame["prototype"].iloc[rows].tolist()
    samples = population(structures, labels) if structures else None
    return population_of(judged.reference.index), samples


def _coverage(judged: Judged) -> dict[str, Any]:
    """Of the reference by the distinct valid structures."""
    assert judged.reference.index is not None
    rows = np.flatnonzero(judged.frame["unique"]).tolist()
    structures = [s for row in rows if (s := judged.structures[row]) is not None]
    table = judged.frame.iloc[rows]
    met = coverage(judged.reference.index, structures, table["formula"].tolist(), table["prototype"].tolist())
    return {name: {"met": m.met, "known": m.known, "share": m.share} for name, m in met.items()}


def _properties(judged: Judged, reference: Population) -> dict[str, Any]:
    frame = judged.frame
    valid = frame["valid"].to_numpy()
    names = [name for name in ALWAYS if name not in NO_HISTOGRAM]
    names += [t.name for t in judged.targets if t.name not in ALWAYS]
    found = {}
    for name in dict.fromkeys(names):
        values = np.where(valid, values_of(frame, name), np.nan)
        made = histogram(values, property_of(name).unit, reference, name)
        if made is not None:
            found[name] = asdict(made)
    return found


def _target(frame: pd.DataFrame, target: Target, counter: _Counter) -> dict[str, Any]:
    hits, last = frame[f"target.{target.name}"].to_numpy(), judges_of(frame)[-1]
    metastable, sun = frame[f"{last}.metastable"].to_numpy(), frame[f"{last}.msun"].to_numpy()
    return {
        "property": target.name,
        "wanted": target.text,
        "hits": counter.share(hits),
        "hits_of_metastable": counter.share(hits, metastable),
        "sun_hits": counter.share(hits & sun),
    }


def _settings(judged: Judged, config: EvaluateConfig) -> dict[str, Any]:
    return {
        "seed": config.seed,
        "expression": config.reward.expression,
        "gates": list(config.reward.gates),
        "stable_up_to_eV_per_atom": ON_HULL,
        "metastable_below_eV_per_atom": STABLE_BELOW,
        "band_gap_target_eV": judged.gap.target,
        "band_gap_width_eV": judged.gap.width,
        "band_gap_members": judged.gap.members,
        "evaluator": config.evaluator.model_dump(mode="json"),
        "bootstrap_resamples": N_BOOT,
        "materium_rl": __version__,
    }
