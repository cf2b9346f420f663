"""`python -m analyses.benchmarks.gpu`: the cost of a layer's maps, tiles, scan and proofs on a CUDA GPU.

The same run also times the bare float32 matrix products that an exact map needs.
"""

import sys
from collections.abc import Callable
from functools import partial

import torch

from analyses.benchmarks import operands, results
from analyses.benchmarks.accuracy import exact_rows, worst_row_error
from analyses.benchmarks.cuda_timing import peak
from analyses.benchmarks.timing import Timing, take_turns
from ssmlens.scan.hidden_attention import attention_map_and_mask, channel_agreement, channel_maps
from ssmlens.scan.operators.decay_scan import ScanOperands
from ssmlens.scan.reduce import ReducedMaps, reduced_maps
from ssmlens.scan.selective_scan import selective_scan

# A layer of mamba-370m's shape (d_inner 2048, N 16), and of mamba2-2.7b's (80 heads of 64 channels, N 128).
LAYERS: dict[str, Callable[[int], ScanOperands]] = {
    "Mamba-1": operands.mamba1,
    "Mamba-2": partial(operands.mamba2, heads=80),
}
_HEADDIM = {"Mamba-1": 1, "Mamba-2": 64}
_INNER = 2048 * 16


def main() -> None:
    """Print three tables and write results/gpu.json."""
    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA GPU")
    # Bare products in float32 like the maps, not in TF32.
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.no_grad():
        found = {
            "machine": results.gpu_machine(),
            "whole_maps": [_whole(name, tokens) for name, tokens in _cases((256, 1024, 4096))],
            "tiles": [_tiled(name, 16384) for name in LAYERS],
            "proofs": [_proofs(name, tokens) for name, tokens in _cases((1024, 4096))],
        }
    print(f"\nwritten: {results.write('gpu', found)}")


def _cases(lengths: tuple[int, ...]) -> list[tuple[str, int]]:
    return [(name, tokens) for name in LAYERS for tokens in lengths]


def _whole(name: str, tokens: int) -> dict[str, object]:
    """attention_map_and_mask against [token, inner]·[inner, token], which has as many operations as for Mamba-1.

    Mamba-2 needs fewer operations, so its ratio only shows how much cheaper it is than Mamba-1.
    """
    layer = _layer(name, tokens)
    timings = _take_turns(
        {"maps": partial(attention_map_and_mask, layer), "product": _product(tokens)}
    )
    map_error, mask_error = worst_row_error(layer, *attention_map_and_mask(layer))
    row = {
        "layer": name,
        "tokens": tokens,
        **timings["maps"].record(),
        "products_s": timings["product"].median,
        "ratio": timings["maps"].ratio(timings["product"]),
        "peak_MiB": peak(partial(attention_map_and_mask, layer)),
        "map_error": map_error,
        "mask_error": mask_error,
    }
    return _show("map and mask", row)


def _tiled(name: str, tokens: int, block: int = 16) -> dict[str, object]:
    """reduced_maps of a long prompt against as many operations of one large product."""
    layer, sample = _layer(name, tokens), 4096
    timings = _take_turns(
        {"maps": partial(reduced_maps, layer, block), "product": _product(sample)}, repetitions=3
    )
    share = (tokens / sample) ** 2
    row = {
        "layer": name,
        "tokens": tokens,
        **timings["maps"].record(),
        "products_s": share * timings["product"].median,
        "ratio": timings["maps"].ratio(timings["product"]) / share,
        "peak_MiB": peak(partial(reduced_maps, layer, block)),
        **_row_sum_errors(layer, reduced_maps(layer, block)),
    }
    return _show("tiles", row)


def _proofs(name: str, tokens: int) -> dict[str, object]:
    """Time everything besides the maps that a capture computes for a layer, in seconds."""
    layer = _layer(name, tokens)
    random = torch.Generator("cuda").manual_seed(0)
    shape = (1, tokens, layer.heads, _HEADDIM[name])
    x = torch.randn(shape, device="cuda", generator=random)
    with_x = ScanOperands(delta=layer.delta, A=layer.A, B=layer.B, C=layer.C, x=x)
    timings = _take_turns(
        {
            "scan": partial(selective_scan, with_x),
            "probe": partial(layer.probe, x[:, :, 0, 0]),
            "agreement": partial(channel_agreement, layer),
            "four_channels": partial(channel_maps, layer, [0, 1, 2, 3]),
        }
    )
    row = {f"{what}_s": timing.median for what, timing in timings.items()}
    return _show("beside", {"layer": name, "tokens": tokens, **row})


def _layer(name: str, tokens: int) -> ScanOperands:
    return LAYERS[name](tokens).map(lambda tensor: tensor.cuda())


def _product(tokens: int) -> Callable[[], torch.Tensor]:
    left, right = (torch.randn(tokens, _INNER, device="cuda") for _ in range(2))
    return partial(torch.mm, left, right.T)


def _take_turns(things: dict[str, Callable[[], object]], repetitions: int = 7) -> dict[str, Timing]:
    def finished(thing: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            thing()
            torch.cuda.synchronize()

        return run

    return take_turns({name: finished(thing) for name, thing in things.items()}, repetitions)


def _row_sum_errors(layer: ScanOperands, reduced: ReducedMaps, rows: int = 8) -> dict[str, float]:
    """Return the worst relative errors of Σ|map| and Σ mask over some queries, against float64."""
    assert reduced.mask_row_sum is not None
    errors = []
    for i in torch.linspace(layer.tokens / rows, layer.tokens - 1, rows).long().tolist():
        exact_map, exact_mask = exact_rows(layer, i)
        wanted = torch.stack([exact_map.abs().sum(), exact_mask.sum()])
        got = torch.stack([reduced.row_magnitude[i], reduced.mask_row_sum[i]]).double()
        errors.append((got - wanted).abs() / wanted)
    map_error, mask_error = torch.stack(errors).amax(0).tolist()
    return {"map_error": map_error, "mask_error": mask_error}


def _show(what: str, row: dict[str, object]) -> dict[str, object]:
    cells = (
        f"{name} {value:.3g}" if isinstance(value, float) else str(value)
        for name, value in row.items()
    )
    print(f"{what}: {', '.join(cells)}", flush=True)
    return row


if __name__ == "__main__":
    main()
