"""How well the critic of a PPO run foresees the rewards, step by step.

    materium-rl finetune --algorithm ppo --reward stability --gate validity --steps 30 --run runs/critic
    python benchmarks/critic.py runs/critic --out docs/images/critic.png

Explained variance of the rewards of a batch by the values that its tokens had before the critic learned from
it: 1 is a perfect critic, 0 one that knows the mean only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from materium_rl.runs import RunFolder

WANTED = 0.3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("critic.png"))
    args = parser.parse_args()
    rows = RunFolder(args.run).read_metrics()
    steps = [row["step"] for row in rows]
    explained = [row["critic/explained_variance"] for row in rows]
    first = next((step for step, value in zip(steps, explained, strict=True) if value > WANTED), None)
    later = explained[len(explained) // 2 :]
    mean = sum(later) / len(later)
    print(f"{len(steps)} steps; above {WANTED} at step {first}; mean of the second half {mean:.2f}")
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(steps, explained, marker=".", label="explained variance")
    axes.plot(steps, [row["reward"] for row in rows], color="0.6", label="mean reward (stability)")
    axes.axhline(WANTED, color="0.8", linestyle="--")
    axes.set(xlabel="step", ylim=(-0.05, 1))
    axes.legend(frameon=False)
    figure.savefig(args.out, dpi=120)


if __name__ == "__main__":
    main()
