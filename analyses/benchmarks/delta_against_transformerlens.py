"""Compare TransformerLens and ssmlens on one gated DeltaNet layer, in one process; prints JSON.

Run by `analyses.benchmarks.delta` with the Python of .venv-transformerlens (see transformerlens_env.sh). The layer has
16 heads of 128 and random weights; nothing is downloaded.
"""

import json
from importlib.metadata import version

import torch
from torch import Tensor

from analyses.benchmarks.timing import take_turns
from ssmlens.names import MAPS
from ssmlens.scan.operators.delta_rule import DeltaRule

_LENGTHS = (128, 1024)
# A of the heads, from the first to the last (α is exp(−A·softplus(…))). None: transformers' initialisation, which
# forgets all but a few tokens and leaves little to erase.
_DECAYS = {"as initialised": None, "slow": (0.001, 0.1)}
_HEADS, _STATE = 16, 128
_LAYER = "blocks.0.linear_attn"


def main() -> None:
    """Measure both at every length and print one JSON object."""
    with torch.inference_mode():
        rows = [_compare(tokens, decay) for tokens in _LENGTHS for decay in _DECAYS]
    names = ("transformer-lens", "transformers", "torch")
    print(json.dumps({"versions": {n: version(n) for n in names}, "rows": rows}))


def show(results: dict) -> None:
    """Print the tables of `main`'s results."""
    print(f"{'tokens':>6} {'decay':16}{'TransformerLens':>18}{'ssmlens':>12}{'ratio':>8}")
    for row in results["rows"]:
        theirs, ours = (row[name]["median_s"] for name in ("transformerlens", "ssmlens"))
        print(f"{_name(row)}{theirs:>16.3f} s{ours:>10.4f} s{row['ratio']:>8.1f}")
    print("\n‖their map − ours‖ / ‖ours‖, and ‖M v − what the layer computes‖ / ‖what it computes‖")
    print(
        f"{'tokens':>6} {'decay':16}{'as it is':>12}{'norm, scale':>12}"
        f"{'M v: as it is':>16}{'norm, scale':>12}{'ssmlens':>10}"
    )
    for row in results["rows"]:
        raw, better, ours = row["closure"].values()
        print(
            f"{_name(row)}{row['difference']:>12.3f}{row['difference_with_norm_and_scale']:>12.3f}"
            f"{raw:>16.3f}{better:>12.3f}{ours:>10.1e}"
        )


def _name(row: dict) -> str:
    return f"{row['tokens']:>6} {row['decay']:16}"


def _compare(tokens: int, decay: str) -> dict[str, object]:
    cache, component = _cache(tokens, decay)
    hooks = {
        name: cache[f"{_LAYER}.hook_{name}"].float() for name in ("q", "k", "beta", "log_decay")
    }
    q, k = (_normalised(hooks[name]) for name in ("q", "k"))
    layer = DeltaRule(q * _STATE**-0.5, k, hooks["beta"], hooks["log_decay"].unsqueeze(-1))
    everything = (0, tokens)

    def transformerlens() -> None:
        cache.compute_ssm_effective_attention(layer=0).mean(dim=1)

    timings = take_turns(
        {
            "transformerlens": transformerlens,
            "ssmlens": lambda: layer.means(MAPS, everything, everything),
        },
        repetitions=9,
    )
    corrected = {f"{_LAYER}.hook_{name}": value for name, value in hooks.items()}
    corrected |= {f"{_LAYER}.hook_q": layer.q, f"{_LAYER}.hook_k": layer.k}
    maps = {
        "transformerlens": cache.compute_ssm_effective_attention(layer=0),
        "with_norm_and_scale": component.compute_effective_attention(corrected, 0),
        "ssmlens": layer.matrix(range(_HEADS), everything, everything),
    }
    mean = maps["ssmlens"].mean(1)
    v, output = (cache[f"{_LAYER}.hook_{name}"] for name in ("v", "recurrence_out"))
    return {
        "tokens": tokens,
        "decay": decay,
        **{name: timing.record() for name, timing in timings.items()},
        "ratio": timings["transformerlens"].ratio(timings["ssmlens"]),
        "difference": _difference(maps["transformerlens"].mean(1), mean),
        "difference_with_norm_and_scale": _difference(maps["with_norm_and_scale"].mean(1), mean),
        "closure": {
            name: _difference(torch.einsum("bhij,bjhd->bihd", every, v), output)
            for name, every in maps.items()
        },
    }


def _difference(got: Tensor, expected: Tensor) -> float:
    """Return ‖got − expected‖ / ‖expected‖."""
    return float((got - expected).norm() / expected.norm())


def _normalised(x: Tensor) -> Tensor:
    """The computation of the layer's own kernel."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def _cache(tokens: int, decay: str) -> tuple:
    """TransformerLens's cache of one forward, and its component of the layer."""
    from transformer_lens.model_bridge.sources import (  # pyright: ignore[reportMissingImports]
        build_bridge_from_module,
    )
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

    torch.manual_seed(0)
    config = Qwen3NextConfig(
        vocab_size=64,
        hidden_size=1024,
        intermediate_size=64,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=64,
        num_experts=2,
        num_experts_per_tok=1,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_key_heads=_HEADS,
        linear_num_value_heads=_HEADS,
        linear_key_head_dim=_STATE,
        linear_value_head_dim=_STATE,
    )
    model = Qwen3NextForCausalLM(config).eval()
    ends = _DECAYS[decay]
    if ends is not None:
        A = torch.linspace(ends[0], ends[1], _HEADS)
        dict(model.named_parameters())["model.layers.0.linear_attn.A_log"].copy_(A.log())
    bridge = build_bridge_from_module(model, "Qwen3NextForCausalLM", hf_config=config)
    _, cache = bridge.run_with_cache(torch.randint(0, 64, (1, tokens)), use_cache=False)
    return cache, bridge.blocks[0].linear_attn


if __name__ == "__main__":
    main()
