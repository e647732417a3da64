"""GRPO on crystals: TRL's trainer with our sampler, scores and log-probabilities.

TRL keeps the optimizer, the clipped loss, the KL penalty to the reference policy and the loop. What is
replaced: sampling (the static-cache sampler), scoring (the whole table of outcomes instead of a list of
floats) and the log-probabilities (TRL's own path skips the model's forward, and with it the grammar).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import PrinterCallback
from trl import GRPOTrainer

from materium_rl.config import FinetuneConfig
from materium_rl.datasets import pad
from materium_rl.memory import release_memory
from materium_rl.policies.loading import Policy, load_policy, save_policy
from materium_rl.policies.modeling import CrystalForCausalLM
from materium_rl.prompting import UNPROMPTED, PromptSource, PromptTensors, prompt_tensors
from materium_rl.prompts import Prompt
from materium_rl.rewards.base import Outcome
from materium_rl.rewards.score_table import ScoreTable
from materium_rl.rewards.scoring import Scorer
from materium_rl.rl.advantages import (
    group_advantages,
    normalized_terms,
    teaching,
    zero_spread_fraction,
)
from materium_rl.rl.arguments import trainer_arguments
from materium_rl.rl.guards import Guards
from materium_rl.rl.kl import KLController
from materium_rl.rl.progress import Progress
from materium_rl.rl.replay import Memory, ReplayBuffer
from materium_rl.rl.rollout import Rollout, collect, rollout_metrics
from materium_rl.rl.second_opinion import SecondOpinions
from materium_rl.rl.sentinel import Alarm, Sentinel
from materium_rl.rl.signals import facts_of
from materium_rl.rl.stages import ROLLOUT_STATE, Stage, rollout_state
from materium_rl.rl.token_scores import log_probs_by_length
from materium_rl.runs import RunFolder
from materium_rl.token_layout import TokenClass
from materium_rl.tokenizer import CrystalTokenizer


class Part(Protocol):
    """What remembers something from step to step."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""
        ...


class CrystalGRPOTrainer(GRPOTrainer):
    """One batch of crystals per generation; see ``_generate_and_score_completions``.

    Args:
        policy: Policy to train.
        scorer: Scores the decoded structures.
        guards: Descriptors whose drift is held back.
        config: The whole fine-tuning config.
        run: Where samples, metrics and checkpoints go.
        progress: Shows each step to the user.
        stage: Which stage of the run this is; a run without stages is one.
    """

    def __init__(
        self,
        policy: Policy,
        scorer: Scorer,
        guards: Guards,
        config: FinetuneConfig,
        run: RunFolder,
        progress: Progress,
        stage: Stage | None = None,
    ) -> None:
        self.codec, self.scorer, self.guards = policy.codec, scorer, guards
        self.config, self.run, self.progress = config, run, progress
        self.stage = stage or Stage()
        super().__init__(
            model=policy.model,
            reward_funcs=[_scored_in_rollout],
            args=trainer_arguments(
                config,
                run.path,
                max_completion_length=policy.model.config.layout().max_completion_length,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["[SOS] [ATOMS]"] * config.rl.batch_size}),
            processing_class=CrystalTokenizer(policy.codec.settings),
        )
        self.remove_callback(PrinterCallback)
        self.replay = ReplayBuffer(config.replay.capacity, config.replay.per_framework)
        self._replayed: list[Memory] = []
        self.prompts = PromptSource(config.prompts, policy, config.policy)
        self._asked, self._rows = UNPROMPTED, torch.arange(config.rl.batch_size)
        self.average = AveragedModel(policy.model, multi_avg_fn=get_ema_multi_avg_fn(config.rl.average_decay))
        self.kl = KLController(config.rl.kl_coef, config.rl.kl_target, config.rl.kl_horizon)
        self.sentinel = Sentinel(config.sentinel)
        self.second_opinions = SecondOpinions(scorer.paying, config.sentinel.opinions)
        self.alarm: Alarm | None = None
        self._last: tuple[pd.DataFrame, dict[str, tuple[float, float]]] | None = None

    @property
    def steps_done(self) -> int:
        """Batches of completions that have been learnt from."""
        return int(self.state.global_step) // self.config.rl.updates_per_step

    def _generate_and_score_completions(self, _inputs: Any) -> dict[str, Tensor]:
        """Sample, decode, score, advantages, record: the inputs of TRL's loss."""
        step = self.steps_done + 1
        rl = self.config.rl
        rollout = collect(
            self.accelerator.unwrap_model(self.model),
            self.codec,
            self.scorer,
            batch_size=rl.batch_size,
            seed=self.config.seed,
            step=step,
            temperature=self._temperature(step),
            prompts=self.prompts.draw_repeated(
                rl.batch_size, seed=self.config.seed, stream=step, repeats=rl.prompt_size
            ),
        )
        self._asked = rollout.asked
        credited = self._credited(step, rollout.table)
        signal, columns = self._signal(credited)
        inputs = self._loss_inputs(rollout)
        columns |= self._add_advantages(inputs, rollout, signal)
        self._count_kl(inputs, rollout.completion_mask)
        self._record(step, rollout, columns)
        self._remember(step, rollout, credited)
        release_memory()
        torch.manual_seed(
            self.config.seed * 1_000_003 + step
        )  # TRL shuffles the batch: the same after a resume
        return inputs

    def _temperature(self, _step: int) -> float:
        """At which the batch of a step is sampled."""
        return self.config.rl.temperature

    def _credited(self, _step: int, table: ScoreTable) -> ScoreTable:
        """The scores that are learnt from."""
        return table

    def _add_advantages(
        self, inputs: dict[str, Tensor], rollout: Rollout, signal: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Put into the inputs of the loss what the batch teaches; returns columns to record.

        Groups without an advantage, as all earned the same, are left out of the loss.

        Args:
            inputs: Those of TRL's loss, without advantages.
            rollout: The batch.
            signal: Rewards of the batch as ``_signal`` makes them, (B,); NaN where there is none.
        """
        size = self.config.rl.group_size
        standard = self.guards.standardise(rollout.structures)
        advantages = group_advantages(
            signal,
            size,
            scale=self.config.rl.scale_rewards,
            descriptors=standard,
            floors=self.guards.is_floor,
        )
        advantages += self._restoring(rollout, standard)
        used = teaching(advantages, size)
        self._metrics["train"]["frac_groups_skipped"].append(float(1 - used.mean()))
        mask = inputs["completion_mask"]
        inputs["completion_mask"] = mask * torch.from_numpy(used).to(mask)[:, None]
        inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
        inputs["advantages"] = torch.from_numpy(advantages).to(rollout.log_probs)
        return {"advantage": advantages}

    def _restoring(self, rollout: Rollout, standard: np.ndarray) -> np.ndarray:
        """Advantages (B,) that push back what has drifted; 0 where nothing could be measured.

        Those of a group add up to 0: what all its samples were asked for is not theirs to change.
        """
        term = self.guards.restoring(standard, rollout.table.outcomes != "invalid")
        grouped = term.reshape(-1, self.config.rl.baseline_size)
        term = (grouped - grouped.mean(axis=1, keepdims=True)).reshape(-1)
        kept: np.ndarray = np.where(np.isnan(rollout.table.rewards), 0.0, term)
        return kept

    def _count_kl(self, inputs: dict[str, Tensor], mask: Tensor) -> None:
        """Steer the weight of the KL penalty by the KL divergence per token of the batch."""
        if self.config.rl.kl_target is None:
            return
        kl = float(
            ((inputs["old_per_token_logps"] - inputs["ref_per_token_logps"]) * mask).sum() / mask.sum()
        )
        self._metrics["train"]["kl_coef"].append(self.kl.coef)
        self.kl.update(kl, len(mask))
        self._weigh_kl()

    def _weigh_kl(self) -> None:
        """Hand the weight of the KL penalty to TRL's loss."""
        self.beta = self.kl.coef

    def _signal(self, table: ScoreTable) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """What the advantages are relative to, (B,), and columns to record of it.

        The rewards, or the sum of the terms, each normalised within its group.
        """
        power, weights = self.config.rl.reward_power, self.scorer.weights
        if self.scorer.aggregation != "normalized":
            return table.rewards**power, {}
        names = [name for name, weight in weights.items() if weight > 0]
        parts = normalized_terms(
            table.gated_scores(names) ** power,
            np.array([weights[name] for name in names]),
            self.config.rl.baseline_size,
        )
        columns = {f"{name}.normalized": part for name, part in zip(names, parts.T, strict=True)}
        return parts.sum(axis=1), columns

    def _remember(self, step: int, rollout: Rollout, credited: ScoreTable) -> None:
        """Take the batch into the replay buffer, and draw what this update imitates."""
        prompt = self.codec.prompt
        wishes = [wish.as_data() for wish in rollout.prompts] or [{}] * len(credited)
        self.replay.add(
            [
                Memory(
                    structure=f"{row.labels['formula']} {row.labels['prototype']}",
                    framework=row.labels["framework"] or row.labels["formula"],
                    reward=row.reward,
                    tokens=[*prompt, *ids[ids != TokenClass.PAD].tolist()],
                    prompt=wish,
                )
                for row, ids, wish in zip(credited, rollout.completion_ids, wishes, strict=True)
                if row.outcome == Outcome.OK
            ]
        )
        rng = np.random.default_rng((self.config.seed, 3, step))
        self._replayed = self.replay.draw(self.config.replay.batch_size, rng)

    def _compute_loss(self, model: Any, inputs: dict[str, Tensor]) -> Tensor:
        """TRL's loss, and the negative log-likelihood per token of the replayed crystals."""
        self._rows = inputs["row"]
        loss: Tensor = super()._compute_loss(model, inputs)
        if self._replayed:
            policy: CrystalForCausalLM = self.accelerator.unwrap_model(model)
            ids, first = pad([np.array(m.tokens) for m in self._replayed]), len(self.codec.prompt)
            ids = ids.to(loss.device)
            log_probs, _ = log_probs_by_length(
                policy, ids, self.config.rl.temperature, first, self._asked_of_replayed(policy)
            )
            imitation = -log_probs.sum() / (ids[:, first:] != TokenClass.PAD).sum()
            self._metrics["train"]["replay/nll"].append(float(imitation.detach()))
            loss = loss + self.config.replay.coef * imitation
        return loss

    def _asked_of_replayed(self, policy: CrystalForCausalLM) -> PromptTensors:
        """What the replayed crystals were asked for."""
        return prompt_tensors(policy, [Prompt.from_data(m.prompt) for m in self._replayed if m.prompt])

    def _loss_inputs(self, rollout: Rollout) -> dict[str, Tensor]:
        """The inputs of TRL's loss that do not depend on the rewards.

        ``row`` is the place of each completion in the batch, as TRL shuffles and divides it.
        """
        mask = rollout.completion_mask
        inputs = {
            "row": torch.arange(len(mask), device=mask.device),
            "prompt_ids": rollout.prompt_ids,
            "prompt_mask": torch.ones_like(rollout.prompt_ids),
            "completion_ids": rollout.completion_ids,
            "completion_mask": mask,
            "num_items_in_batch": mask.sum(),
            "old_per_token_logps": rollout.log_probs,
        }
        if self.ref_model is not None:
            with torch.no_grad():
                inputs["ref_per_token_logps"] = log_probs_by_length(
                    self.ref_model,
                    rollout.whole,
                    self.config.rl.temperature,
                    rollout.prompt_ids.shape[1],
                    rollout.asked,
                )[0]
        return inputs

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Tensor, _attention_mask: Tensor, logits_to_keep: int, **_: Any
    ) -> tuple[Tensor, Tensor, None]:
        """Grammar-masked log-probabilities and entropies of the last ``logits_to_keep`` tokens.

        The sequences are those of the rows ``_rows`` of the batch.
        """
        policy: CrystalForCausalLM = self.accelerator.unwrap_model(model)
        first = input_ids.shape[1] - logits_to_keep
        asked = self._asked.at(self._rows)
        return *log_probs_by_length(policy, input_ids, self.config.rl.temperature, first, asked), None

    def _record(self, step: int, rollout: Rollout, columns: dict[str, np.ndarray]) -> None:
        frame = rollout.to_frame().assign(**columns, **self.stage.label)
        self.run.write_samples(step, frame)
        self._last = frame, self.second_opinions.ask(rollout.structures, rollout.table)
        metrics = rollout_metrics(frame, self.scorer.names)
        metrics["frac_reward_zero_std"] = zero_spread_fraction(
            rollout.table.rewards, self.config.rl.baseline_size
        )
        metrics["completions/mean_length"] = float(rollout.completion_mask.sum(dim=1).float().mean())
        metrics |= {f"guard/{name}": drift for name, drift in self.guards.drift().items()}
        for name, value in metrics.items():
            self._metrics["train"][name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write one line of metrics and show it."""
        super().log(logs, start_time)
        if "loss" in logs:
            row: dict[str, Any] = {"step": self.steps_done, **logs}
            if "step_time" in row:  # TRL's is the mean of the updates of a step
                row["step_time"] *= self.config.rl.updates_per_step
            row |= self.stage.label | self._watch(row)
            self.stage.observe(row)
            if self.stage.ended:
                self.control.should_training_stop = self.control.should_save = True
            self.run.append_metrics(row)
            self.progress.show(row)

    def _watch(self, row: dict[str, Any]) -> dict[str, float]:
        """Show the step to the sentinel, answer its alarms; returns what it saw, for the metrics."""
        assert self._last is not None
        frame, opinions = self._last
        facts = facts_of(frame, self.scorer.weights, row, opinions)
        seen, alarms = self.sentinel.observe(self.steps_done, facts)
        for alarm in alarms:
            self.progress.say(f"sentinel, {alarm.response}: {alarm.text}")
        if alarms:
            self.run.write_alarms(self.sentinel.records())
            self._answer(alarms[0])
        return {f"sentinel/{name}": value for name, value in seen.items()}

    def _answer(self, alarm: Alarm) -> None:
        """Do what the severest alarm of a step asks for; what ends the training is left to its caller."""
        if alarm.response == "raise_kl":
            self.kl.coef *= self.config.sentinel.kl_factor
            self._weigh_kl()
        elif alarm.response in ("roll_back", "stop"):
            self.alarm = alarm
            self.control.should_training_stop = True
            self.control.should_save |= alarm.response == "stop"

    def _save_checkpoint(self, _model: Any, _trial: Any) -> None:
        """Write weights, optimizer, schedule, generators, archives and guards under one name."""
        config = self.config
        with self.run.checkpoint(
            self.steps_done, keep=config.keep_checkpoints, every=config.checkpoint_every
        ) as folder:
            self.save_model(str(folder), _internal_call=True)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_rng_state(str(folder))
            self.state.save_to_json(str(folder / "trainer_state.json"))
            self._write_parts(folder)
            self._write_policy(folder / "policy")

    def _write_policy(self, folder: Path) -> None:
        """Write what the run has come to so far."""
        save_policy(cast("CrystalForCausalLM", self.average.module), self.codec.settings, folder)

    def _write_parts(self, folder: Path) -> None:
        """Write what ``restore_rollout_state`` reads, but for the averaged weights."""
        (folder / "archives.json").write_text(json.dumps(self.scorer.state_dict()), encoding="utf-8")
        torch.save({name: part.state_dict() for name, part in self._parts.items()}, folder / ROLLOUT_STATE)

    @property
    def _parts(self) -> dict[str, Part]:
        return {
            "guards": self.guards,
            "replay": self.replay,
            "kl": self.kl,
            "sentinel": self.sentinel,
            "stage": self.stage,
        }

    def restore_rollout_state(self, checkpoint: Path) -> None:
        """Load archives, guards, replay and averaged weights; ``train`` loads weights and optimizer."""
        self.scorer.load_state_dict(json.loads((checkpoint / "archives.json").read_text(encoding="utf-8")))
        self._restore(checkpoint, list(self._parts))
        self._weigh_kl()

    def carry_over(self, checkpoint: Path) -> None:
        """Load what outlives a stage: averaged weights, and what is measured by the pretrained policy.

        Archives, replay and critic know what the last reward paid for, and start anew.
        """
        self._restore(checkpoint, ["guards", "sentinel"])

    def _restore(self, checkpoint: Path, names: list[str]) -> None:
        self.average.module.load_state_dict(load_policy(checkpoint / "policy").model.state_dict())
        self.average.n_averaged.fill_(1)
        state = rollout_state(checkpoint)
        for name in names:
            self._parts[name].load_state_dict(state[name])
        self.run.write_alarms(self.sentinel.records())

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """TRL's schedule, from the first to the last step of the stage."""
        before = (self.stage.first - 1) * self.config.rl.updates_per_step
        schedule = super().create_scheduler(num_training_steps - before, optimizer)
        schedule.lr_lambdas = [partial(_later, rule, before) for rule in schedule.lr_lambdas]
        return schedule

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Go on with the optimizer, at the rate of the config, which a stage or resumed run may change."""
        rates = list(self.lr_scheduler.base_lrs)
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint:
            schedule = self.lr_scheduler
            schedule.base_lrs = rates
            schedule._last_lr = [
                rate * rule(schedule.last_epoch)
                for rate, rule in zip(rates, schedule.lr_lambdas, strict=True)
            ]
            for group, rate, now in zip(self.optimizer.param_groups, rates, schedule._last_lr, strict=True):
                group["initial_lr"], group["lr"] = rate, now


def _later(rule: Callable[[int], float], before: int, update: int) -> float:
    return rule(max(0, update - before))


def _scored_in_rollout(**_: Any) -> list[float]:
    raise RuntimeError("rewards are computed in CrystalGRPOTrainer._generate_and_score_completions")
