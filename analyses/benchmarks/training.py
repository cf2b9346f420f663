"""`python -m analyses.benchmarks.training [Mamba1|Mamba2]`: the cost of training steps, single and packed, on a GPU.

mamba_ssm's models on copy of up to 50 letters (102 tokens), batch 64, bfloat16 autocast; both mixers unless one is
named.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import torch

from analyses.benchmarks import cuda_timing, results
from ssmlens.training import build
from ssmlens.training.config import TrainConfig
from ssmlens.training.pack import Pack
from ssmlens.training.plan import check
from ssmlens.training.trainee import Trainee

_TASK: dict[str, Any] = {"task": "copy", "length": 50, "min_length": 5, "precision": "bf16"}
_MAMBA1 = TrainConfig(**_TASK, mixer="Mamba1", d_model=256, n_layer=4, d_state=32)
_MAMBA2 = TrainConfig(**_TASK, mixer="Mamba2", d_model=256, n_layer=4, d_state=64)
_WIDE_MAMBA2 = TrainConfig(**_TASK, mixer="Mamba2", d_model=1024, n_layer=2, d_state=128)
_SIZES = (2, 4, 8, 16)
# Steps before the first timed one: three without a graph, the recording, and one more.
_WARM_UP = 5


def main() -> None:
    """Print the rows of each mixer and write results/training_mamba1.json, training_mamba2.json."""
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA GPU")
    parts = {"Mamba1": _mamba1, "Mamba2": _mamba2}
    mixers = sys.argv[1:] or list(parts)
    if not set(mixers) <= set(parts):
        sys.exit(f"mixers to choose from: {', '.join(parts)}")
    for mixer in mixers:
        machine = results.gpu_machine()
        measurements = {"machine": machine, **parts[mixer]()}
        print(f"written: {results.write(f'training_{mixer.lower()}', measurements)}\n")


def _mamba1() -> dict[str, object]:
    with _mamba_ssms_scan():
        before = _kernels(_MAMBA1)
    return {
        "graph": [_against_eager(_MAMBA1)],
        "short_scan": [_against_mamba_ssms_scan(_MAMBA1)],
        "packs": [_packed(_MAMBA1, size) for size in _SIZES],
        "kernels": {"mamba_ssm": before, "short_scan": _kernels(_MAMBA1)},
    }


def _mamba2() -> dict[str, object]:
    return {
        "graph": [_against_eager(config) for config in (_WIDE_MAMBA2, _MAMBA2)],
        "packs": [_packed(_MAMBA2, size) for size in _SIZES],
    }


def _against_eager(config: TrainConfig) -> dict[str, object]:
    """Time the step launched kernel by kernel, and the full step as one graph."""
    eager, pack = _trainees(config, 1)[0], _pack(config, 1)
    for _ in range(_WARM_UP):
        eager.train_step()
    return _faster(_name(config), {"eager": eager.train_step, "graph": pack.step})


def _against_mamba_ssms_scan(config: TrainConfig) -> dict[str, object]:
    """Time the full step as one graph: with mamba_ssm's own Mamba layers, and with `use_short_scan`."""
    with _mamba_ssms_scan():
        without = _pack(config, 1)
    steps = {"mamba_ssm": without.step, "short_scan": _pack(config, 1).step}
    return _faster(f"{_name(config)}, by scan", steps)


def _mamba_ssms_scan() -> AbstractContextManager[object]:
    """Use mamba_ssm's own layers in models that are built inside the block."""
    return mock.patch.object(build, "use_short_scan", lambda model: model)


def _faster(model: str, steps: Mapping[str, Callable[[], object]]) -> dict[str, object]:
    """Time a step in two versions: seconds of both, and the speed-up of the second."""
    timings = cuda_timing.take_turns(steps)
    before, after = timings.values()
    text = ", ".join(f"{way} {_ms(timing.seconds)}" for way, timing in timings.items())
    print(f"{model}: {text}: {before.ratio(after):.2f} times faster", flush=True)
    records = {f"{way}_s": timing.record() for way, timing in timings.items()}
    return {"model": model, **records, "faster": before.ratio(after)}


def _packed(config: TrainConfig, size: int) -> dict[str, object]:
    """Time several models in one graph, one stream each, against one model after another."""
    single, pack = _pack(config, 1), _pack(config, size)
    timings = cuda_timing.take_turns({"alone": single.step, "pack": pack.step})
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
    """Split the time of a step by kernels."""
    trainee = _trainees(config, 1)[0]
    for _ in range(_WARM_UP):
        trainee.train_step()
    kernels = cuda_timing.kernel_shares(trainee.train_step)
    print(f"{_name(config)}, kernels of a step:")
    for row in kernels[:12]:
        print(f"  {row['share']:6.1%} {row['us']:8.1f} µs {row['launches']:5.0f} × {row['kernel']}")
    return kernels[:20]


def _pack(config: TrainConfig, size: int) -> Pack:
    pack = Pack(_trainees(config, size))
    for _ in range(_WARM_UP):
        pack.step()
    return pack


def _trainees(config: TrainConfig, count: int) -> list[Trainee]:
    return [
        Trainee(check(dataclasses.replace(config, seed=seed)), torch.device("cuda"))
        for seed in range(count)
    ]


def _name(config: TrainConfig) -> str:
    return f"{config.mixer}, {config.n_layer} layers, d {config.d_model}, N {config.d_state}"


def _ms(seconds: tuple[float, ...]) -> str:
    middle = sorted(seconds)[len(seconds) // 2]
    return f"{middle * 1e3:.2f} ms ({min(seconds) * 1e3:.2f}–{max(seconds) * 1e3:.2f})"


if __name__ == "__main__":
    main()
