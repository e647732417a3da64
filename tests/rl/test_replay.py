"""The replay buffer holds the best of each framework, and an update raises their likelihood."""

from __future__ import annotations

import numpy as np

from materium_rl.rl.replay import Memory, ReplayBuffer


def memory(structure: str, framework: str, reward: float) -> Memory:
    return Memory(structure, framework, reward, [1, 2, len(structure)])


def held(buffer: ReplayBuffer) -> dict[str, float]:
    return {m["structure"]: m["reward"] for m in buffer.state_dict()["held"]}


def test_the_best_of_each_framework_and_of_all() -> None:
    buffer = ReplayBuffer(capacity=4, per_framework=2)
    buffer.add([memory("a", "F", 0.1), memory("b", "F", 0.3), memory("c", "F", 0.2), memory("d", "G", 0.05)])
    assert held(buffer) == {"b": 0.3, "c": 0.2, "d": 0.05}
    buffer.add([memory("e", "H", 0.4), memory("f", "I", 0.06), memory("none", "J", 0.0)])
    assert held(buffer) == {"e": 0.4, "b": 0.3, "c": 0.2, "f": 0.06}


def test_an_equal_crystal_keeps_its_best_reward() -> None:
    buffer = ReplayBuffer(capacity=4, per_framework=2)
    buffer.add([memory("a", "F", 0.5)])
    buffer.add([memory("a", "F", 0.2)])
    assert held(buffer) == {"a": 0.5}
    buffer.add([memory("a", "F", 0.7)])
    assert held(buffer) == {"a": 0.7}


def test_draws_are_different_even_and_follow_the_generator() -> None:
    buffer = ReplayBuffer(capacity=20, per_framework=2)
    assert buffer.draw(5, np.random.default_rng(0)) == []
    buffer.add([memory("x" * i, f"F{i}", i / 20) for i in range(1, 11)])
    drawn = buffer.draw(5, np.random.default_rng(0))
    assert len({tuple(memory.tokens) for memory in drawn}) == 5
    assert drawn == buffer.draw(5, np.random.default_rng(0))
    assert len(buffer.draw(50, np.random.default_rng(0))) == 10
    counts = np.zeros(11)
    for seed in range(200):
        for found in buffer.draw(5, np.random.default_rng(seed)):
            counts[found.tokens[2]] += 1
    assert counts[1:].min() > 70  # 100 expected


def test_state_survives() -> None:
    buffer = ReplayBuffer(capacity=4, per_framework=2)
    buffer.add([memory("a", "F", 0.5), memory("b", "G", 0.1)])
    other = ReplayBuffer(capacity=4, per_framework=2)
    other.load_state_dict(buffer.state_dict())
    assert other.state_dict() == buffer.state_dict()
