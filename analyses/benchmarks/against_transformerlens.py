"""Compare TransformerLens and ssmlens on the operands of one Mamba-1 layer, in one process; prints JSON.

Run by `analyses.benchmarks.maps` with the Python of .venv-transformerlens (see transformerlens_env.sh): TransformerLens
reads Mamba only in transformers ≤ 5.14. The layer has mamba-370m's shape and random weights; nothing is downloaded.
"""

import json
from importlib.metadata import version

import torch

from analyses.benchmarks.timing import take_turns
from ssmlens.scan.hidden_attention import attention_map_and_mask
from ssmlens.scan.operators.decay_scan import ScanOperands

# TransformerLens allocates several [channel, state, query, key]: 2 GiB each at 128 tokens.
_LENGTHS = (64, 128)


def main() -> None:
    """Measure both at every length and print one JSON object."""
    rows = [_compare(tokens) for tokens in _LENGTHS]
    names = ("transformer-lens", "transformers", "torch")
    print(json.dumps({"versions": {n: version(n) for n in names}, "rows": rows}))


def show(results: dict) -> None:
    """Print the table of `main`'s results."""
    print(f"{'tokens':>6}{'TransformerLens':>18}{'ssmlens':>12}{'ratio':>8}{'difference':>12}")
    for row in results["rows"]:
        print(
            f"{row['tokens']:>6}{row['transformerlens']['median_s']:>16.2f} s{row['ssmlens']['median_s']:>10.4f} s"
            f"{row['ratio']:>8.0f}{row['difference']:>12.1e}"
        )


def _compare(tokens: int) -> dict[str, object]:
    cache, layer = _layer(tokens)
    maps: dict[str, torch.Tensor] = {}

    def transformerlens() -> None:
        every = cache.compute_ssm_effective_attention(layer=0, include_dt_scaling=True)
        maps["transformerlens"] = every.mean(dim=1)

    def ssmlens() -> None:
        maps["ssmlens"], _mask = attention_map_and_mask(layer)

    with torch.inference_mode():
        timings = take_turns(
            {"transformerlens": transformerlens, "ssmlens": ssmlens}, repetitions=3
        )
    theirs, ours = maps["transformerlens"], maps["ssmlens"]
    return {
        "tokens": tokens,
        **{name: timing.record() for name, timing in timings.items()},
        "ratio": timings["transformerlens"].ratio(timings["ssmlens"]),
        "difference": ((ours - theirs).norm() / theirs.norm()).item(),
    }


def _layer(tokens: int) -> tuple:
    """TransformerLens's cache of one forward, and the scan operands from this cache."""
    from transformer_lens.model_bridge.sources import (  # pyright: ignore[reportMissingImports]
        build_bridge_from_module,
    )
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    config = MambaConfig(vocab_size=64, hidden_size=1024, state_size=16, num_hidden_layers=1)
    bridge = build_bridge_from_module(
        MambaForCausalLM(config).eval(), "MambaForCausalLM", hf_config=config
    )
    mixer = bridge.blocks[0].mixer
    with torch.inference_mode():
        _, cache = bridge.run_with_cache(torch.randint(0, 64, (1, tokens)))
        projected = cache["blocks.0.mixer.x_proj.hook_out"]
        _, B, C = projected.split([config.time_step_rank, 16, 16], dim=-1)
        layer = ScanOperands(
            delta=torch.nn.functional.softplus(cache["blocks.0.mixer.dt_proj.hook_out"]),
            A=-torch.exp(mixer.A_log.float()),
            B=B.unsqueeze(2),
            C=C.unsqueeze(2),
        )
    return cache, layer


if __name__ == "__main__":
    main()
