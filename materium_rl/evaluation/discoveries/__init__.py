"""``materium-rl discoveries`` and ``export``: the best structures, and samples for other programs."""
