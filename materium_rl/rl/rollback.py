"""What ends or rewinds a run when the sentinel says so."""

from __future__ import annotations

import shutil

import torch

from materium_rl.config import SentinelConfig
from materium_rl.rl.progress import Progress
from materium_rl.rl.sentinel import Alarm, Sentinel, SentinelStopError
from materium_rl.rl.stages import ROLLOUT_STATE, rollout_state
from materium_rl.runs import SIZES, RunFolder, step_of


def answer(alarm: Alarm, run: RunFolder, config: SentinelConfig, progress: Progress) -> None:
    """Roll a run back to its last good checkpoint, or stop it.

    The last good checkpoint is the newest one from before the signal passed its limit. From there on the run
    goes its way again with a KL weight raised by ``kl_factor``; what was recorded after it is removed, but
    for the alarm.

    Raises:
        SentinelStopError: The run is to be stopped, or cannot be rolled back.
    """
    good = run.last_checkpoint_before(alarm.since)
    if alarm.response == "stop":
        hint = f"; the last checkpoint from before is {good}" if good else ""
        go_on = f"--resume --set sentinel.responses.{alarm.signal}=warn"
        raise _stopped(alarm, f"{hint}. To go on all the same: {go_on}")
    if good is None:
        raise _stopped(alarm, ", and there is no older checkpoint to roll back to")
    state = rollout_state(good)
    if state["sentinel"]["rollbacks"] >= config.max_rollbacks:
        raise _stopped(alarm, f", after {config.max_rollbacks} rollbacks")
    run.rewind(step_of(good))
    state["kl"]["coef"] *= config.kl_factor
    sentinel = Sentinel(config)
    sentinel.load_state_dict(state["sentinel"])
    sentinel.alarms.append(alarm)
    sentinel.rollbacks += 1
    state["sentinel"] = sentinel.state_dict()
    with run.checkpoint(step_of(good)) as folder:
        shutil.copytree(good, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SIZES))
        torch.save(state, folder / ROLLOUT_STATE)
    run.write_alarms(sentinel.records())
    progress.say(f"rolled back to step {step_of(good)}, KL weight {state['kl']['coef']:.3g}")


def _stopped(alarm: Alarm, why: str) -> SentinelStopError:
    return SentinelStopError(f"the sentinel stopped the run at step {alarm.step}{why}\n  {alarm.text}")
