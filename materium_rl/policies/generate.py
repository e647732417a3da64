"""``materium-rl generate``: sample a policy, write the structures."""

from __future__ import annotations

from pathlib import Path

import torch

from materium_rl.config import GenerateConfig
from materium_rl.files import atomic_path
from materium_rl.policies.loading import load_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.structure_files import write_structures
from materium_rl.token_layout import TokenClass


def generate(config: GenerateConfig) -> Path:
    """Sample n crystals and write ``generated.extxyz``, ``generated.parquet`` and ``cif/``.

    The folder takes its name only when it is complete. What was asked of the composition is kept beside
    every sample.

    Returns:
        The output folder.

    Raises:
        ConfigError: The policy cannot meet the constraints.
    """
    policy = load_policy(config.policy, device="cuda" if torch.cuda.is_available() else "cpu")
    request = config.constraints.request()
    completions = sample_many(
        policy.model,
        config.n,
        seed=config.seed,
        temperature=config.temperature,
        batch_size=config.batch_size,
        rules=policy.model.grammar.rules(config.constraints) if request else None,
    )
    structures = [policy.codec.decode(row.tolist()) for row in completions.ids]
    log_probs = completions.log_probs.sum(dim=1)
    lengths = (completions.ids != TokenClass.PAD).sum(dim=1)
    properties = [
        {
            "index": i,
            "seed": config.seed,
            "policy": config.policy,
            "log_prob": log_prob,
            "n_tokens": length,
            **request,
        }
        for i, (log_prob, length) in enumerate(zip(log_probs.tolist(), lengths.tolist(), strict=True))
    ]
    with atomic_path(config.out) as folder:
        folder.mkdir()
        write_structures(structures, folder / "generated.extxyz", properties=properties)
        write_structures(structures, folder / "generated.parquet", properties=properties)
        write_structures(structures, folder / "cif")
    print(f"{len(structures)} structures in {config.out}: generated.extxyz, generated.parquet, cif/")
    return config.out
