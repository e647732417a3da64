"""A finished comparison made by hand: known structures, known verdicts, names that try to run as script."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from pymatgen.core import Structure
from real_structures import aflow_structures, rock_salt, rutile

from materium_rl.evaluation.definitions import DEFINITIONS
from materium_rl.rewards.catalogue.novelty import Tier
from materium_rl.runs import COMPARISON

EVIL = "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">"
"""As the name of a policy, a formula, a reason and so on."""
BEFORE, AFTER = "before", f"after {EVIL}"
BY_JUDGE = ("stable", "metastable", "sun", "msun", "sun_structure", "msun_structure")
REWARDS = ("validity", "stability", "novelty", "bandgap")


def sample(
    index: int,
    structure: Structure | None,
    group: int,
    *,
    energy: float = 0.05,
    tier: str = Tier.NEW_PROTOTYPE,
    **more: Any,
) -> dict[str, Any]:
    """One row of a table of samples; unreadable without a structure."""
    valid, known = structure is not None, tier == Tier.KNOWN
    stable = valid and energy < 0.1
    formula = None if structure is None else structure.composition.reduced_formula
    outcome = "ok" if valid else "invalid"
    row: dict[str, Any] = {
        "index": index,
        "outcome": outcome,
        "reason": "" if valid else EVIL,
        "formula": formula,
    }
    row |= {f"{reward}.outcome": outcome for reward in REWARDS}
    row |= {
        "n_sites": None if structure is None else len(structure),
        "prototype": EVIL,
        "space_group_number": None if structure is None else structure.get_space_group_info()[1],
        "reward": 1 - energy if valid else 0.0,
        "validity.density": None if structure is None else float(structure.density),
        "stability.value": energy if valid else None,
        "bandgap.value": 10 * energy if valid else None,
        "bandgap.uncertainty": 0.25 if valid else None,
        "novelty.tier": tier if valid else None,
        "novelty.nearest_formula": EVIL if index == 0 else "NaCl",
        "novelty.nearest_id": "mp-22862",
        "novelty.distance": 0.1 * energy if valid else None,
        "group": group,
        "valid": valid,
        "stable": stable,
        "unique": valid,
        "novel_structure": valid and not known,
        "sun": stable and not known,
        "cif": None if structure is None else structure.to(fmt="cif"),
    }
    return row | more


def write_comparison(folder: Path) -> Path:
    """Two policies: of the first one structure is new and stable, of the second three, one of them shared.

    The second also holds an equal pair, a known structure, one above the limit and one that is unreadable.
    """
    others = [s for s in aflow_structures(6) if len(s.composition) == 2]
    shared = rock_salt()
    moved = rock_salt()
    moved.translate_sites(range(len(moved)), [0.25, 0.1, 0.3])
    tables = {
        BEFORE: [sample(0, shared, 0, energy=0.04), sample(1, None, -1), sample(2, rutile(), 1, energy=0.4)],
        AFTER: [
            sample(0, others[0], 0, energy=0.09),
            sample(1, moved, 1, energy=0.02),
            sample(2, rutile(), 2, energy=0.0, tier=Tier.KNOWN),
            sample(3, others[1], 3, energy=0.01, tier=Tier.SUBSTITUTION),
            sample(4, others[0], 0, energy=0.09),
            sample(5, others[2], 4, energy=0.7),
            sample(6, None, -1),
        ],
    }
    folder.mkdir(parents=True)
    policies = []
    for k, (name, rows) in enumerate(tables.items()):
        file = f"samples_{k}.parquet"
        pd.DataFrame(rows).to_parquet(folder / file, index=False)
        figures = {
            d.key: {"value": (k + 1) * (0.25 if d.unit == "%" else 4), "low": None, "high": None}
            for d in DEFINITIONS
        }
        share = {"value": 0.1 + 0.25 * k, "low": None, "high": None}
        figures["sun"] = {"value": 0.2 + 0.2 * k, "low": 0.1 + 0.2 * k, "high": 0.3 + 0.2 * k}
        figures["element_divergence"] = {"value": None, "low": None, "high": None}
        policies.append(
            {
                "name": name,
                "policy": f"runs/{name}",
                "samples": file,
                "requested": len(rows),
                "seconds": {"sampling": 1.0, "scoring": 2.0},
                "figures": figures,
                "judges": dict.fromkeys(("reward", "evaluator"), dict.fromkeys(BY_JUDGE, share)),
            }
        )
    record = {
        "label": "optimised proxy",
        "verdicts": {AFTER: f"S.U.N. 20.0 -> 40.0 % {EVIL}"},
        "settings": {
            "n": 7,
            "seed": 0,
            "temperature": 1.0,
            "expression": EVIL,
            "gates": ["validity", "stability"],
            "stable_below_eV_per_atom": 0.1,
            "band_gap_target_eV": 1.34,
            "band_gap_width_eV": 0.3,
            "band_gap_members": "evaluation",
            "bootstrap_resamples": 1000,
            "materium_rl": "0.1.0",
        },
        "config": {"reward": {"expression": EVIL}},
        "policies": policies,
        "definitions": [asdict(d) for d in DEFINITIONS],
        "ratios": {d.key: 2.0 for d in DEFINITIONS},
        **_changes(policies),
    }
    (folder / COMPARISON).write_text(json.dumps(record), encoding="utf-8")
    return folder


def _changes(policies: list[dict[str, Any]]) -> dict[str, Any]:
    """What a comparison with controls and trajectory holds besides: S.U.N. +20 points, 2 times."""
    before, after = policies
    up = {"value": 0.2, "low": 0.12, "high": 0.28}
    change = {"difference": up, "ratio": {"value": 2.0, "low": 1.5, "high": None}}
    changes = {
        "runs": [1, 1],
        "figures": {"sun": change, "valid": change, "sun_prototypes": change},
        "gain": {
            "none": {"value": 0.9, "low": 0.7, "high": 1.1},
            "rare earth": {"value": 0.1, "low": -0.1, "high": 0.3},
        },
    }
    down = {
        "difference": {"value": -0.05, "low": -0.09, "high": -0.01},
        "ratio": {"value": None, "low": None, "high": None},
    }
    against = {**changes, "figures": {"sun": down}, "gain": {}}
    control = {
        **before,
        "name": "before-best",
        "samples": "samples_before-best.parquet",
        "kind": "best-of-n",
        "temperature": 1.0,
        "of": AFTER,
        "reward_calls": 300,
        "equal_reward_calls": 20480,
        "against": {AFTER: against},
    }
    curve = {"expected": [0.5, 1.5, 2.0], "low": [0.2, 1.0, 1.5], "high": [0.8, 2.0, 2.5]}
    points = [
        {"step": step, "policy": EVIL, "figures": figures}
        for step, figures in ((0, before["figures"]), (10, after["figures"]))
    ]
    return {
        "panel": {
            "reward_potentials": ["chgnet"],
            "evaluator": "sevenn",
            "label": "independent",
            "reason": "",
            "titles": {"reward": "CHGNet", "evaluator": "SevenNet-0"},
        },
        "differences": {AFTER: changes, "before-best": changes},
        "rarefaction": {
            "sizes": [1, 4, 7],
            "policies": {
                p["name"]: dict.fromkeys(("structure", "prototype", "framework"), curve) for p in policies
            },
        },
        "controls": [control],
        "cost": {
            AFTER: {
                "reward_calls": 20480.0,
                "hours": 0.5,
                "processors": 2,
                "processor_hours": 1.0,
                "per_1000_reward_calls": {"sun": up},
                "per_processor_hour": {"sun": up},
            }
        },
        "found": {
            AFTER: {
                "reward_calls": [128, 10240, 20480],
                "formula": [3.0, 400.0, 1500.0],
                "prototype": [2.0, 100.0, 300.0],
                "framework": [1.0, 80.0, 150.0],
            }
        },
        "trajectory": [{"name": AFTER, "policy": EVIL, "n": 2, "points": points}],
    }
