"""Several models that learn side by side: on a GPU each whole step of them all is one CUDA graph."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.tasks.draws import seed_tensor
from ssmlens.tasks.rows import TaskBatch
from ssmlens.training.trainee import Trainee

# Steps before a graph is recorded, in which kernels are compiled and tuned, and the optimiser makes its state.
_EAGER = 3


class Pack:
    """Trainees that step together; those on a GPU in one CUDA graph, each on a stream of its own.

    A step's kernels are launched at once, and small models fill the GPU side by side. It takes longest for the slowest,
    so trainees should have the same shape. A trainee whose last step is done stays as it is on a CPU; on a GPU it goes
    on at a rate that no longer matters: make a new pack of those that are left.

    Args:
        trainees: At least one, all on the same device. Weights are updated in place: load them before, not after.
    """

    def __init__(self, trainees: Sequence[Trainee]):
        self._trainees = list(trainees)
        self._eager = _EAGER
        self._graph: _StepGraph | None = None

    def step(self) -> Float[Tensor, "trainee"]:
        """One step of each; returns the losses, on the device."""
        if self._trainees[0].device.type != "cuda" or self._eager:
            self._eager -= 1
            return torch.stack([trainee.train_step() for trainee in self._trainees])
        if self._graph is None:
            self._graph = _StepGraph(self._trainees)
        return self._graph.replay()


class _StepGraph:
    """A training step of some trainees, recorded; a replay reads each one's seed (or batch) and learning rate."""

    def __init__(self, trainees: Sequence[Trainee]):
        self._trainees = trainees
        device = trainees[0].device
        self._seeds = [seed_tensor(0, device) for _ in trainees]
        # Rows that are packed cannot be made in a graph: their number is read back.
        self._batches = [t.task.build(0, device) if t.task.packs else None for t in trainees]
        self._graph = torch.cuda.CUDAGraph()
        streams = [torch.cuda.Stream(device) for _ in trainees]
        with torch.cuda.device(device), torch.cuda.graph(self._graph):
            here, losses = torch.cuda.current_stream(), []
            for k, (trainee, stream) in enumerate(zip(trainees, streams, strict=True)):
                stream.wait_stream(here)
                with torch.cuda.stream(stream):
                    batch = self._batches[k] or trainee.task.build(self._seeds[k], device)
                    losses.append(trainee.learn(batch))
            for stream in streams:
                here.wait_stream(stream)
            self._losses = torch.stack(losses)

    def replay(self) -> Float[Tensor, "trainee"]:
        """The next step of each trainee."""
        for trainee, seed, batch in zip(self._trainees, self._seeds, self._batches, strict=True):
            number = trainee.next_step()
            if batch is None:
                seed.fill_(number)
            else:
                _fill(batch, trainee.task.build(number, trainee.device))
        self._graph.replay()
        return self._losses.clone()


def _fill(held: TaskBatch, batch: TaskBatch) -> None:
    held.tokens.copy_(batch.tokens)
    held.labels.copy_(batch.labels)
    held.target.copy_(batch.target)
