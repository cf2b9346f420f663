"""transformers' delta-rule mixers: operands are what they hand to their kernels, and finish as they do."""

import sys

import pytest
import torch
from oracles import relative
from reference_delta import reference_delta_rule
from tiny_models import tiny_model_of

from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.delta_shared import DeltaAdapter
from ssmlens.adapters.find import find_mixers

PATHS = [path for path in adapters if isinstance(adapters[path], DeltaAdapter)]
KERNELS = ("torch_chunk_gated_delta_rule", "chunk_kimi_delta_attention")
LENGTHS = [1, 2, 5, 64, 65, 257]


@pytest.fixture(scope="module", params=PATHS, ids=lambda path: path.rpartition(".")[2])
def family(request):
    """(adapter, its tiny model), every parameter away from its default draw."""
    adapter = adapters[request.param]
    torch.manual_seed(2)
    model = tiny_model_of(adapter).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
            if "proj" in name:
                parameter.mul_(2)
    return adapter, model


class Spy:
    """Stands for the mixers' kernel, and keeps what it was given and what it returned."""

    def __init__(self, monkeypatch, mixers):
        self.module, self.calls = sys.modules[type(mixers[0].module).__module__], []
        (name,) = (name for name in KERNELS if hasattr(self.module, name))
        self.real = getattr(self.module, name)
        monkeypatch.setattr(self.module, name, self)
        for site in mixers:
            if hasattr(site.module, "chunk_gated_delta_rule"):  # before 5.15
                monkeypatch.setattr(site.module, "chunk_gated_delta_rule", self)

    def __call__(self, q, k, v, **kwargs):
        out = self.real(q, k, v, **kwargs)
        assert kwargs["use_qk_l2norm_in_kernel"]
        q, k = (self.module.l2norm(x.float(), eps=1e-6) for x in (q, k))
        given = {"q": q / q.shape[3] ** 0.5, "k": k, "x": v.float()}
        g = kwargs["g"].float()
        given |= {"beta": kwargs["beta"].float(), "log_decay": g if g.ndim == 4 else g[..., None]}
        self.calls.append((given, out[0].float()))
        return out


def as_handed(operand, handed):
    """The operand with as many heads as the kernel got: before 5.15 each value head came with its own q and k."""
    return operand.repeat_interleave(handed.shape[2] // operand.shape[2], dim=2)


@torch.no_grad()
def run(model, adapter, batch, tokens, padded=False):
    """(mixer, its input, its output) of every delta-rule mixer."""
    torch.manual_seed(batch * 1000 + tokens)
    ids = torch.randint(0, 32, (batch, tokens))
    mask = None
    if padded:
        mask = torch.ones(batch, tokens, dtype=torch.long)
        mask[0, : tokens // 2] = mask[-1, 0] = 0
    calls, handles = [], []
    for site in find_mixers(model):

        def after(mixer, args, kwargs, output):
            calls.append((mixer, adapter.read_input(mixer, args, kwargs), output))

        handles.append(site.module.register_forward_hook(after, with_kwargs=True))
    model(ids, attention_mask=mask, use_cache=False)
    for handle in handles:
        handle.remove()
    assert len(calls) > 1
    return calls


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("tokens", LENGTHS)
@pytest.mark.parametrize("batch", [1, 3])
def test_operands_are_what_the_kernel_gets_and_give_what_it_returns(
    monkeypatch, family, batch, tokens, padded
):
    adapter, model = family
    mixers = find_mixers(model)
    spy = Spy(monkeypatch, mixers)
    calls = run(model, adapter, batch, tokens, padded)
    assert len(spy.calls) == len(calls) == len(mixers)
    for (mixer, given, output), (handed, returned) in zip(calls, spy.calls, strict=True):
        with torch.no_grad():
            operands = adapter.project(mixer, given)
        for name, tensor in handed.items():
            ours = as_handed(getattr(operands, name), tensor)
            torch.testing.assert_close(ours, tensor, msg=f"{name}: {{}}".format)
        assert set(handed) == {"x", *operands.axes}
        assert (operands.log_decay <= 0).all()
        exact = reference_delta_rule(operands, operands.x.double())
        assert relative(exact, returned) < 2e-5  # their float32 chunks alone are off by 1.3e-5
        with torch.no_grad():
            again = adapter.finish(mixer, exact.float(), operands)
        assert again.shape == output.shape
        assert relative(again, output) < 1e-5


@pytest.mark.parametrize("tokens", [5, 65])
def test_bfloat16_closes(monkeypatch, family, tokens):
    adapter, model = family
    half = adapter.tiny_model().to(torch.bfloat16).eval()
    half.load_state_dict(model.state_dict())
    mixers = find_mixers(half)
    if hasattr(mixers[0].module, "chunk_gated_delta_rule"):
        pytest.skip("before 5.15 q and k are normalised in bfloat16")
    spy = Spy(monkeypatch, mixers)
    calls = run(half, adapter, 2, tokens)
    for (mixer, given, output), (handed, _) in zip(calls, spy.calls, strict=True):
        with torch.no_grad():
            operands = adapter.project(mixer, given)
            y = operands(operands.x)
            again = adapter.finish(mixer, y, operands)
        assert all(tensor.dtype == torch.float32 for tensor in operands.arrays().values())
        for name, tensor in handed.items():
            assert relative(as_handed(getattr(operands, name), tensor), tensor) < 1e-2, name
        assert again.dtype == output.dtype == torch.bfloat16
        assert relative(again.float(), output.float()) < 1e-2


def test_beta_and_decay_lie_where_the_family_puts_them(family):
    adapter, model = family
    _, (mixer, given, _), *_ = run(model, adapter, 3, 65)
    with torch.no_grad():
        operands = adapter.project(mixer, given)
    over = "Olmo" in adapter.family
    assert (operands.beta > 1).any() == over
    assert 0 < operands.beta.min() <= operands.beta.max() < 1 + over
    vector = operands.log_decay.shape[3] > 1
    assert vector == any(name in adapter.family for name in ("Kimi", "Bailing", "Glm"))
    bounded = any(name in adapter.family for name in ("Bailing", "Glm"))
    assert not bounded or operands.log_decay.min() >= -5
    assert operands.heads == (operands.groups if vector else 2 * operands.groups)


def test_views_share_the_mixers_memory_and_make_its_operands(family):
    adapter, model = family
    (mixer, given, _), *_ = run(model, adapter, 1, 6)
    views = adapter.weights(mixer)
    constant = {"W_beta": "beta", "W_dt": "log_decay"}
    empty = {"W_B": "k", "W_C": "q", "conv_B": "k", "conv_C": "q"}
    assert {"A_log", "dt_bias", *empty} <= views.named().keys()
    assert ("W_beta" in views.named()) == ("Qwen3Next" not in adapter.family)
    with torch.no_grad():
        before = adapter.project(mixer, given)
        for name in (constant | empty).keys() & views.named().keys():
            view = getattr(views, name)
            kept = view.clone()
            view.zero_()
            after = adapter.project(mixer, given)
            view.copy_(kept)
            changed = (constant | empty)[name]
            value = getattr(after, changed)
            wanted = torch.zeros_like(value) if name in empty else value[:, :1].expand_as(value)
            torch.testing.assert_close(value, wanted)
            for other in {*before.axes} - {changed}:
                assert torch.equal(getattr(after, other), getattr(before, other))
    assert views.W_B.shape == views.W_C.shape == (before.groups, before.q.shape[3], 24)
    assert views.A_log.shape == (before.heads, 1)
    assert views.dt_bias.shape == before.log_decay.squeeze(3).shape[2:]
    if hasattr(mixer, "conv1d"):
        assert len(views.conv) == before.q[0, 0].numel() * 2 + before.x[0, 0].numel()
    parameters = {p.untyped_storage().data_ptr() for p in mixer.parameters()}
    assert all(v.untyped_storage().data_ptr() in parameters for v in views.named().values())


def test_gradients_through_an_adapter_are_finite(family):
    adapter, model = family
    (mixer, given, _), *_ = run(model, adapter, 1, 6)
    hidden = given.hidden.clone().requires_grad_()
    operands = adapter.project(mixer, type(given)(hidden))
    adapter.finish(mixer, operands(operands.x), operands).sum().backward()
    assert hidden.grad.isfinite().all()
    assert hidden.grad.any()
