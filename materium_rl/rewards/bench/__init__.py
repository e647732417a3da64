"""The test bench for rewards: an adversarial zoo, and what a reward should do with each of its animals."""
