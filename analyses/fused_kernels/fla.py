"""flash-linear-attention's own layers on a CUDA GPU, unpatched: `python -m analyses.fused_kernels.fla`.

Single layers: closure, map_closure, errors of the maps, operands against what the layer hands to its kernels, M of
random heads against a float64 recurrence on that. Whole models, also with softmax attention between: kinds of blocks,
closure of every layer, mimetic_ and transplant_, a folder through load_model. A line a row, and results/fla.json, which
is written after every row. A case that fails says why and the rest goes on; no new case begins after --seconds.

Kernels are tuned over two configurations each, or most of the time would go to compiling them; --tune takes all.
"""

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ssmlens
from analyses.benchmarks.results import versions
from analyses.families import interpreted
from analyses.fused_kernels.fla_calls import kept_calls, matrix_of, operands_of
from ssmlens.adapters.blocks import find_blocks
from ssmlens.adapters.find import find_mixers
from ssmlens.adapters.load import load_model

HERE = Path(__file__).parent
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEAD = 64 if DEVICE == "cuda" else 8
WIDTH = 4 * HEAD
DELTA = {"head_dim": HEAD, "num_heads": 2, "num_v_heads": 4, "expand_v": 1}
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "GatedDeltaNet": ("GatedDeltaNet", {**DELTA, "allow_neg_eigval": True}),
    "DeltaNet": ("DeltaNet", {"num_heads": 4}),
    "KimiDeltaAttention": ("KimiDeltaAttention", DELTA),
    "GatedLinearAttention": ("GatedLinearAttention", {"num_heads": 4, "expand_k": 1}),
    "GatedDeltaNet, no gate": ("GatedDeltaNet", {**DELTA, "use_gate": False}),
    "DeltaNet, gate, no β": ("DeltaNet", {"num_heads": 4, "use_gate": True, "use_beta": False}),
    "KimiDeltaAttention, bounded": (
        "KimiDeltaAttention",
        {**DELTA, "safe_gate": True, "lower_bound": -5.0},
    ),
    "GatedLinearAttention, convolution, shared keys": (
        "GatedLinearAttention",
        {"num_heads": 4, "num_kv_heads": 2, "expand_k": 1, "use_short_conv": True},
    ),
}
# (batch, tokens, padding): with padding, rows begin or end with it.
SHAPES = ((1, 65, False), (3, 200, False), (3, 200, True), (1, 1024, False))
SMALL = ((1, 9, False), (3, 12, True))
MODELS = {
    "GatedDeltaNet": DELTA,
    "DeltaNet": {"num_heads": 4},
    "KDA": DELTA,
    "GLA": {"num_heads": 4, "expand_k": 1},
}
Row = dict[str, Any]


def layers() -> Iterator[tuple[Row, Callable[[], Row]]]:
    """A case for each layer, shape and dtype."""
    for dtype in DTYPES:
        for shape in SHAPES if DEVICE == "cuda" else SMALL:
            for name, (cls, settings) in LAYERS.items():
                batch, tokens, padding = shape
                case = {"layer": name, "dtype": dtype, "batch": batch, "tokens": tokens}
                yield (
                    case | {"padding": padding},
                    lambda cls=cls, settings=settings, shape=shape, dtype=dtype: one_layer(
                        cls, settings, shape, dtype
                    ),
                )


def one_layer(cls: str, settings: Row, shape: tuple[int, int, bool], dtype: str) -> Row:
    """What a single layer's row says."""
    import fla.layers  # pyright: ignore[reportMissingImports]

    batch, tokens, padding = shape
    torch.manual_seed(0)
    slow = {}
    if DEVICE == "cpu" or (cls == "DeltaNet" and dtype == "float32"):
        slow = {"mode": "fused_recurrent"}  # DeltaNet's chunks take no float32
    layer = getattr(fla.layers, cls)(hidden_size=WIDTH, layer_idx=0, **settings, **slow)
    layer = spread(layer).eval().to(DEVICE, DTYPES[dtype])
    hidden = torch.randn(batch, tokens, WIDTH, device=DEVICE, dtype=DTYPES[dtype])
    mask = padded(batch, tokens) if padding else None
    model = Alone(layer)
    with torch.no_grad(), ssmlens.recording(model) as rec, kept_calls() as calls:
        model(hidden, mask)
    record, (op, call) = rec[0], calls[-1]
    real = torch.ones(batch, tokens, dtype=torch.bool) if mask is None else mask.bool().cpu()
    operands, handed = record.operands, operands_of(op, call)
    row: Row = {"kernel": op, **proofs(record), "operands": beside(operands, handed, real)}
    row["matrix"] = matrices(operands, handed, real)
    row["maps"] = probes(operands)
    return row


class Alone(nn.Module):
    """A layer as a model of one block, whose padding mask ssmlens sees."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layers = nn.ModuleList([layer])

    def forward(self, hidden: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The layer's output."""
        return self.layers[0](hidden, attention_mask=attention_mask)[0]


def spread(module: nn.Module) -> nn.Module:
    """Biases, norms and decays that could not be forgotten unnoticed."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("bias", "norm.weight", "swish_gate.weight", "A_log")):
                parameter.add_(torch.empty_like(parameter).uniform_(-0.5, 0.5))
    return module


def padded(batch: int, tokens: int) -> Tensor:
    """A mask whose first row begins with padding and whose last ends with it."""
    mask = torch.ones(batch, tokens, dtype=torch.long, device=DEVICE)
    mask[0, : tokens // 3] = 0
    mask[-1, -(tokens // 4) :] = 0
    return mask


def proofs(record: Any) -> Row:
    """Closure and map_closure of a record: the largest over rows."""
    found = record.closure
    return {"closure": float(found.error.max()), "map_closure": float(found.map_error.max())}


def beside(operands: Any, handed: dict[str, Tensor], real: Tensor) -> Row:
    """How far each operand is from what the kernel was handed, over real tokens."""
    names = {"q": "C", "k": "B", "v": "x"} if hasattr(operands, "C") else {"v": "x"}
    row = {}
    for name, wanted in handed.items():
        got = getattr(operands, names.get(name, name)).detach().double()
        got = got[real.to(got.device)]
        row[name] = apart(got, wanted.view_as(got))
    return row


def matrices(operands: Any, handed: dict[str, Tensor], real: Tensor) -> float:
    """How far M of two random heads of the first and the last row is from the recurrence on what was handed over."""
    heads = torch.randperm(operands.heads)[:2].tolist()
    counts, errors = real.sum(1).tolist(), []
    for row in {0, len(counts) - 1}:
        start = sum(counts[:row])
        tokens = real[row].nonzero().flatten()
        first, end = int(tokens[0]), int(tokens[-1]) + 1
        M = operands.rows([row], 0, operands.tokens).matrix(heads, (first, end), (first, end))[0]
        for n, head in enumerate(heads):
            wanted = matrix_of(handed, head, slice(start, start + counts[row]))
            errors.append(apart(M[n].double(), wanted))
    return max(errors)


def probes(operands: Any) -> Row:
    """How far each map times a vector is from the recurrence."""
    o = operands.bare()
    vector = torch.randn(o.batch, o.tokens, device=DEVICE)
    whole = o.means(o.maps, (0, o.tokens), (0, o.tokens))
    seen = o.probe(vector)
    return {
        kind: apart((whole[:, n] @ vector.unsqueeze(2)).squeeze(2), seen[kind])
        for n, kind in enumerate(o.maps)
    }


def apart(got: Tensor, wanted: Tensor) -> float:
    """‖got − wanted‖ / ‖wanted‖; the norm of `got` where `wanted` is 0."""
    return float((got - wanted).norm() / (wanted.norm() if wanted.any() else 1))


def models() -> Iterator[tuple[Row, Callable[[], Row]]]:
    """A case for each model, plain and hybrid, and dtype."""
    for dtype in DTYPES:
        for name, settings in MODELS.items():
            for hybrid in (False, True):
                if name == "DeltaNet" and dtype == "float32" and DEVICE == "cuda":
                    settings = {**settings, "attn_mode": "fused_recurrent"}
                yield (
                    {"model": f"{name}ForCausalLM", "dtype": dtype, "hybrid": hybrid},
                    lambda name=name, settings=settings, hybrid=hybrid, dtype=dtype: one_model(
                        name, settings, hybrid, dtype
                    ),
                )


def build(name: str, settings: Row, hybrid: bool, seed: int = 0) -> nn.Module:
    """A language model of four blocks; in a hybrid block 1 is softmax attention."""
    import fla.models  # pyright: ignore[reportMissingImports]

    torch.manual_seed(seed)
    attn = {"attn": {"layers": [1], "num_heads": 4}} if hybrid else {}
    slow = {"attn_mode": "fused_recurrent"} if DEVICE == "cpu" else {}
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 4, "vocab_size": 64}
    plain = {"fuse_cross_entropy": False, "pad_token_id": 0}
    config = getattr(fla.models, f"{name}Config")(**sizes, **settings, **attn, **plain, **slow)
    return getattr(fla.models, f"{name}ForCausalLM")(config).eval()


def one_model(name: str, settings: Row, hybrid: bool, dtype: str) -> Row:
    """What a whole model's row says."""
    model = build(name, settings, hybrid).to(DEVICE, DTYPES[dtype])
    row: Row = {"kinds": [block.kind for block in find_blocks(model)]}
    found = []
    for batch, tokens, padding in SHAPES[1:] if DEVICE == "cuda" else SMALL:
        ids = torch.randint(1, 64, (batch, tokens), device=DEVICE)
        mask = padded(batch, tokens) if padding else None
        with torch.no_grad(), ssmlens.recording(model, layers=layers_of(model)) as rec:
            model(ids, attention_mask=mask, use_cache=False)
        found += [proofs(record) for record in rec]
    row |= {key: max(one[key] for one in found) for key in ("closure", "map_closure")}
    if dtype != "float32":
        return row
    row["mimetic"] = result_or_error(lambda: mimetic(name, settings, hybrid))
    row["transplant"] = {
        scope: result_or_error(lambda scope=scope: transplant(model, name, settings, hybrid, scope))
        for scope in ("block", "mixer", "ssm", "bc")
    }
    row["load_model"] = result_or_error(lambda: loaded(model))
    return row


def layers_of(model: nn.Module) -> list[int]:
    """The blocks with a layer that ssmlens reads."""
    return [site.layer for site in find_mixers(model)]


def mimetic(name: str, settings: Row, hybrid: bool) -> Row:
    """What mimetic_ makes of a fresh model: the mean log decay of its first layer, and closure."""
    model = build(name, settings, hybrid, seed=1).to(DEVICE)
    ssmlens.mimetic_(model, c=4)
    with torch.no_grad(), ssmlens.recording(model, layers=layers_of(model)) as rec:
        model(
            torch.randint(1, 64, (1, 65 if DEVICE == "cuda" else 9), device=DEVICE), use_cache=False
        )
    operands: Any = rec[0].operands
    decay = operands.log_decay
    worst = max(record.closure_error for record in rec)
    return {"log_decay": [float(decay.min()), float(decay.max())], "closure": worst}


def transplant(teacher: nn.Module, name: str, settings: Row, hybrid: bool, scope: str) -> Row:
    """The closure of a student whose last layer is the teacher's first."""
    student = build(name, settings, hybrid, seed=2).to(DEVICE)
    ssmlens.transplant_(student, teacher, 0, scope, student_layers=(3,))
    with torch.no_grad(), ssmlens.recording(student, layers=[3]) as rec:
        student(
            torch.randint(1, 64, (1, 65 if DEVICE == "cuda" else 9), device=DEVICE), use_cache=False
        )
    return {"closure": rec[3].closure_error}


def loaded(model: Any) -> Row:
    """How far the logits of a model that `load_model` reads from a folder are from the model's own."""
    ids = torch.randint(1, 64, (1, 65 if DEVICE == "cuda" else 9), device=DEVICE)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        again: Any = load_model(folder, device=DEVICE)
        got, wanted = (m(ids, use_cache=False).logits for m in (again, model))
    return {"logits": apart(got, wanted), "backend": again.source.backend}


def result_or_error(act: Callable[[], Row]) -> Row | str:
    """What an act gives, or what it says where it fails or is refused."""
    try:
        return act()
    except Exception as error:  # the table says what happened
        return f"{type(error).__name__}: {str(error).splitlines()[0][:240]}"


def no_flash_attention() -> None:
    """flash_attn is not here: fla's softmax attention calls torch's own in its place."""
    from fla.layers import attn  # pyright: ignore[reportMissingImports]

    if attn.flash_attn_func is not None:
        return

    def dense(q: Tensor, k: Tensor, v: Tensor, **_: Any) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return o.transpose(1, 2)

    def packed(q: Tensor, k: Tensor, v: Tensor, *, cu_seqlens_q: Tensor, **_: Any) -> Tensor:
        edges = cu_seqlens_q.tolist()
        spans = [slice(*span) for span in pairwise(edges)]
        return torch.cat([dense(q[None, s], k[None, s], v[None, s])[0] for s in spans])

    attn.flash_attn_func, attn.flash_attn_varlen_func = dense, packed


def tune_little() -> None:
    """Let autotuners choose between two of their configurations."""
    from triton.runtime.autotuner import Autotuner  # pyright: ignore[reportMissingImports]

    all_of_them = Autotuner.prune_configs
    Autotuner.prune_configs = lambda self, kwargs: list(all_of_them(self, kwargs))[:2]


PARTS = {"models": models, "layers": layers}


def main() -> None:
    """Run every case, print it, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder of the results")
    parser.add_argument("--seconds", type=float, default=210, help="no new case begins after them")
    parser.add_argument("--tune", action="store_true", help="tune kernels over all configurations")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS], help="only these")
    parser.add_argument("--only", default="", help="only cases whose name has this")
    arguments = parser.parse_args()
    begun = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "fla.json"
    if not interpreted.prepare() and not arguments.tune:
        tune_little()
    no_flash_attention()
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else "a CPU, kernels interpreted"
    rows: list[Row] = []
    for part in arguments.parts:
        for case, act in PARTS[part]():
            if arguments.only not in str(next(iter(case.values()))):
                continue
            late = time.monotonic() - begun > arguments.seconds
            started = time.monotonic()
            found = "not begun: out of time" if late else result_or_error(act)
            row = case | (found if isinstance(found, dict) else {"failed": found})
            rows.append(row | {"seconds": round(time.monotonic() - started, 1)})
            print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
            ran = versions("flash-linear-attention")
            whole = {"device": device, "versions": ran, "rows": rows}
            path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
            gc.collect()
    print(f"\n{table(rows)}")
    sys.exit(1 if any("failed" in row for row in rows) else 0)


def table(rows: list[Row]) -> str:
    """The largest errors of every layer and model, by dtype, as Markdown."""
    lines = ["| what | dtype | cases | closure | map_closure | operands | M |", "|---" * 7 + "|"]
    by: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by.setdefault((row.get("layer") or row["model"], row["dtype"]), []).append(row)
    for (name, dtype), some in by.items():
        good = [row for row in some if "failed" not in row]
        cells = [
            f"{max((r[key] for r in good), default=float('nan')):.1e}"
            for key in ("closure", "map_closure")
        ]
        handed = [max(row["operands"].values()) for row in good if "operands" in row]
        matrix = [row["matrix"] for row in good if "matrix" in row]
        cells += [f"{max(some):.1e}" if some else "" for some in (handed, matrix)]
        lines.append(f"| {name} | {dtype} | {len(good)} of {len(some)} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
