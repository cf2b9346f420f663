"""`python -m analyses.benchmarks.maps`: the cost of a layer's attention map and mask.

Two tables: against the bare matrix products of the same layer, and against TransformerLens 4.3.
"""

from functools import partial

import torch

from analyses.benchmarks import against_transformerlens, operands, results, transformerlens
from analyses.benchmarks.accuracy import worst_row_error
from analyses.benchmarks.timing import take_turns
from ssmlens.scan.hidden_attention import attention_map_and_mask, channel_maps
from ssmlens.scan.operators.decay_scan import ScanOperands

# [token, channel·state]·[channel·state, token]: the bare matrix products of a Mamba-1 layer at 1024 tokens.
_TOKENS, _INNER = 1024, 2048 * 16


def main() -> None:
    """Print both tables and write results/maps.json."""
    measurements = {
        "machine": results.machine(),
        "against_matrix_products": _against_matrix_products(),
        "one_channel": _one_channel(),
        "against_transformerlens": transformerlens.compare(
            against_transformerlens,
            "attention_map_and_mask against TransformerLens's channel maps and their mean (no mask), one process",
        ),
    }
    print(f"\nwritten: {results.write('maps', measurements)}")


def _against_matrix_products() -> list[dict[str, object]]:
    layers = {
        **{
            f"Mamba-1, {tokens} tokens, decay {decay}": operands.mamba1(tokens, decay)
            for tokens in (128, 1024, 2048)
            for decay in operands.DECAYS
        },
        **{
            f"Mamba-2, 1024 tokens, {heads} heads": operands.mamba2(1024, heads=heads)
            for heads in (32, 64)
        },
    }
    left, right = torch.randn(_TOKENS, _INNER), torch.randn(_INNER, _TOKENS)
    print(
        "attention_map_and_mask (d_inner 2048, N 16; Mamba-2: N 128) against its bare matrix products"
    )
    print(
        f"{'layer':42}{'map and mask':>26}{'products':>10}{'ratio':>7}{'map error':>11}{'mask error':>11}"
    )
    rows = []
    for name, layer in layers.items():
        timings = take_turns(
            {
                "maps": partial(attention_map_and_mask, layer),
                "product": partial(torch.mm, left, right),
            },
            repetitions=5 if layer.tokens <= 1024 else 3,
        )
        share = _operations(layer) / (2 * _TOKENS**2 * _INNER)
        floor = share * timings["product"].median
        ratio = timings["maps"].ratio(timings["product"]) / share
        errors = worst_row_error(layer, *attention_map_and_mask(layer))
        print(
            f"{name:42}{timings['maps']!s:>26}{floor:>8.3f} s{ratio:>7.2f}{errors[0]:>11.1e}{errors[1]:>11.1e}",
            flush=True,
        )
        rows.append(
            {
                "layer": name,
                **timings["maps"].record(),
                "products_s": floor,
                "ratio": ratio,
                "gflops_of_product": _operations(layer) / floor / 1e9,
                "map_error": errors[0],
                "mask_error": errors[1],
            }
        )
    return rows


def _operations(layer: ScanOperands) -> int:
    """Floating-point operations of map and mask by matrix products: half of each matrix, two operations per term.

    Mamba-1: 2 T² D N. Mamba-2, where a head's decay has no state: 2 T² heads, and T² N for C Bᵀ.
    """
    square = layer.tokens**2
    if layer.scalar_decay:
        return square * (2 * layer.heads + layer.groups * layer.states)
    return square * 2 * layer.heads * layer.states


def _one_channel(tokens: int = 2048) -> dict[str, object]:
    layer = operands.mamba1(tokens)
    timing = take_turns({"map": lambda: channel_maps(layer, [1000])}, repetitions=15)["map"]
    print(
        f"\none channel's map, {tokens} tokens: {1e3 * timing.median:.1f} ms (slowest {1e3 * max(timing.seconds):.1f})"
    )
    return {"tokens": tokens, **timing.record()}


if __name__ == "__main__":
    main()
