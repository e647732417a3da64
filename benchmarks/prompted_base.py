"""What constraints as prompts cost a policy before any fine-tuning.

    python benchmarks/prompted_base.py --policy nano -n 192

Samples with prompts drawn from the training structures, beside free ones: valid, below 0.1 eV/atom (CHGNet,
not relaxed), sites, and the share of the commonest element of a crystal.
"""

from __future__ import annotations

import argparse

import numpy as np

from materium_rl.policies.loading import load_policy
from materium_rl.policies.sampling import sample_many
from materium_rl.prompting import PromptSource, prompt_tensors
from materium_rl.prompts import PromptsConfig
from materium_rl.rewards.scoring import Scorer

CASES = {
    "free": (),
    "n_sites": ("n_sites",),
    "chemical_system": ("chemical_system",),
    "both": ("n_sites", "chemical_system"),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="nano")
    parser.add_argument("-n", type=int, default=192)
    given = parser.parse_args()
    policy = load_policy(given.policy)
    for title, names in CASES.items():
        config = PromptsConfig(constraints=dict.fromkeys(names, "training"))
        source = PromptSource(config, policy, given.policy)
        prompts = source.draw_repeated(given.n, seed=0, stream=0, repeats=1)
        drawn = sample_many(policy.model, given.n, seed=0, **prompt_tensors(policy.model, prompts).keywords)
        structures = [policy.codec.decode(row.tolist()) for row in drawn.ids]
        with Scorer("stability", gates=["validity"]) as scorer:
            table = scorer.score(structures)
        stable = np.nan_to_num(table.values("stability"), nan=np.inf) < 0.1
        shares = [max(s.composition.fractional_composition.values()) for s in structures]
        print(
            f"{title:16} valid {(table.outcomes != 'invalid').mean():.0%}  stable {stable.mean():.0%}  "
            f"sites {np.mean([len(s) for s in structures]):.1f}  commonest element {np.mean(shares):.0%}"
        )
