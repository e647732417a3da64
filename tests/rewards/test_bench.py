"""The test bench: every built-in passes, every known mistake of other tools fails."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path

import pytest

from materium_rl.errors import ConfigError
from materium_rl.rewards import registry
from materium_rl.rewards.bench import zoo
from materium_rl.rewards.bench.isolation import check
from materium_rl.rewards.bench.report import CASES, Report, check_here
from materium_rl.rewards.bench.subject import Verdict
from materium_rl.rewards.prototypes import Prototype, prototypes
from materium_rl.structures import structures_match

MISTAKES = Path(__file__).parent / "plugins" / "peer_mistakes.py"
EXAMPLE = Path(__file__).parents[2] / "examples" / "packing_fraction.py"
OPTIONS: dict[str, dict[str, object]] = {
    "external": {"command": shlex.join([sys.executable, str(EXAMPLE)])},
    "displacement": {"steps": 1},
    "composition": {"required": "O"},
    "composition_similarity": {"target": "TiO2"},
    "structure_similarity": {"target": str(MISTAKES.parent / "rutile.cif")},
}
"""For rewards that need some, or are slow without."""
WITHOUT_A_MODEL = {"matgl"}
"""Rewards whose model is the user's; nothing can be checked without one."""
POTENTIALS = {
    "stability", "formation_energy", "energy_per_atom", "magnetic_density", "force", "stress", "displacement"
}  # fmt: skip
"""Rewards that are slow enough for fewer cases."""
FEW_CASES = (
    "options", "known crystals", "company", "curve", "supercell", "oxidation states", "1 % strain",
    "needle cell", "overlapping atoms", "element without reference", "cell not a number", "NaN",
)  # fmt: skip


def built_in() -> list[str]:
    """Every registered reward of this package."""
    return [
        info.name
        for info in registry.available()
        if info.source.startswith("materium-rl ") and info.name not in WITHOUT_A_MODEL
    ]


def bench(target: str, *cases: str) -> Report:
    return check_here(target, lambda: registry.create(target, OPTIONS.get(target, {})), cases or tuple(CASES))


@pytest.mark.parametrize("name", built_in())
def test_every_built_in_passes(name: str) -> None:
    report = bench(name, *(FEW_CASES if name in POTENTIALS else ()))
    assert not report.of(Verdict.FAIL)


@pytest.mark.parametrize(
    ("mistake", "case", "said"),
    [
        ("DuplicateScoredByTheNextNeighbour", "exact duplicate", "written again earns 1.00, alone 1.00"),
        ("UniqueInsideOneBatch", "later batch", "inside one batch"),
        ("DiversityByFormulaAlone", "polymorph", "formula alone"),
        ("MemoryThatIsLost", "saved state", "after saving and restoring"),
        ("DefaultComparator", "oxidation states", "NaCl written again earns 1.00"),
        ("MinMaxOfTheBatch", "company", "unrelated crystals"),
        ("NaNHullBecomesOne", "coordinate not a number", "measured as 1"),
        ("NaNHullBecomesOne", "element without reference", "all get 1"),
        ("ClippedHull", "overlapping atoms", "a blown-up value pays"),
        ("UnclippedHull", "overlapping atoms", "a blown-up value pays"),
        ("BareExcept", "element without reference", "all get 0.5"),
        ("BareExcept", "no sites", "measured as"),
        ("CrashOnAMissingElement", "element without reference", "raised KeyError"),
        ("PhaseDiagramForEverySample", "work done again", "builds 4 phase diagrams"),
        ("OptionIgnored", "options", "temperature: accepted and ignored"),
        ("AnyOptionAccepted", "options", "does not have"),
        ("argument_ignored", "options", "temperature: accepted and ignored"),
        ("UnknownGroupIsPm3m", "coordinate not a number", "measured as 221"),
        ("StrainPays", "1 % strain", "the score rises"),
        ("BrokenWorkerBlamesThePolicy", "known crystals", "blames the policy"),
        ("FewerThanAsked", "known crystals", "returned 0 results for 1 structures"),
        ("DependsOnTheCell", "supercell", "8, written again 16"),
        ("ChangesItsInput", "input", "work on a copy"),
        ("NoSeed", "asked again", "then"),
    ],
)
def test_mistake_of_another_tool_fails(mistake: str, case: str, said: str) -> None:
    report = bench(f"{MISTAKES}:{mistake}", case)
    assert report.verdict is Verdict.FAIL
    assert said in report.of(Verdict.FAIL)[case]


def test_diversity_by_formula_is_also_warned_of_swaps() -> None:
    report = bench(f"{MISTAKES}:DiversityByFormulaAlone", "rare-earth swap", "ordering variant")
    assert set(report.of(Verdict.WARN)) == {"rare-earth swap", "ordering variant"}


def test_hackable_is_a_warning_and_no_failure() -> None:
    report = check_here(
        "density", lambda: registry.create("density", {"target": 0.5, "width": 0.1}), ["vacuum cell"]
    )
    assert report.verdict is Verdict.WARN
    assert "hackable" in report.of(Verdict.WARN)["vacuum cell"]


def test_hang_exit_and_segfault_cost_one_case_each() -> None:
    report = check(
        f"{MISTAKES}:Breaks", timeout=3, cases=["collapsed cell", "noble gas", "no sites", "supercell"]
    )
    failures = report.of(Verdict.FAIL)
    assert failures["collapsed cell"] == "no answer within 3 s"
    said = "the process ended with exit code 7; stderr: no pseudopotential for Ar"
    assert failures["noble gas"] == said
    assert failures["no sites"].startswith("the process was killed by signal 11 (SIGSEGV)")
    assert set(report.of(Verdict.PASS)) == {"supercell"}


def test_what_cannot_be_found_or_loaded() -> None:
    with pytest.raises(ConfigError, match="did you mean 'density'"):
        check("densiti")
    faults = MISTAKES.with_name("faults.py")
    (finding,) = check(f"{faults}:Fault(kind='exit_in_load')").findings
    assert (finding.case, finding.verdict) == ("load", Verdict.FAIL)
    assert "ended with exit code 3" in finding.reason


def test_zoo_is_what_it_says() -> None:
    """Space groups of the textbook crystals, and that every disguise is the same crystal."""
    groups = {"Si": 227, "NaCl": 225, "TiO2": 136, "SrTiO3": 221, "CsCl": 221, "CaF2": 225, "Mg": 194}
    groups["ZnO"] = 186
    labelled = prototypes(list(zoo.crystals().values()))
    found = {k: p.space_group_number for k, p in zip(zoo.crystals(), labelled, strict=True)}
    assert found == groups
    frameworks = [p.framework_label for p in labelled if isinstance(p, Prototype)]
    assert len(set(frameworks)) == len(groups)
    for name in ("NaCl", "TiO2"):
        for disguise in zoo.disguises().values():
            assert structures_match(zoo.crystals()[name], disguise(zoo.crystals()[name]))
    iron, heusler = prototypes(list(zoo.ordering_variant()))
    assert iron.framework_label == heusler.framework_label
    assert iron.label != heusler.label
    assert not structures_match(*zoo.polymorph())


def test_zoo_is_kept_from_rewards() -> None:
    """A reward that changes what it is given does not change the zoo."""
    bench(f"{MISTAKES}:ChangesItsInput")
    assert zoo.crystals()["Si"][0].frac_coords.tolist() == [0.0, 0.0, 0.0]


def test_report_as_data() -> None:
    report = bench("density", "options", "supercell")
    assert report.summary == "2 pass, 0 warn, 0 fail"
    data = report.as_dict()
    assert data["verdict"] == "pass"
    assert data["cases"][1] == {"case": "supercell", "verdict": "pass", "reason": "the same value"}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    warnings.filterwarnings("ignore", message="No Pauling electronegativity")


def test_built_ins_are_all_there() -> None:
    assert {"validity", "novelty", "uniqueness", "stability", "bandgap", "external"} <= set(built_in())
