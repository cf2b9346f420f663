"""A model in training: one optimiser step at a time, on data that never repeat."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.models.tokenizers import tokenizer_of
from ssmlens.tasks.draws import batch_seed
from ssmlens.tasks.metrics import masked_loss, measure
from ssmlens.tasks.rows import TaskBatch
from ssmlens.training.build import build_model
from ssmlens.training.optimiser import clip_gradient, make_optimizer, rate_at
from ssmlens.training.plan import Plan

# Held-out examples are the same for every run of a task, so that runs are compared on one exam.
_EXAM_SEED = 0


class Trainee:
    """A model with its task, optimiser and place in the schedule.

    Args:
        plan: The plan, from `plan.check`.
        device: The device.
    """

    def __init__(self, plan: Plan, device: torch.device):
        self.plan, self.config, self.task, self.device = plan, plan.config, plan.task, device
        self.task.prepare(device)
        self.model: Any = build_model(plan, device)
        strings = self.task.token_strings
        self.model.tokenizer = tokenizer_of(strings) if strings else None
        self.step = 0
        on_gpu = device.type == "cuda"
        # On a GPU the rate is on the device, so that a recorded step reads the current one.
        self._rate = torch.zeros((), device=device) if on_gpu else None
        self.optimizer = make_optimizer(self.config, self.model, on_gpu=on_gpu)

    def train_step(self) -> Float[Tensor, ""]:
        """Do one step on the next batch; return its loss, still on the device."""
        return self.learn(self.task.build(self.next_step(), self.device))

    def next_step(self) -> int:
        """Advance the step count and set the learning rate; return the seed of the step's batch.

        After the last step the rate no longer changes.
        """
        config, step = self.config, self.step
        if step < config.steps:
            rate = rate_at(step, config.steps, config)
            for group in self.optimizer.param_groups:
                group["lr"] = rate if self._rate is None else self._rate
            if self._rate is not None:
                self._rate.fill_(rate)
        self.step += 1
        return batch_seed(config.seed, step)

    def learn(self, batch: TaskBatch) -> Float[Tensor, ""]:
        """Do forward, backward and the optimiser's step; return the loss. Reads nothing back from the device."""
        self.model.train()
        with self._autocast():
            logits = self.model(batch.tokens).logits
        loss = masked_loss(logits, batch.labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        clip_gradient(self.config, self.model)
        self.optimizer.step()
        return loss.detach()

    def evaluate(self, length: int) -> dict[str, float]:
        """Measure (see `measure`) on held-out examples of exactly this length; also free-running, if configured.

        Includes the task's own measures, see `Task.measure_more`.
        """
        task = self.plan.exam(length, self.config.eval_count)
        seed = batch_seed(_EXAM_SEED, length, held_out=True)
        self.model.eval()
        with self._autocast(), torch.no_grad():
            values = measure(
                self.model, task.build(seed, self.device), freely=self.config.free_running
            )
            return values | self.task.measure_more(self.model, seed, self.device)

    def state(self) -> dict[str, Any]:
        """Return the state that a checkpoint needs besides the weights; the same on every device."""
        return {"step": self.step, "optimizer": self.optimizer.state_dict()["state"]}

    def load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Restore a checkpoint's weights and `state`."""
        self.model.load_state_dict(weights)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        self.step = state["step"]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        )
