"""Who says what is stable: the reward's own potential, and one that the reward did not use.

A policy that was trained against a potential has learnt its blind spots. So the energies are computed again
by another one, of the structures as they are written and, if asked for, relaxed; and the band gaps by the
half of the ensemble that the reward did not use. Where no other potential is at hand everything that depends
on energies is labelled an optimised proxy.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from materium_rl.config import EvaluatorConfig, RewardConfig
from materium_rl.evaluation.definitions import GAP, STABILITY
from materium_rl.rewards import registry
from materium_rl.rewards.assembly import measured
from materium_rl.rewards.base import Reward
from materium_rl.rewards.catalogue.bandgap import BandGap
from materium_rl.rewards.catalogue.stability import Stability
from materium_rl.rewards.execution.batches import Progress
from materium_rl.rewards.expression import Term, format_expression, parse
from materium_rl.rewards.potentials.base import Scale
from materium_rl.rewards.potentials.catalogue import check_name, find_potential
from materium_rl.rewards.scoring import Scorer

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

AUTO = "auto"
PACKAGES = {"sevenn": "sevenn", "chgnet": "chgnet"}
"""Potentials that ``auto`` tries in turn, and the package of each."""
INSTALL = 'SevenNet-0 would be independent: pip install "materium-rl[sevennet]"'
PROXY = "optimised proxy"
INDEPENDENT = "independent"
FROM_CHGNET = frozenset({"energy", "chgnet", "chgnet_forces"})
"""Shared work that CHGNet does."""
REWARD, EVALUATOR, RELAXED = "reward", "evaluator", "relaxed"
"""Keys of the judges, and prefixes of their columns."""
NOT_RELAXED = "not relaxed"
"""Outcome of what ``relax_within`` leaves alone."""
SECONDS_A_STEP = 2.0
"""For one structure in a relaxation, before it is given up; SevenNet-0 takes 0.07."""
HALVES = {"evaluation": "reward", "reward": "evaluation"}

Structures = Sequence["Structure | None"]


@dataclass(frozen=True, slots=True)
class Panel:
    """Who judges stability.

    Args:
        reward: The ``stability`` of the reward.
        rewarded: Potentials that the reward uses.
        evaluator: The other potential; None if there is none at hand.
        independent: Whether the evaluator is none of those.
        reason: Why it is not.
        config: Of the evaluator.
    """

    reward: Stability
    rewarded: tuple[str, ...]
    evaluator: str | None
    independent: bool
    reason: str
    config: EvaluatorConfig

    @property
    def potential(self) -> str:
        """What relaxes and judges in the end: the evaluator, or else the reward's own."""
        return self.evaluator or self.reward.calculator

    @property
    def scale(self) -> Scale | None:
        """Of its energies, where its name does not tell."""
        return self.config.scale if self.evaluator else self.reward.scale

    @property
    def label(self) -> str:
        """``independent`` or ``optimised proxy``."""
        return INDEPENDENT if self.independent else PROXY

    @property
    def is_second(self) -> bool:
        """Whether the evaluator measures anything that the reward has not measured."""
        return self.evaluator is not None and self.evaluator != self.reward.calculator


def choose(evaluator: EvaluatorConfig, reward: RewardConfig) -> Panel:
    """Decide who judges; loads nothing.

    Raises:
        ConfigError: Unknown potential or scale, or a wrong reward.
    """
    for path in reward.plugins:
        registry.load_plugin(path)
    rewards = [
        registry.create(term.name, measured(term).options)
        for text in (reward.expression, *(gate for gate in reward.gates if gate != "none"))
        for term in parse(text)
    ]
    own = next((r for r in rewards if isinstance(r, Stability)), Stability())
    rewarded = tuple(dict.fromkeys(name for r in rewards for name in _potentials_of(r))) or (own.calculator,)
    name: str | None = evaluator.potential
    if evaluator.relaxer is not None:
        check_name(evaluator.relaxer, None)
    if name != AUTO:
        check_name(str(name), evaluator.scale)
        used = name in rewarded
        reason = f"the evaluator {name} is a potential of the reward" if used else ""
        return Panel(own, rewarded, name, not used, reason, evaluator)
    name = next((n for n in PACKAGES if n not in rewarded and importlib.util.find_spec(PACKAGES[n])), None)
    own_only = f"no other potential than the reward's ({', '.join(rewarded)}) is at hand"
    reason = "" if name else f"{own_only} ({INSTALL})"
    return Panel(own, rewarded, name, name is not None, reason, evaluator)


def load(panel: Panel) -> None:
    """Load the potentials, so that what is missing is told before anything is sampled.

    Raises:
        RewardError: A package or its weights are missing.
    """
    find_potential(panel.potential, panel.scale).load()
    if panel.config.relaxer is not None:
        find_potential(panel.config.relaxer).load()


def second_opinion(
    frame: pd.DataFrame,
    structures: Structures,
    panel: Panel,
    gap: BandGap,
    reward: RewardConfig,
    progress: Progress | None = None,
    *,
    halves: bool = True,
) -> pd.DataFrame:
    """Add what the evaluator and the other half of the band-gap ensemble say of every valid structure.

    Args:
        frame: With the column ``valid``, N rows.
        structures: N structures.
        panel: Who judges.
        gap: The band gap as the frame has it.
        reward: How to compute.
        progress: Is told how many structures have been measured.
        halves: Ask the other half of the band-gap ensemble, too.

    Returns:
        The frame with the columns ``evaluator.*`` and ``gap_other_half.*``: value, outcome, reason; for the
        evaluator also ``e_above_hull_raw``, which may be below 0.
    """
    terms = []
    if panel.is_second:
        terms.append(Term(STABILITY, options=_options(panel)))
    if halves and gap.members in HALVES:
        terms.append(Term(GAP, options={**gap.model_dump(), "members": HALVES[gap.members]}))
    if not terms:
        return frame
    rows = np.flatnonzero(frame["valid"]).tolist()
    found = _measure(terms, [structures[i] for i in rows], reward, progress=progress)
    for name, prefix in ((STABILITY, EVALUATOR), (GAP, "gap_other_half")):
        columns = [c for c in found if c.startswith(f"{name}.")]
        for column in columns:
            key = column.removeprefix(f"{name}.")
            if key in ("value", "outcome", "reason", "e_above_hull_raw"):
                frame = _spread(frame, f"{prefix}.{key}", rows, found[column].to_numpy())
    return frame


def relax(
    frame: pd.DataFrame,
    structures: Structures,
    panel: Panel,
    reward: RewardConfig,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Relax every valid structure once and measure it then.

    Of equal structures the first is relaxed, and counts for all. With ``relax_within`` those farther above
    the hull as they are written are left as they are, and so are those without an energy.

    Args:
        frame: After ``second_opinion``.
        structures: N structures.
        panel: Who judges.
        reward: How to compute.
        progress: Is told how many structures have been relaxed.

    Returns:
        The frame with the columns ``relaxed.*`` (value, outcome, reason, ``e_above_hull_raw``, ``rmsd``,
        ``steps``, ``converged``, ``cif``, and ``row``: the row whose relaxation it is).
    """
    first = _first_rows(frame)
    within = panel.config.relax_within
    written = frame[_energy_column(panel)].to_numpy(dtype=np.float64)
    wanted = np.unique(first[first >= 0])
    near = np.ones(len(wanted), dtype=bool) if within is None else written[wanted] <= within
    rows = wanted[near].tolist()
    options = {**_options(panel), "relax": panel.config.relax}
    if panel.config.relaxer is not None:
        options["relaxer"] = panel.config.relaxer
    limit = max(reward.timeout, SECONDS_A_STEP * panel.config.relax * _chunk(panel))
    found = _measure(
        [Term(STABILITY, options=options)],
        [structures[i] for i in rows],
        reward.model_copy(update={"timeout": limit}),
        chunk_size=_chunk(panel),
        progress=progress,
    )
    place = np.full(len(frame), -1)
    place[rows] = np.arange(len(rows))
    of = np.where(first >= 0, place[first], -1)
    counted = np.flatnonzero(of >= 0).tolist()
    names = {
        "value": "value",
        "outcome": "outcome",
        "reason": "reason",
        "e_above_hull_raw": "e_above_hull_raw",
        "relax_rmsd": "rmsd",
        "relax_steps": "steps",
        "relax_converged": "converged",
        "relaxed_cif": "cif",
    }
    for column, name in names.items():
        key = f"{STABILITY}.{column}"
        values = found[key].to_numpy() if key in found else np.full(len(rows), None)
        frame = _spread(frame, f"{RELAXED}.{name}", counted, values[of[of >= 0]])
    frame = _spread(frame, f"{RELAXED}.row", counted, first[of >= 0])
    far = (first >= 0) & (of < 0)
    frame.loc[far, f"{RELAXED}.outcome"] = NOT_RELAXED
    frame.loc[far, f"{RELAXED}.reason"] = [
        "no energy as it is written" if np.isnan(e) else f"{e:.3f} eV/atom above the hull as it is written"
        for e in written[first[far]]
    ]
    return frame


def _potentials_of(reward: Reward) -> list[str]:
    """Names of the potentials that a reward asks."""
    named = [getattr(reward, key, None) for key in ("calculator", "relaxer")]
    if named[0] is None and FROM_CHGNET.intersection(reward.requires):
        named[0] = "chgnet"
    if reward.name == "displacement":
        named[0] = "chgnet"
    return [name for name in named if isinstance(name, str)]


def _options(panel: Panel) -> dict[str, Any]:
    options: dict[str, Any] = {"calculator": panel.potential}
    return options if panel.scale is None else {**options, "scale": panel.scale}


def _energy_column(panel: Panel) -> str:
    return f"{EVALUATOR if panel.is_second else STABILITY}.value"


def _chunk(panel: Panel) -> int:
    """Structures relaxed together: CHGNet takes many at once, others one after another."""
    return 128 if (panel.config.relaxer or panel.potential) == "chgnet" else 8


def _first_rows(frame: pd.DataFrame) -> np.ndarray:
    """For each row the first valid one of its structure; -1 for what is not valid."""
    groups = frame["group"].to_numpy()
    _, firsts, back = np.unique(groups, return_index=True, return_inverse=True)
    return np.where(frame["valid"].to_numpy() & (groups >= 0), firsts[back], -1)


def _measure(
    terms: Sequence[Term],
    structures: Structures,
    reward: RewardConfig,
    *,
    chunk_size: int = 16,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """The score table of some rewards without gates; failures are counted, they stop nothing."""
    how = reward.model_dump(exclude={"expression", "gates", "aggregation", "max_failed"})
    scorer = Scorer(
        format_expression(list(terms)), gates=(), shared=(), chunk_size=chunk_size, max_failed=1.0, **how
    )
    with scorer:
        return scorer.score(structures, progress).to_frame()


def _spread(frame: pd.DataFrame, column: str, rows: Sequence[int], values: np.ndarray) -> pd.DataFrame:
    """Put the values of some rows into a new column; the others have none."""
    import pandas as pd

    series = pd.Series(list(values), index=frame.index[list(rows)])
    return frame.assign(**{column: series.reindex(frame.index)})
