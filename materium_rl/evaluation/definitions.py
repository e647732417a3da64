"""What the figures of ``evaluate`` and ``compare`` are: names, units, and how each is counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from materium_rl.rewards.catalogue.novelty import Tier

STABLE_BELOW = 0.1
"""eV/atom above the hull; about four times CHGNet's error."""
PER = 1024
"""Numbers of distinct things are given per so many structures requested (scaled; they do not grow
in proportion, so compare only equal n)."""
COMMONEST = 5
N_BOOT = 2000
"""Bootstrap resamples."""
NEW_FORMULA_TIERS = (Tier.SUBSTITUTION, Tier.KNOWN_PROTOTYPE, Tier.NEW_PROTOTYPE)
VALIDITY, STABILITY, NOVELTY, GAP = "validity", "stability", "novelty", "bandgap"

Unit = Literal["%", "mean", "count", "bits"]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Definition:
    """What a figure is.

    Args:
        key: Its name in files.
        title: Its name in tables.
        unit: ``%`` (stored as a share, 0 to 1), ``mean``, ``count`` or ``bits``.
        text: How it is counted.
        needs: Rewards that must have been measured.
    """

    key: str
    title: str
    unit: Unit
    text: str
    needs: tuple[str, ...] = ()


FUNNEL = (
    Definition("parsed", "parsed", "%", "completions that decode to a structure"),
    Definition("valid", "valid", "%", "pass the validity gate: distances, density, cell shape, no vacuum"),
    Definition(
        "scored", "scored", "%", "valid, with an energy above the hull and a novelty", (STABILITY, NOVELTY)
    ),
    Definition(
        "failed", "not measured", "%", "valid, but the energy, the band gap or the novelty has failed"
    ),
    Definition("stable", "stable", "%", f"energy above the hull below {STABLE_BELOW} eV/atom", (STABILITY,)),
    Definition("on_hull", "on or below the hull", "%", "energy above the hull of 0 eV/atom", (STABILITY,)),
    Definition(
        "unique",
        "unique",
        "%",
        "valid, and the first of its structure among the samples (StructureMatcher, oxidation states and "
        "cell ignored)",
    ),
    Definition(
        "novel",
        "novel",
        "%",
        "valid; reduced formula neither in the Materials Project nor in the training data",
        (NOVELTY,),
    ),
    Definition(
        "novel_structure",
        "novel by structure",
        "%",
        "valid; matches no training structure (the weaker test: a known formula in a new arrangement counts)",
        (NOVELTY,),
    ),
    Definition(
        "sun", "S.U.N.", "%", "stable, unique and novel; of equal ones the first counts", (STABILITY, NOVELTY)
    ),
    Definition(
        "sun_structure", "S.U.N. by structure", "%", "the same with novel by structure", (STABILITY, NOVELTY)
    ),
    Definition(
        "on_target", "on target", "%", "valid; predicted band gap within one width of the target", (GAP,)
    ),
    Definition(
        "on_target_of_stable",
        "on target, of the stable",
        "%",
        "share of the stable samples",
        (STABILITY, GAP),
    ),
    Definition("sun_on_target", "S.U.N. and on target", "%", "both", (STABILITY, NOVELTY, GAP)),
)
HONESTY = (
    Definition(
        "sun_prototypes",
        f"prototypes in S.U.N. per {PER:,}",
        "count",
        "distinct prototypes (anonymous formula, space group, occupied orbits; rare earths not merged) among "
        f"the S.U.N. samples, per {PER:,} requested",
        (STABILITY, NOVELTY),
    ),
    Definition(
        "sun_frameworks",
        f"frameworks in S.U.N. per {PER:,}",
        "count",
        f"the same with all sites taken as one element, per {PER:,} requested",
        (STABILITY, NOVELTY),
    ),
    Definition(
        "sun_merged_formulas",
        f"merged S.U.N. formulas per {PER:,}",
        "count",
        f"distinct S.U.N. formulas with all rare earths taken as one element, per {PER:,} requested",
        (STABILITY, NOVELTY),
    ),
    Definition(
        "sun_substitutions",
        "substitutions, of the S.U.N.",
        "%",
        "share of the S.U.N. samples that are a training structure with elements swapped in their families",
        (STABILITY, NOVELTY),
    ),
    Definition(
        "sun_new",
        "S.U.N. without substitutions",
        "%",
        "S.U.N. samples that no exchange of elements makes of a training structure or of an earlier S.U.N. "
        "sample, of the structures requested",
        (STABILITY, NOVELTY),
    ),
    Definition(
        "sun_rare_earth_swaps",
        "S.U.N. by rare-earth substitution",
        "%",
        "S.U.N. samples that are a training structure or an earlier S.U.N. sample once all rare earths are "
        "one element (prototype or framework and formula), of the structures requested",
        (STABILITY, NOVELTY),
    ),
    Definition(
        "sun_family_swaps",
        "S.U.N. by other substitution",
        "%",
        "the same within all chemical families, without those before",
        (STABILITY, NOVELTY),
    ),
    Definition(
        "sun_colourings",
        "S.U.N. by other colouring",
        "%",
        "the same with any elements in the same proportions; the four kinds add up to S.U.N.",
        (STABILITY, NOVELTY),
    ),
    Definition("top5", "five commonest prototypes", "%", "samples in the five prototypes written most often"),
    Definition("mean_sites", "mean sites", "mean", "sites per cell, mean over the valid samples"),
    Definition(
        "mean_elements", "mean elements", "mean", "elements per structure, mean over the valid samples"
    ),
    Definition(
        "rare_earth", "with rare earths", "%", "share of the valid samples with Sc, Y or a lanthanide"
    ),
    Definition(
        "anion",
        "with an anion former",
        "%",
        "share of the valid samples with N, O, F, S, Cl, Se, Br, Te or I",
    ),
    Definition(
        "element_divergence",
        "element divergence",
        "bits",
        "Jensen-Shannon divergence from the training data of how often each element occurs (once per "
        "structure, valid samples)",
    ),
    Definition("elements", "elements used", "count", "distinct elements in the valid samples"),
)
PARSED_TOO = tuple(
    Definition(
        f"{d.key}_parsed", f"{d.title} (parsed)", d.unit, "the same over every sample that could be parsed"
    )
    for d in HONESTY
    if d.key in ("mean_sites", "mean_elements", "rare_earth", "anion")
)
DEFINITIONS = (*FUNNEL, *HONESTY, *PARSED_TOO)
