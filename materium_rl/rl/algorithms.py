"""The algorithms of ``rl.algorithm`` by name."""

from __future__ import annotations

from materium_rl.rl.best_of_n import BestOfNTrainer
from materium_rl.rl.grpo import CrystalGRPOTrainer
from materium_rl.rl.ppo import CrystalPPOTrainer
from materium_rl.rl.sft_accept import SFTAcceptTrainer
from materium_rl.rl.shuffled_reward import ShuffledRewardTrainer
from materium_rl.rl.temperature import TemperatureTrainer

ALGORITHMS: dict[str, type[CrystalGRPOTrainer]] = {
    "grpo": CrystalGRPOTrainer,
    "ppo": CrystalPPOTrainer,
    "best-of-n": BestOfNTrainer,
    "sft-accept": SFTAcceptTrainer,
    "temperature": TemperatureTrainer,
    "shuffled-reward": ShuffledRewardTrainer,
}
