"""Rewards: what a structure is worth, and the machinery that measures it."""
