"""Models compiled and run before they are recorded: recorded as if they were not compiled, and compiled afterwards."""

import subprocess
import sys

import pytest
import torch

import ssmlens
from ssmlens.recorder.eager import eager

IDS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]])
FAMILY = (
    "transformers MambaMixer"  # jaxtyping, which checks ours in these tests, cannot be compiled
)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def whole(model, backend):
    return torch.compile(model, backend=backend)


def in_place(model, backend):
    model.compile(backend=backend)
    return model


def mixers(model, backend):
    for site in ssmlens.adapters.find.find_mixers(model):
        site.module.compile(backend=backend)
    return model


def wrapped_mixer(model, backend):
    model.backbone.layers[1].mixer = torch.compile(model.backbone.layers[1].mixer, backend=backend)
    return model


def function(model, backend):
    @torch.compile(backend=backend)
    def call(ids):
        return model(ids)

    call.modules = model.modules
    return call


WAYS = [whole, in_place, mixers, wrapped_mixer, function]


@pytest.mark.filterwarnings("ignore::Warning:torch", "ignore::Warning:transformers")
@pytest.mark.parametrize("way", WAYS)
def test_a_model_compiled_and_run_before_is_recorded(tiny_model, way):
    model = tiny_model(FAMILY)
    with torch.no_grad(), ssmlens.recording(model) as plain:
        expected = model(IDS).logits
    compiled = way(model, "eager")
    with torch.no_grad():
        compiled(IDS)
        with ssmlens.recording(model) as rec:
            logits = compiled(IDS).logits
        after = compiled(IDS).logits
    assert torch.equal(logits, expected)
    torch.testing.assert_close(after, expected)
    assert rec.layers == [0, 1, 2]
    for one, two in zip(plain, rec, strict=True):
        assert torch.equal(one.attention_map, two.attention_map)
        assert two.closure_error < 1e-5


@pytest.mark.filterwarnings("ignore::Warning:torch")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_compiled_object_itself_is_recorded(tiny_model, backend):
    compiled = torch.compile(tiny_model(FAMILY), backend=backend)
    with torch.no_grad():
        compiled(IDS)
        with ssmlens.recording(compiled) as rec:
            compiled(IDS)
    assert rec.layers == [0, 1, 2]
    assert max(record.closure_error for record in rec) < 1e-5


@pytest.mark.filterwarnings("ignore::Warning:torch")
def test_afterwards_it_is_compiled_again(tiny_model):
    runs = []

    def backend(graph, inputs):
        return lambda *args: (runs.append(1), graph(*args))[1]

    compiled = torch.compile(tiny_model(FAMILY), backend=backend)
    with torch.no_grad():
        compiled(IDS)
        before = len(runs)
        assert before
        with eager():
            compiled(IDS)
        with pytest.raises(IndexError), eager():
            compiled(IDS + 1000)
        assert len(runs) == before
        compiled(IDS)
    assert len(runs) == 2 * before


MAMBA_LM = """
import pathlib, sys, torch, ssmlens
from ssmlens.adapters.ssmlens_mamba import SsmlensMamba
from ssmlens.recorder.prompts import from_tokens
torch.manual_seed(0)
model, folder = SsmlensMamba().tiny_model().eval(), pathlib.Path(sys.argv[1])
ids = torch.tensor([[3, 1, 4, 1, 5, 9]])
plain = ssmlens.capture(model, from_tokens(ids), out=folder / "plain.h5")
model.compile(backend="eager", fullgraph=True)
model(ids)
with ssmlens.recording(model) as rec:
    model(ids)
assert rec.layers == [0, 1, 2]
assert max(record.closure_error for record in rec) < 1e-5
compiled = ssmlens.capture(model, from_tokens(ids), out=folder / "compiled.h5")
assert compiled.digest == plain.digest
"""


def test_a_compiled_mamba_lm_is_recorded_and_captured(tmp_path):
    """In a process without jaxtyping's checks."""
    run = subprocess.run([sys.executable, "-c", MAMBA_LM, tmp_path], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "graph break" not in run.stderr


def test_without_a_compiler_none_is_loaded():
    code = (
        "import sys; from ssmlens.recorder.eager import eager\n"
        "with eager(): assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
