"""The algorithms of ``rl.algorithm`` by name."""

from __future__ import annotations

from materium_rl.rl.grpo import CrystalGRPOTrainer
from materium_rl.rl.ppo import CrystalPPOTrainer

ALGORITHMS: dict[str, type[CrystalGRPOTrainer]] = {"grpo": CrystalGRPOTrainer, "ppo": CrystalPPOTrainer}
