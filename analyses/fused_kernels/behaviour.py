"""The behaviour of a recording on a GPU: hooks, speed and generation stay the same; packed sequences are refused."""

import contextlib
import tempfile
import time
from typing import Any

import torch
from mamba_ssm.models import mixer_seq_simple  # pyright: ignore[reportMissingImports]
from mamba_ssm.models.config_mamba import MambaConfig  # pyright: ignore[reportMissingImports]
from torch import nn

import ssmlens
from ssmlens.errors import UsageError
from ssmlens.recorder.layer_record import LayerRecord

_SIZES = {"d_model": 256, "n_layer": 4, "vocab_size": 64}
CONFIGS = {
    "Mamba1": MambaConfig(**_SIZES),
    "Mamba2": MambaConfig(**_SIZES, ssm_cfg={"layer": "Mamba2", "headdim": 32}),
    "Mamba2 with attention": MambaConfig(
        **_SIZES,
        d_intermediate=256,
        ssm_cfg={"layer": "Mamba2", "headdim": 32},
        attn_layer_idx=[1],
        attn_cfg={"causal": True, "d_conv": 4, "head_dim": 32, "num_heads": 8, "num_heads_kv": 4},
    ),
}


def rows():
    """A row for each kind of model."""
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        model = mixer_seq_simple.MambaLMHeadModel(config, device="cuda").eval()
        ids = torch.randint(0, 64, (2, 65), device="cuda")
        row = {"model": name, "checkpoint_on_cpu": _checkpoint(model, ids)}
        row |= _left_alone(model, ids) | _generation(model, ids) | _refusals(model)
        with torch.no_grad(), ssmlens.recording(model) as rec:
            model(ids)
        mixers = [r for r in rec if isinstance(r, LayerRecord)]
        row["layers"] = rec.layers
        row["attention_blocks"] = [r.layer for r in rec if r not in mixers]
        row["closure"] = max(r.closure_error for r in mixers)
        yield row


def _checkpoint(model: Any, ids: torch.Tensor) -> float:
    """`save_pretrained` here, `load_model` on the CPU: relative difference of the logits."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        model.save_pretrained(folder)
        there = ssmlens.load_model(folder, device="cpu")(ids.cpu()).logits
        here = model(ids).logits.float().cpu()
    return float((here - there).norm() / here.norm())


def _left_alone(model: Any, ids: torch.Tensor) -> dict:
    """Logits, hooks and speed, before and after a recording that an exception ended."""
    with torch.no_grad():
        before, seconds = model(ids).logits, _seconds(model, ids)
        during = None
        with contextlib.suppress(KeyboardInterrupt), ssmlens.recording(model):
            during = model(ids).logits
            raise KeyboardInterrupt
        after, later = model(ids).logits, _seconds(model, ids)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    same = during is not None and torch.equal(before, during) and torch.equal(before, after)
    return {"logits_unchanged": same, "hooks_left": hooks, "time_after_to_before": later / seconds}


def _generation(model: Any, ids: torch.Tensor) -> dict:
    """Run `generate` inside a recording: the prefill is recorded, and the generated tokens stay the same."""
    plain = model.generate(ids, max_length=70, top_k=1)
    with ssmlens.recording(model) as rec:
        recorded = model.generate(ids, max_length=70, top_k=1)
    return {
        "generated_the_same": bool(torch.equal(plain, recorded)),
        "tokens_recorded_in_generate": rec[0].operands.tokens,
    }


def _refusals(model: Any) -> dict:
    """Packed sequences are refused by name (Mamba-2's mixer takes them)."""
    hidden = torch.randn(1, 16, 256, device="cuda")
    packed = torch.zeros(1, 16, dtype=torch.int32, device="cuda")
    mixer = nn.Sequential(model.backbone.layers[0].mixer)
    if type(mixer[0]).__name__ == "Mamba":
        return {}
    try:
        with torch.no_grad(), ssmlens.recording(mixer):
            mixer[0](hidden, seq_idx=packed)
    except UsageError as error:
        return {"packed": str(error)}
    return {"packed": "NOT REFUSED"}


def _seconds(model: Any, ids: torch.Tensor, repetitions: int = 20) -> float:
    model(ids)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repetitions):
        model(ids)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / repetitions
