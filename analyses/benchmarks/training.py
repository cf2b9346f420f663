"""`python -m analyses.benchmarks.training`: what a training step costs on a CUDA GPU, and many models side by side.

mamba_ssm's models on copy of up to 50 letters (102 tokens), batch 64, bfloat16 autocast.
"""

import dataclasses
import sys
from typing import Any
from unittest import mock

import torch

from analyses.benchmarks import cuda_timing, results
from ssmlens.training import build
from ssmlens.training.config import TrainConfig
from ssmlens.training.pack import Pack
from ssmlens.training.trainee import Trainee

_TASK: dict[str, Any] = {"task": "copy", "length": 50, "min_length": 5, "precision": "bf16"}
WIDE = TrainConfig(**_TASK, mixer="Mamba2", d_model=1024, n_layer=2, d_state=128)
SMALL = {
    "Mamba2": TrainConfig(**_TASK, mixer="Mamba2", d_model=256, n_layer=4, d_state=64),
    "Mamba1": TrainConfig(**_TASK, mixer="Mamba1", d_model=256, n_layer=4, d_state=32),
}
_SIZES = (2, 4, 8, 16)
# Steps before the first that is timed: three without a graph, the recording, and one more.
_WARM_UP = 5


def main() -> None:
    """Print four tables and write results/training.json."""
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA GPU")
    found: dict[str, object] = {
        "machine": {**results.machine(), "gpu": torch.cuda.get_device_name()},
        "graph": [_against_eager(WIDE), *(_against_eager(config) for config in SMALL.values())],
        "short_scan": _short_scan(SMALL["Mamba1"]),
        "packs": [_packed(config, size) for config in SMALL.values() for size in _SIZES],
        "kernels": _kernels(SMALL["Mamba1"]),
    }
    print(f"\nwritten: {results.write('training', found)}")


def _against_eager(config: TrainConfig) -> dict[str, object]:
    """The step launched kernel by kernel, against the whole step as one graph."""
    eager, pack = _trainees(config, 1)[0], _pack(config, 1)
    for _ in range(_WARM_UP):
        eager.train_step()
    timings = cuda_timing.take_turns({"eager": eager.train_step, "graph": pack.step})
    row = {
        "model": _name(config),
        "eager_s": timings["eager"].record(),
        "graph_s": timings["graph"].record(),
        "faster": timings["eager"].ratio(timings["graph"]),
    }
    told = ", ".join(f"{what} {_ms(timing.seconds)}" for what, timing in timings.items())
    print(f"{row['model']}: {told}: {row['faster']:.2f} times faster", flush=True)
    return row


def _short_scan(config: TrainConfig) -> dict[str, object]:
    """The whole step as one graph, with mamba_ssm's Mamba layers as they are, against `use_short_scan`."""
    with mock.patch.object(build, "use_short_scan", lambda model: model):
        without = _pack(config, 1)
    timings = cuda_timing.take_turns({"without": without.step, "with": _pack(config, 1).step})
    faster = timings["without"].ratio(timings["with"])
    told = ", ".join(f"{what} {_ms(timing.seconds)}" for what, timing in timings.items())
    print(f"{_name(config)}, the short scan: {told}: {faster:.2f} times faster", flush=True)
    return {
        "model": _name(config),
        "without_s": timings["without"].record(),
        "with_s": timings["with"].record(),
        "faster": faster,
    }


def _packed(config: TrainConfig, size: int) -> dict[str, object]:
    """So many models in one graph, a stream each, against one after the other."""
    alone, pack = _pack(config, 1), _pack(config, size)
    timings = cuda_timing.take_turns({"alone": alone.step, "pack": pack.step})
    row = {
        "model": _name(config),
        "models": size,
        "alone_s": timings["alone"].record(),
        "pack_s": timings["pack"].record(),
        "throughput": size * timings["alone"].ratio(timings["pack"]),
    }
    print(
        f"{row['model']}: one {_ms(timings['alone'].seconds)}, {size} together "
        f"{_ms(timings['pack'].seconds)}: throughput times {row['throughput']:.2f}",
        flush=True,
    )
    return row


def _kernels(config: TrainConfig) -> list[dict[str, object]]:
    """Where the step's time goes."""
    trainee = _trainees(config, 1)[0]
    for _ in range(_WARM_UP):
        trainee.train_step()
    kernels = cuda_timing.kernel_shares(trainee.train_step)
    print(f"{_name(config)}, kernels of a step:")
    for row in kernels[:12]:
        print(f"  {row['share']:6.1%} {row['us']:8.1f} µs {row['launches']:5.0f} × {row['kernel']}")
    return kernels[:40]


def _pack(config: TrainConfig, size: int) -> Pack:
    pack = Pack(_trainees(config, size))
    for _ in range(_WARM_UP):
        pack.step()
    return pack


def _trainees(config: TrainConfig, count: int) -> list[Trainee]:
    return [
        Trainee(dataclasses.replace(config, seed=seed), torch.device("cuda"))
        for seed in range(count)
    ]


def _name(config: TrainConfig) -> str:
    return f"{config.mixer}, {config.n_layer} layers, d {config.d_model}, N {config.d_state}"


def _ms(seconds: tuple[float, ...]) -> str:
    middle = sorted(seconds)[len(seconds) // 2]
    return f"{middle * 1e3:.2f} ms ({min(seconds) * 1e3:.2f}–{max(seconds) * 1e3:.2f})"


if __name__ == "__main__":
    main()
