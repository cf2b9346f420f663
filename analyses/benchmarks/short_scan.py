"""`python -m analyses.benchmarks.short_scan`: the scan of short sequences against mamba_ssm's kernel, on a CUDA GPU.

It times the forward and backward passes of one scan and of one Mamba layer, batch 64, each recorded as a CUDA graph, in
turns. It also measures their peak GPU memory.
"""

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from analyses.benchmarks import cuda_timing, results
from ssmlens.models.short_mamba import short_forward
from ssmlens.models.short_scan import short_scan

_BATCH, _CHANNELS, _STATES = 64, 512, 32
_LENGTHS = (26, 52, 102, 128, 192, 256, 512)
_OTHER_STATES = (16, 64, 128)


def main() -> None:
    """Print two tables and write results/short_scan.json."""
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA GPU")
    measurements: dict[str, object] = {
        "machine": results.gpu_machine(),
        "scans": [scan(tokens, _STATES) for tokens in _LENGTHS]
        + [scan(tokens, states) for states in _OTHER_STATES for tokens in (52, 128)],
        "layers": [layer(tokens) for tokens in _LENGTHS],
    }
    print(f"\nwritten: {results.write('short_scan', measurements)}")


def scan(tokens: int, states: int) -> dict[str, object]:
    """Time both passes of one scan, with bfloat16 operands as under autocast; and compare the gradients."""
    interface: Any = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    ours = _operands(tokens, states)
    # mamba_ssm's kernel needs channels before tokens. The transposition is not timed.
    theirs = [x.mT.contiguous() if x.ndim == 3 else x for x in ours]
    weight = torch.randn(_BATCH, tokens, _CHANNELS, device="cuda").bfloat16()

    def kernel(u: Tensor, dt: Tensor, A: Tensor, *others: Tensor) -> Tensor:
        B, C, D, z, bias = others
        return interface.selective_scan_fn(
            u, dt, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True
        )

    things = {
        "short": _both_passes(short_scan, ours, weight),
        "mamba_ssm": _both_passes(kernel, theirs, weight.mT.contiguous()),
    }
    expected = [x.mT if x.ndim == 3 else x for x in things["mamba_ssm"]()]
    difference = max(
        float((a - b).norm() / b.norm()) for a, b in zip(things["short"](), expected, strict=True)
    )
    return _compared({"tokens": tokens, "states": states}, things) | {"difference": difference}


def layer(tokens: int) -> dict[str, object]:
    """Time a Mamba layer of width 256 under bfloat16 autocast."""
    library: Any = importlib.import_module("mamba_ssm.modules.mamba_simple")
    torch.manual_seed(0)
    mixer = library.Mamba(256, d_state=_STATES, device="cuda")
    hidden = torch.randn(_BATCH, tokens, 256, device="cuda")
    weight = torch.randn_like(hidden).bfloat16()
    parameters = list(mixer.parameters())

    def through(forward: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
        def run(hidden: Tensor, *_: Tensor) -> Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                return forward(hidden)

        return run

    things = {
        "short": _both_passes(
            through(lambda x: short_forward(mixer, x)), [hidden, *parameters], weight
        ),
        "mamba_ssm": _both_passes(through(mixer), [hidden, *parameters], weight),
    }
    return _compared({"tokens": tokens, "layer": "Mamba, d_model 256, N 32"}, things)


def _operands(tokens: int, states: int) -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device="cuda")

    u, dt, z = (draw(_BATCH, tokens, _CHANNELS).bfloat16() for _ in range(3))
    B, C = (draw(_BATCH, tokens, states).bfloat16() for _ in range(2))
    A = -torch.arange(1, states + 1, device="cuda") * torch.exp(0.3 * draw(_CHANNELS, states))
    return [u, dt, A, B, C, draw(_CHANNELS), z, draw(_CHANNELS) * 0.8 - 4.6]


def _both_passes(
    forward: Callable[..., Tensor], inputs: Sequence[Tensor], weight: Tensor
) -> Callable[[], list[Tensor]]:
    """The output and the gradient of every input."""
    leaves = [x.requires_grad_() for x in inputs]

    def run() -> list[Tensor]:
        out = forward(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, weight)]

    return run


def _compared(
    row: dict[str, object], things: dict[str, Callable[[], list[Tensor]]]
) -> dict[str, object]:
    timings = cuda_timing.take_turns({k: cuda_timing.graphed(v) for k, v in things.items()})
    peaks = {k: cuda_timing.peak(v) for k, v in things.items()}
    faster = timings["mamba_ssm"].ratio(timings["short"])
    text = ", ".join(f"{k} {v.median * 1e6:.0f} µs {peaks[k]:.0f} MiB" for k, v in timings.items())
    print(f"{', '.join(f'{k} {v}' for k, v in row.items())}: {text}: {faster:.2f}", flush=True)
    return {
        **row,
        **{f"{k}_s": timing.record() for k, timing in timings.items()},
        **{f"{k}_MiB": peak for k, peak in peaks.items()},
        "faster": faster,
    }


if __name__ == "__main__":
    main()
