"""`python -m analyses.benchmarks.delta`: the cost of a delta rule's maps, and how far TransformerLens's differ.

Two tables: map, mask and erase against Q Kᵀ and K Kᵀ of the same layer, and against TransformerLens 4.3.
"""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize, silu

from analyses.benchmarks import delta_against_transformerlens, results, transformerlens
from analyses.benchmarks.timing import take_turns
from ssmlens.names import ERASE, MAP, MAPS, MASK
from ssmlens.scan.operators.delta_rule import DeltaRule

_TOKENS, _HEADS, _STATE = 1024, 16, 128


def main() -> None:
    """Print both tables and write results/delta.json."""
    tables = {
        "machine": results.machine(),
        "threads": torch.get_num_threads(),
        "against_matrix_products": _against_matrix_products(),
        "against_transformerlens": transformerlens.compare(
            delta_against_transformerlens,
            "map, mask and erase against TransformerLens's effective attention and its mean, one process",
        ),
    }
    print(f"\nwritten: {results.write('delta', tables)}")


def _layer(groups: int, components: int, strength: float, tokens: int = _TOKENS) -> DeltaRule:
    """Make a layer with random q, k and β; log α is uniform in −`strength` to 0."""
    g = torch.Generator().manual_seed(0)
    shape = (1, tokens, groups, _STATE)
    q, k = (normalize(silu(torch.randn(shape, generator=g)), dim=-1) for _ in range(2))
    return DeltaRule(
        q * _STATE**-0.5,
        k,
        torch.rand(1, tokens, _HEADS, generator=g),
        -strength * torch.rand(1, tokens, _HEADS, components, generator=g),
    )


def _against_matrix_products() -> list[dict[str, object]]:
    layers = {
        "gated, 16 key heads": _layer(_HEADS, 1, 0.3),
        "gated, 8 key heads": _layer(_HEADS // 2, 1, 0.3),
        "gated, strong decay": _layer(_HEADS, 1, 3.0),
        "no decay": _layer(_HEADS, 1, 0.0),
        "decay by key component": _layer(_HEADS, _STATE, 0.3),
    }
    everything = (0, _TOKENS)
    print(
        f"map, mask and erase ({_HEADS} heads of {_STATE}, {_TOKENS} tokens) against Q Kᵀ and K Kᵀ of all heads, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'layer':24}{'maps':>26}{'products':>26}{'ratio':>7}{'map':>9}{'mask':>9}{'erase':>9}")
    rows = []
    for name, layer in layers.items():
        one = layer.select_heads(range(_HEADS))
        timings = take_turns(
            {
                "maps": partial(layer.means, MAPS, everything, everything),
                "products": partial(
                    _products, *(x[0].movedim(1, 0).contiguous() for x in (one.q, one.k))
                ),
            },
            repetitions=31,
        )
        errors = _worst_row_errors(layer)
        ratio = timings["maps"].ratio(timings["products"])
        print(
            f"{name:24}{timings['maps']!s:>26}{timings['products']!s:>26}{ratio:>7.2f}"
            + "".join(f"{error:>9.0e}" for error in errors.values()),
            flush=True,
        )
        rows.append(
            {
                "layer": name,
                **timings["maps"].record(),
                "products": timings["products"].record(),
                "ratio": ratio,
                "errors": errors,
            }
        )
    return rows


def _products(q: Tensor, k: Tensor) -> None:
    torch.matmul(q, k.mT)
    torch.matmul(k, k.mT)


def _worst_row_errors(layer: DeltaRule, *, rows: int = 4) -> dict[str, float]:
    """‖row − float64 row‖ / ‖float64 row‖ of each map, the worst of some rows that end with the longest."""
    everything = (0, layer.tokens)
    got = layer.means(MAPS, everything, everything)[0].double()
    last = layer.tokens - 1
    errors: dict[str, float] = dict.fromkeys(MAPS, 0.0)
    for i in torch.linspace(last / rows, last, rows).round().long().tolist():
        for n, (kind, exact) in enumerate(zip(MAPS, _exact_rows(layer, i), strict=True)):
            error = float((got[n, i] - exact).norm() / exact.norm())
            errors[kind] = max(errors[kind], error)
    return errors


def _exact_rows(layer: DeltaRule, i: int) -> tuple[Tensor, Tensor, Tensor]:
    """Compute row i of map, mask and erase in float64, backwards token by token."""
    o = layer.select_heads(range(layer.heads)).map(lambda t: t.double())
    q, k, beta, alpha = o.q[0], o.k[0], o.beta[0], o.log_decay[0].exp()
    means = {kind: q.new_zeros(layer.tokens) for kind in MAPS}
    reader, passed = q[i], torch.ones_like(alpha[i])
    eraser = torch.zeros_like(reader)
    for j in range(i, -1, -1):
        read, erased = ((x * k[j]).sum(-1) for x in (reader, eraser))
        means[MAP][j] = (beta[j] * read).mean()
        means[MASK][j] = passed.mean()
        means[ERASE][j] = erased.mean()
        reader, eraser = (
            alpha[j] * (x - (beta[j] * seen).unsqueeze(-1) * k[j])
            for x, seen in ((reader, read), (eraser, erased))
        )
        if j == i:
            eraser = -beta[i].unsqueeze(-1) * alpha[i] * k[i]
        passed = alpha[j] * passed
    return means[MAP], means[MASK], means[ERASE]


if __name__ == "__main__":
    main()
