"""Edits on a GPU, on fused kernels: nothing changes no bit, kernels and torch agree, and nothing waits."""

import traceback
import warnings

import pytest
import torch
from oracles import relative

import ssmlens
from ssmlens.adapters.adapter import Adapter, adapters
from ssmlens.edits import Ablate, Apply, KnockOut, Scale, Set, Swap, mixing
from ssmlens.models.mamba_lm import MambaConfig, MambaLM

pytestmark = pytest.mark.gpu
FAMILIES = ("mamba_ssm Mamba", "mamba_ssm Mamba2", "mamba_ssm Mamba3", "ssmlens Mamba")
TOKENS = 150
EDGES = torch.rand(TOKENS, TOKENS, generator=torch.Generator().manual_seed(0)) < 0.02
INSIDE = {
    "delta": lambda n, rec: Scale(layer=n, what="delta", factor=0.5),
    "delta of some": lambda n, rec: Scale(
        layer=n, what="delta", factor=2.0, tokens="40:90", heads=1
    ),
    "A": lambda n, rec: Scale(layer=n, what="log_decay", factor=0.7),
    "x": lambda n, rec: Set(layer=n, what="x", tokens=30, value=0.0),
    "edges": lambda n, rec: KnockOut(layer=n, mask=EDGES.cuda()),
    "rectangle": lambda n, rec: KnockOut(layer=n, queries="70:", keys=":70"),
    "cross-talk": lambda n, rec: KnockOut(layer=n, lags="1:"),
    "band of a head": lambda n, rec: KnockOut(layer=n, lags="3:20", heads=2),
    "state": lambda n, rec: Set(layer=n, what="state", tokens=70, value=0.0),
    "swap": lambda n, rec: Swap(layer=n, what="B", tokens=60, source=rec),
}
NOTHING = {
    "delta": lambda n: Scale(layer=n, what="delta", factor=1.0),
    "log_decay": lambda n: Scale(layer=n, what="log_decay", factor=1.0),
    "gate": lambda n: Scale(layer=n, what="gate", factor=1.0),
    "x of a head": lambda n: Scale(layer=n, what="x", factor=1.0, heads=1),
    "edges": lambda n: KnockOut(layer=n, mask=torch.zeros(TOKENS, TOKENS, dtype=torch.bool)),
    "scan_output": lambda n: Apply(layer=n, what="scan_output", function=lambda y: y),
    "output": lambda n: Scale(layer=n, what="output", factor=1.0),
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    adapter = next(adapters[path] for path in adapters if adapters[path].family == request.param)
    torch.manual_seed(0)
    if request.param.startswith("ssmlens"):
        return MambaLM(MambaConfig(d_model=64, n_layer=3, vocab_size=32)).cuda().eval()
    return adapter.tiny_model().eval()


def ids(seed=1, batch=2):
    torch.manual_seed(seed)
    return torch.randint(0, 32, (batch, TOKENS)).cuda()


@pytest.fixture(scope="module")
def other(model):
    with torch.no_grad(), ssmlens.recording(model) as rec:
        model(ids(seed=2))
    return rec


def mixer_output(model, edits=(), layer=1):
    """What the layer's mixer puts out, edited."""
    out = []
    with torch.no_grad(), ssmlens.editing(model, list(edits)):
        hook = model.backbone.layers[layer].mixer.register_forward_hook(
            lambda module, args, output: out.append(output)
        )
        model(ids())
        hook.remove()
    return out[0].double().cpu()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("edit", NOTHING)
def test_what_changes_nothing_changes_no_bit(model, edit, dtype):
    around = torch.autocast("cuda", dtype, enabled=dtype != torch.float32)
    edits = [NOTHING[edit](n) for n in range(3)]
    with torch.no_grad(), around:
        plain = model(ids()).logits
        with ssmlens.editing(model, edits):
            assert torch.equal(model(ids()).logits, plain)


@pytest.mark.parametrize("edit", INSIDE)
def test_kernels_change_what_torch_changes(model, other, edit, monkeypatch):
    edits, plain = [INSIDE[edit](1, other)], mixer_output(model)
    by_kernels = mixer_output(model, edits) - plain
    # The classes' own override Adapter's: all of them go.
    for adapter in {type(adapters[path]) for path in adapters}:
        monkeypatch.setattr(adapter, "project_fast", Adapter.project_fast)
    monkeypatch.setattr(mixing, "edge_sums", lambda *_: None)
    monkeypatch.setattr(mixing, "fused_scan", lambda *_: None)
    by_torch = mixer_output(model, edits) - plain
    assert by_torch.any()
    assert relative(by_kernels, by_torch) < 1e-3  # a small change of a float32 output


def synchronisations(run):
    """Where the processor waits for the GPU: for every time, the lines of this project on the way there."""
    waits = []

    def show(message, *_):
        # The mode's own notice, once a process, says "synchronizing operations" too.
        if "called a synchronizing" in str(message):
            lines = traceback.extract_stack()
            own = [f"{line.filename}:{line.lineno} {line.line}" for line in lines if is_own(line)]
            waits.append("\n  ".join(own or [str(lines[-3])]))

    torch.cuda.synchronize()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return waits


def is_own(line):
    return "ssmlens" in line.filename and "site-packages" not in line.filename


@pytest.mark.parametrize("edit", ["delta", "edges", "rectangle", "cross-talk", "state", "ablation"])
def test_nothing_waits_for_the_gpu(model, other, edit):
    edits = [INSIDE[edit](1, other) if edit in INSIDE else Ablate(layer=1)]
    tokens = ids()
    with torch.no_grad():
        model(tokens)
        plain = synchronisations(lambda: model(tokens))
        with ssmlens.editing(model, edits):
            model(tokens)
            edited = synchronisations(lambda: model(tokens))
    print(f"unedited {len(plain)}, edited {len(edited)}:", *edited, sep="\n")
    assert len(edited) == len(plain)
