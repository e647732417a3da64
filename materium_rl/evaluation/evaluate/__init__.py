"""``materium-rl evaluate``: what structures of any origin are worth, who says so, and why."""
