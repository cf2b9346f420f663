"""`python -m analyses.benchmarks.capture`: measure a full capture of a model of mamba-370m's shape.

48 layers, d_model 1024, N 16, random weights, 1024 tokens, map and mask of every layer. It measures the wall-clock
time, the peak memory relative to the weights, and the forward alone relative to transformers' with the same weights.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

import ssmlens
from analyses.benchmarks import results
from analyses.benchmarks.timing import take_turns
from ssmlens.models.mamba_lm import MambaConfig, MambaLM

_TOKENS = 1024


def main() -> None:
    """Print both measurements and write results/capture.json."""
    measurements = {
        "machine": results.machine(),
        "capture": _in_a_process_of_its_own(_capture),
        "forward": _in_a_process_of_its_own(_forward),
    }
    print(f"written: {results.write('capture', measurements)}")


def _in_a_process_of_its_own(measure):
    """Run `measure()` in its own process, for its own peak memory."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure).result()


def _capture() -> dict[str, object]:
    model, tokens = _model(), _tokens(_TOKENS)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    before = _peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run.h5"
        start = time.perf_counter()
        ssmlens.capture(model, tokens, out=out)
        seconds = time.perf_counter() - start
        peak = _peak_memory()
        size = out.stat().st_size
        with ssmlens.open_capture(out) as capture:
            proofs = {
                name: max(float(capture.layer(i).read(name).max()) for i in capture.layers)
                for name in ("closure_error", "map_error", "mask_error")
            }
        channel = _stored_channel(model, Path(folder) / "long.h5")
    print(
        f"capture of {len(model.backbone.layers)} layers, {_TOKENS} tokens: {seconds:.1f} s, file {_gib(size)}\n"
        f"  peak memory {_gib(peak)} = weights {_gib(weights)} + {_gib(peak - weights)} "
        f"({_gib(before)} before the capture)\n"
        f"  worst of all layers: {', '.join(f'{name} {value:.1e}' for name, value in proofs.items())}\n"
        f"  one stored channel's map at 2048 tokens: {1e3 * channel['median_s']:.1f} ms",
        flush=True,
    )
    return {
        "seconds": seconds,
        "file_bytes": size,
        "weights_bytes": weights,
        "peak_bytes": peak,
        "peak_bytes_before": before,
        "worst": proofs,
        "stored_channel_map_at_2048_tokens": channel,
    }


def _stored_channel(model: MambaLM, out: Path) -> dict[str, float]:
    """Time reading one channel's operands from a capture of 2048 tokens and computing its map."""
    ssmlens.capture(model, _tokens(2048), out=out, layers=[0])
    with ssmlens.open_capture(out) as capture:
        layer = capture.layer(0)
        stored = set(layer.read("channel").tolist()) if "channel" in layer else set()
        channel = next(
            c for c in range(1000, 2048) if c not in stored
        )  # a channel without a map in the file
        return take_turns({"map": lambda: layer.channel_map(channel)}, repetitions=15)[
            "map"
        ].record()


def _forward() -> dict[str, object]:
    from transformers import MambaConfig as TheirConfig
    from transformers import MambaForCausalLM

    ours, tokens = _model(), _tokens(_TOKENS)
    config = ours.config
    with torch.device("meta"):
        theirs = MambaForCausalLM(
            TheirConfig(
                vocab_size=config.padded_vocab_size,
                hidden_size=config.d_model,
                state_size=16,
                num_hidden_layers=config.n_layer,
                use_cache=False,
            )
        ).eval()
    names = {"backbone.embedding.weight": "backbone.embeddings.weight"}
    weights = {names.get(name, name): value for name, value in ours.state_dict().items()}
    theirs.load_state_dict(weights, assign=True)
    linear = [module for module in ours.modules() if isinstance(module, torch.nn.Linear)]
    inputs = {layer.in_features: torch.randn(_TOKENS, layer.in_features) for layer in linear}
    logits = {}

    def run(name: str, model: torch.nn.Module) -> None:
        logits[name] = model(tokens).logits

    def products() -> None:
        for layer in linear:
            layer(inputs[layer.in_features])

    with torch.inference_mode():
        timings = take_turns(
            {
                "transformers": lambda: run("transformers", theirs),
                "ssmlens": lambda: run("ssmlens", ours),
                "linear_layers": products,
            },
            repetitions=3,
            warm_up=False,
        )
    ratio = timings["transformers"].ratio(timings["ssmlens"])
    limit = timings["transformers"].ratio(timings["linear_layers"])
    difference = (logits["ssmlens"] - logits["transformers"]).norm() / logits["transformers"].norm()
    print(
        f"forward alone: transformers {timings['transformers']}, ssmlens {timings['ssmlens']}: "
        f"{ratio:.1f} times faster; logits differ by {difference:.1e}\n"
        f"  the model's linear layers and nothing else: {timings['linear_layers']}, {limit:.1f} times faster",
        flush=True,
    )
    return {
        **{name: timing.record() for name, timing in timings.items()},
        "ratio": ratio,
        "ratio_of_linear_layers": limit,
        "difference_of_logits": difference.item(),
    }


def _model() -> MambaLM:
    torch.manual_seed(0)
    return MambaLM(MambaConfig(d_model=1024, n_layer=48, vocab_size=50277)).eval()


def _tokens(count: int) -> torch.Tensor:
    return torch.randint(0, 50277, (1, count), generator=torch.Generator().manual_seed(0))


def _peak_memory() -> int:
    """Bytes of this process's largest resident set so far (macOS counts bytes, Linux KiB)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _gib(count: int) -> str:
    return f"{count / 2**30:.2f} GiB"


if __name__ == "__main__":
    main()
