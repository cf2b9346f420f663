"""Several models trained side by side; on a GPU one step of all of them is one CUDA graph."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ssmlens.tasks.draws import seed_tensor
from ssmlens.tasks.rows import TaskBatch
from ssmlens.training.trainee import Trainee

# Steps before the graph is recorded: they compile and tune kernels and create the optimiser's state.
_EAGER = 3


class Pack:
    """Trainees that step together; on a GPU in one CUDA graph, each on a stream of its own.

    A step's kernels are launched at once, and small models fill the GPU side by side. The slowest trainee sets the
    pace, so trainees should have the same shape. When a trainee is done, make a new pack of the others: this one would
    train it beyond its last step.

    Args:
        trainees: At least one, all on the same device. Weights are updated in place: load them before, not after.
    """

    def __init__(self, trainees: Sequence[Trainee]):
        self._trainees = list(trainees)
        self._eager = _EAGER
        self._graph: _StepGraph | None = None

    def step(self) -> Float[Tensor, "trainee"]:
        """Do one step of each trainee; return the losses, on the device."""
        if self._trainees[0].device.type != "cuda" or self._eager:
            self._eager -= 1
            return torch.stack([trainee.train_step() for trainee in self._trainees])
        if self._graph is None:
            self._graph = _StepGraph(self._trainees)
        return self._graph.replay()


class _StepGraph:
    """A recorded training step of some trainees; a replay reads each one's seed (or batch) and learning rate."""

    def __init__(self, trainees: Sequence[Trainee]):
        self._trainees = trainees
        device = trainees[0].device
        self._seeds = [seed_tensor(0, device) for _ in trainees]
        # Packed rows cannot be built in a graph: their number is read back from the device.
        self._batches = [t.task.build(0, device) if t.task.packs else None for t in trainees]
        self._graph = torch.cuda.CUDAGraph()
        streams = [torch.cuda.Stream(device) for _ in trainees]
        with torch.cuda.device(device), torch.cuda.graph(self._graph):
            current, losses = torch.cuda.current_stream(), []
            for k, (trainee, stream) in enumerate(zip(trainees, streams, strict=True)):
                stream.wait_stream(current)
                with torch.cuda.stream(stream):
                    batch = self._batches[k] or trainee.task.build(self._seeds[k], device)
                    losses.append(trainee.learn(batch))
            for stream in streams:
                current.wait_stream(stream)
            self._losses = torch.stack(losses)

    def replay(self) -> Float[Tensor, "trainee"]:
        """Do the next step of each trainee; return the losses."""
        for trainee, seed, batch in zip(self._trainees, self._seeds, self._batches, strict=True):
            number = trainee.next_step()
            if batch is None:
                seed.fill_(number)
            else:
                _fill(batch, trainee.task.build(number, trainee.device))
        self._graph.replay()
        return self._losses.clone()


def _fill(static: TaskBatch, batch: TaskBatch) -> None:
    static.tokens.copy_(batch.tokens)
    static.labels.copy_(batch.labels)
    static.target.copy_(batch.target)
