"""Reinforcement learning on crystals: rollout, advantages, guards, GRPO through TRL."""
