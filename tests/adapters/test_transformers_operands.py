"""The operands of transformers' families against the tensors that transformers itself hands to its scan.

Since 5.15 a scan is a function of the family's module, which can be watched; before, it is written into the mixer,
and what is watched is what the modules and functions inside it return.
"""

import sys

import pytest
import torch
import torch.nn.functional as F
from devices import DEVICE
from tiny_models import tiny_model_of
from torch.overrides import TorchFunctionMode

from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.find import find_mixers
from ssmlens.adapters.generations import Mamba1Adapter, Mamba2Adapter

pytestmark = pytest.mark.device

PATHS = [
    path
    for path in adapters
    if path.startswith("transformers") and isinstance(adapters[path], Mamba1Adapter | Mamba2Adapter)
]
MASKS = {"whole": None, "padded": torch.tensor([[0] * 3 + [1] * 8, [1] * 11])}
SCANS = {True: "mamba_selective_scan", False: "mamba2_chunk_scan"}
PARTS = ("conv1d", "x_proj", "b_layernorm", "c_layernorm")


@pytest.fixture(scope="module", params=PATHS, ids=lambda path: path.rpartition(".")[2])
def family(request):
    """(adapter, its tiny model, whether it is a Mamba-1)"""
    adapter = adapters[request.param]
    torch.manual_seed(1)
    model = tiny_model_of(adapter).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
            if "proj" in name:
                parameter.mul_(2)
    return adapter, model.to(DEVICE), isinstance(adapter, Mamba1Adapter)


class Watch(TorchFunctionMode):
    """The last step Δ that a mixer made (softplus, then perhaps clamp), and what its modules returned."""

    def __init__(self, mixers):
        super().__init__()
        self.seen = {mixer: {} for mixer in mixers}
        self.running = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if self.running is not None and func in (F.softplus, torch.clamp):
            self.seen[self.running]["delta"] = out
        return out

    def hook(self):
        for mixer, seen in self.seen.items():
            yield mixer.register_forward_pre_hook(lambda m, _: setattr(self, "running", m))
            yield mixer.register_forward_hook(lambda *_: setattr(self, "running", None))
            for name in PARTS:
                if hasattr(mixer, name):
                    keep = lambda m, i, out, name=name, seen=seen: seen.update({name: out})  # noqa: E731
                    yield getattr(mixer, name).register_forward_hook(keep)


@torch.no_grad()
def run(model, adapter, mask):
    """(operands by the adapter, what was seen inside) of every mixer."""
    mixers = [site.module for site in find_mixers(model)]
    inputs, watch = [], Watch(mixers)
    handles = [
        mixer.register_forward_pre_hook(
            lambda m, a, k: inputs.append((m, adapter.read_input(m, a, k))), with_kwargs=True
        )
        for mixer in mixers
    ]
    handles += watch.hook()
    with watch:
        model(torch.randint(0, 32, (2, 11), device=DEVICE), attention_mask=mask, use_cache=False)
    for handle in handles:
        handle.remove()
    return [(m, adapter.project(m, given), watch.seen[m]) for m, given in inputs]


def spy(monkeypatch, module, name):
    handed = []
    real = getattr(module, name)

    def recorded(*args, **kwargs):
        handed.append((args, kwargs))
        return real(*args, **kwargs)

    monkeypatch.setattr(module, name, recorded)
    return handed


def scanned_mamba1(calls):
    """Operands from one call of the scan a group (Zamba's heads), or a single one."""
    parts = [
        {
            "delta": F.softplus(dt + kwargs["delta_bias"][:, None]).mT,
            "A": A,
            "B": B.mT.unsqueeze(2),
            "C": C.mT.unsqueeze(2),
            "x": x.mT.unsqueeze(3),
            "D": kwargs["D"].unsqueeze(1),
            "gate": kwargs["z"].mT,
        }
        for (x, dt, A, B, C), kwargs in calls
    ]
    axis = {"A": 0, "D": 0}
    return {name: torch.cat([p[name] for p in parts], axis.get(name, 2)) for name in parts[0]}


def scanned_mamba2(calls):
    (((x, dt, A, B, C), kwargs),) = calls
    delta = F.softplus(dt + kwargs["dt_bias"]).clamp(*kwargs["dt_limit"])
    skip = {"A": A.unsqueeze(1), "D": kwargs["D"].unsqueeze(1)}
    return {"delta": delta, "B": B, "C": C, "x": x} | skip


def inside_mamba1(mixer, seen, mask):
    """What a Mamba-1 before 5.15 has of its operands, from what its own modules returned."""
    x = mixer.act(seen["conv1d"][..., :11]).mT * (1 if mask is None else mask[:, :, None])
    rank, states = mixer.time_step_rank, mixer.ssm_state_size
    if "x_proj" in seen:
        _, B, C = seen["x_proj"].unsqueeze(2).split([rank, states, states], dim=-1)
    else:  # Zamba's is a parameter
        grouped = x.unflatten(2, (mixer.n_mamba_heads, -1))
        low = torch.einsum("gri,btgi->btgr", mixer.x_proj_weight, grouped)
        _, B, C = low.split([rank, states, states], dim=-1)
    norm = getattr(sys.modules[type(mixer).__module__], "rms_forward", None)
    if "b_layernorm" in seen:
        B, C = seen["b_layernorm"].unsqueeze(2), seen["c_layernorm"].unsqueeze(2)
    elif norm is not None:
        B, C = (norm(part, variance_epsilon=mixer.rms_eps) for part in (B, C))
    delta = seen["delta"]
    delta = delta if delta.ndim == 3 else delta.transpose(0, 1).flatten(1, 2).mT
    return {"delta": delta, "B": B, "C": C, "x": x.unsqueeze(3)}


def inside_mamba2(mixer, seen, mask):
    x = mixer.act(seen["conv1d"][..., :11]).mT * (1 if mask is None else mask[:, :, None])
    d_BC = mixer.n_groups * mixer.ssm_state_size
    x, B, C = x.split([mixer.intermediate_size, d_BC, d_BC], dim=-1)
    per_group = (mixer.n_groups, -1)
    return {
        "delta": seen["delta"],
        "B": B.unflatten(2, per_group),
        "C": C.unflatten(2, per_group),
        "x": x.unflatten(2, (-1, mixer.head_dim)),
    }


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_operands_are_what_transformers_scans(monkeypatch, family, mask):
    adapter, model, mamba1 = family
    mask = None if mask is None else mask.to(DEVICE)
    module = sys.modules[type(find_mixers(model)[0].module).__module__]
    watched = hasattr(module, SCANS[mamba1])
    handed = spy(monkeypatch, module, SCANS[mamba1]) if watched else []
    ran = run(model, adapter, mask)
    assert len(ran) == len(find_mixers(model)) > 1
    calls_each = len(handed) // len(ran)
    for i, (mixer, operands, seen) in enumerate(ran):
        if watched:
            calls = handed[i * calls_each : (i + 1) * calls_each]
            expected = scanned_mamba1(calls) if mamba1 else scanned_mamba2(calls)
            assert len(expected) > 5
        else:
            expected = (inside_mamba1 if mamba1 else inside_mamba2)(mixer, seen, mask)
        for name, tensor in expected.items():
            close = {} if DEVICE == "cpu" else {"rtol": 1e-4, "atol": 1e-5}
            torch.testing.assert_close(
                getattr(operands, name), tensor, **close, msg=f"{name}: {{}}".format
            )
