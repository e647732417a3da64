"""``materium-rl compare``: what changed between policies, how sure, and at what cost."""
