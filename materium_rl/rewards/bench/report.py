"""Run the cases in this process, and what is said about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from materium_rl.rewards.base import Reward
from materium_rl.rewards.bench.contract_cases import CONTRACT, FAULTS
from materium_rl.rewards.bench.structure_cases import STRUCTURES
from materium_rl.rewards.bench.subject import Case, Finding, Subject, Verdict

CASES: dict[str, Case] = {**CONTRACT, **STRUCTURES, **FAULTS}


@dataclass(frozen=True, slots=True)
class Report:
    """What the bench found.

    Args:
        target: The reward as it was named.
        findings: One for each case, in the order in which they ran.
    """

    target: str
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings."""
        found = {finding.verdict for finding in self.findings}
        return next(v for v in (Verdict.FAIL, Verdict.WARN, Verdict.PASS) if v in found or v is Verdict.PASS)

    @property
    def summary(self) -> str:
        """How many of each, as ``31 pass, 2 warn, 0 fail``."""
        counts = Counter(finding.verdict for finding in self.findings)
        return ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict)

    def of(self, verdict: Verdict) -> dict[str, str]:
        """Reasons by case of one verdict."""
        return {finding.case: finding.reason for finding in self.findings if finding.verdict is verdict}

    def as_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return {
            "target": self.target,
            "verdict": str(self.verdict),
            "cases": [finding.as_dict() for finding in self.findings],
        }


def run_case(subject: Subject, name: str) -> Finding:
    """Run one case; what it raises is the reward's fault."""
    try:
        return Finding(name, *CASES[name](subject))
    except Exception as error:  # noqa: BLE001 (worker boundary: shaping, state and models are foreign code)
        return Finding(name, Verdict.FAIL, f"raised {type(error).__name__}: {error}")


def check_here(target: str, make: Callable[[], Reward], cases: Iterable[str] = tuple(CASES)) -> Report:
    """Run the bench in this process: quick, but a hang or a crash of the reward is one of this process.

    Args:
        target: What the report calls the reward.
        make: Builds the reward.
        cases: Names of the cases to run.

    Raises:
        RewardError: The reward cannot be loaded.
    """
    subject = Subject(make)
    return Report(target, tuple(run_case(subject, name) for name in cases))
