"""Linear attention against its definition, against Mamba with Δ = 1 and A = 0, and against finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mixers import build_mixer

import ssmlens
from ssmlens.adapters.find import adapter_of
from ssmlens.errors import UsageError
from ssmlens.training.architecture import ModelOptions, model_config

BLOCK = {
    "default": {},
    "biases": {"bias": True},
    "no convolution bias": {"conv_bias": False, "d_conv": 2},
    "wide": {"expand": 3, "d_state": 40},
    "skip": {"skip": True},
    "write gate": {"write_gate": True},
    "both": {"skip": True, "write_gate": True, "bias": True},
}
ALONE = {
    "one head": {},
    "heads": {"nheads": 3},
    "length": {"nheads": 2, "normalise": "length"},
    "rms": {"nheads": 2, "normalise": "rms"},
    "biases": {"nheads": 4, "bias": True},
}
MIXERS = [("MambaLinearAttention", o) for o in BLOCK.values()]
MIXERS += [("LinearAttention", o) for o in ALONE.values()]
LENGTHS = (1, 2, 9, 64, 130)


def mixer_of(name, options, dtype=torch.float64):
    torch.manual_seed(0)
    mixer = build_mixer(name, d_model=12, **({"d_state": 5} | options), dtype=dtype)
    if dtype == torch.float64:
        mixer.double()  # D too
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return mixer


def weights_of(mixer):
    return {name: value.detach().double().numpy() for name, value in mixer.state_dict().items()}


def silu(x):
    return x / (1 + np.exp(-x))


def attend(q, k, x):
    """Σ_{j ≤ i} (q[i]·k[j]) x[j] for one head, and the weights."""
    weights = np.tril(q @ k.T)
    return weights @ x, weights


def in_a_block(u, mixer):
    """(output, weights [1 query key]) of MambaLinearAttention on one sequence, from the definition."""
    w = weights_of(mixer)
    inner, gate = np.split(u @ w["in_proj.weight"].T + w.get("in_proj.bias", 0), 2, axis=1)
    taps = w["conv1d.weight"][:, 0]
    convolved = np.zeros_like(inner) + w.get("conv1d.bias", 0)
    for t in range(len(u)):
        for back in range(min(mixer.d_conv, t + 1)):
            convolved[t] += taps[:, mixer.d_conv - 1 - back] * inner[t - back]
    x = silu(convolved)
    made = x @ w["x_proj.weight"].T
    rank = made.shape[1] - 2 * mixer.d_state
    step, k, q = np.split(made, [rank, rank + mixer.d_state], axis=1)
    delta = np.ones((len(u), 1))
    if "dt_proj.weight" in w:
        delta = np.log1p(np.exp(step @ w["dt_proj.weight"].T + w["dt_proj.bias"]))
    read, weights = attend(q, k, delta * x)
    y = read + w.get("D", 0) * x
    maps = weights * delta.T[:, None, :]
    return (y * silu(gate)) @ w["out_proj.weight"].T + w.get("out_proj.bias", 0), maps


def alone(u, mixer):
    """(output, weights [head query key]) of LinearAttention on one sequence, from the definition."""
    w = weights_of(mixer)
    made = u @ w["in_proj.weight"].T + w.get("in_proj.bias", 0)
    width, outputs, maps = mixer.nheads * mixer.d_state, [], []
    for h in range(mixer.nheads):
        state = slice(h * mixer.d_state, (h + 1) * mixer.d_state)
        channels = slice(h * mixer.headdim, (h + 1) * mixer.headdim)
        k = made[:, mixer.d_model :][:, :width][:, state]
        q = made[:, mixer.d_model + width :][:, state]
        if mixer.normalise == "length":
            q = np.stack([row / (i + 1) for i, row in enumerate(q)])
        y, weights = attend(q, k, made[:, : mixer.d_model][:, channels])
        if mixer.normalise == "rms":
            y = y / np.sqrt((y**2).mean(1, keepdims=True) + 1e-5) * w["norm.weight"][channels]
        outputs.append(y)
        maps.append(weights)
    out = np.concatenate(outputs, axis=1) @ w["out_proj.weight"].T + w.get("out_proj.bias", 0)
    return out, np.stack(maps)


def by_definition(u, mixer):
    return (in_a_block if hasattr(mixer, "conv1d") else alone)(u, mixer)


@pytest.mark.parametrize(("name", "options"), MIXERS, ids=str)
@torch.no_grad()
def test_output_and_maps_by_definition(name, options):
    mixer = mixer_of(name, options)
    for tokens in LENGTHS:
        u = torch.randn(2, tokens, 12, dtype=torch.float64)
        outputs, weights = zip(*(by_definition(row.numpy(), mixer) for row in u), strict=True)
        with ssmlens.recording(mixer) as rec:
            np.testing.assert_allclose(mixer(u).numpy(), outputs, rtol=1e-9, atol=1e-9)
        (record,) = rec
        assert record.closure_error < 1e-12
        maps = ssmlens.channel_maps(record.operands)
        np.testing.assert_allclose(maps.numpy(), weights, rtol=1e-9, atol=1e-9)
        mean, mask = ssmlens.attention_map_and_mask(record.operands)
        np.testing.assert_allclose(mean.numpy(), np.mean(weights, axis=1), rtol=1e-9, atol=1e-9)
        assert torch.equal(mask, torch.ones_like(mask).tril())


@pytest.mark.parametrize(("skip", "write_gate"), [(0, 0), (1, 0), (0, 1), (1, 1)])
@torch.no_grad()
def test_it_is_mamba_that_forgets_nothing(skip, write_gate):
    """With steps of one where nothing gates the writes, and D = 0 where nothing is added."""
    options = {"bias": True, "skip": bool(skip), "write_gate": bool(write_gate)}
    ours = mixer_of("MambaLinearAttention", options)
    mamba = build_mixer("Mamba", d_model=12, d_state=5, bias=True).double()
    shared = ours.state_dict()
    rows = shared.pop("x_proj.weight")
    missing, unexpected = mamba.load_state_dict(shared, strict=False)
    assert not unexpected
    own = {"A_log", "D", "x_proj.weight", "dt_proj.weight", "dt_proj.bias"}
    assert set(missing) == own - shared.keys()
    mamba.x_proj.weight[-len(rows) :] = rows
    if not write_gate:
        mamba.dt_proj.weight.zero_()
        mamba.dt_proj.bias.fill_(np.log(np.e - 1))
    if not skip:
        mamba.D.zero_()
    mamba.A_log.fill_(-torch.inf)
    u = torch.randn(3, 37, 12, dtype=torch.float64)
    torch.testing.assert_close(ours(u), mamba(u), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("name", "options"), MIXERS, ids=str)
def test_gradient_equals_a_finite_difference(name, options):
    mixer = mixer_of(name, options)
    u = torch.randn(1, 4, 12, dtype=torch.float64, requires_grad=True)
    parameters = dict(mixer.named_parameters())

    def output(u, *values):
        given = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(mixer, given, u)

    assert torch.autograd.gradcheck(output, (u, *parameters.values()), fast_mode=True)


def test_gradient_across_chunks_is_that_of_the_matrix():
    """Beyond 64 tokens the scan carries a state from chunk to chunk; the matrix has no chunks."""
    mixer = mixer_of("MambaLinearAttention", {})
    u = torch.randn(2, 150, 12, dtype=torch.float64)
    gradients = []
    for of in (mixer.forward, lambda u: whole(u, mixer)):
        mixer.zero_grad()
        of(u).square().sum().backward()
        gradients.append([p.grad.clone() for p in mixer.parameters()])
    for got, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


def whole(u, mixer):
    inner, gate = mixer.in_proj(u).chunk(2, dim=2)
    x = F.silu(mixer.conv1d(inner.mT)[..., : u.shape[1]].mT)
    k, q = mixer.x_proj(x).chunk(2, dim=2)
    return mixer.out_proj((q @ k.mT).tril() @ x * F.silu(gate))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("name", "options"), MIXERS, ids=str)
@torch.no_grad()
def test_bfloat16_is_close_and_closes(name, options, autocast):
    mixer = mixer_of(name, options, torch.float32 if autocast else torch.bfloat16)
    u = torch.randn(1, 33, 12).to(torch.bfloat16)
    precision = torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast)
    with ssmlens.recording(mixer) as rec, precision:
        output = mixer(u.float() if autocast else u)
    wanted, _ = by_definition(u[0].double().numpy(), mixer)
    assert output.dtype == torch.bfloat16
    assert np.linalg.norm(output[0].float().numpy() - wanted) < 5e-2 * np.linalg.norm(wanted)
    (record,) = rec
    assert record.operands.B.dtype == torch.float32
    assert record.closure_error < 1e-2


def test_named_weights_of_a_block_with_skip_and_write_gate():
    mixer = mixer_of("MambaLinearAttention", {"skip": True, "write_gate": True})
    u = torch.randn(2, 9, 12, dtype=torch.float64)
    with torch.no_grad(), ssmlens.recording(mixer) as rec:
        mixer(u)
    (record,) = rec
    views, o = adapter_of(mixer).weights(mixer), record.operands
    x = o.x.squeeze(3)
    for name, wanted in (("W_B", o.B), ("W_C", o.C)):
        torch.testing.assert_close(x @ getattr(views, name)[0].T, wanted.squeeze(2))
    step = x @ views.W_dt.T @ views.dt_proj.T + views.dt_bias
    torch.testing.assert_close(F.softplus(step), o.delta)
    assert torch.equal(views.D, o.D)


def test_a_config_asks_for_skip_and_write_gate():
    options = {"linear_attention_skip": True, "linear_attention_write_gate": True}
    made = model_config(ModelOptions(n_layer=3, linear_attention_layers=(1,), **options), 8)
    mixer = made.build_mixer(1, device="meta")
    assert mixer.D is not None
    assert mixer.dt_proj.weight.shape == (128, 4)
    plain = model_config(ModelOptions(n_layer=3, linear_attention_layers=(1,)), 8)
    assert plain.build_mixer(1, device="meta").D is None


def test_state_dicts():
    block = build_mixer("MambaLinearAttention", d_model=32, d_state=8, bias=True)
    assert {name: tuple(value.shape) for name, value in block.state_dict().items()} == {
        "in_proj.weight": (128, 32),
        "in_proj.bias": (128,),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (16, 64),
        "out_proj.weight": (32, 64),
        "out_proj.bias": (32,),
    }
    by_itself = build_mixer("LinearAttention", d_model=32, nheads=2, d_state=8, normalise="rms")
    assert {name: tuple(value.shape) for name, value in by_itself.state_dict().items()} == {
        "in_proj.weight": (64, 32),
        "norm.weight": (32,),
        "out_proj.weight": (32, 32),
    }


def test_a_norm_without_a_gate_folds_as_gate():
    mixer = mixer_of("LinearAttention", {"nheads": 2, "normalise": "rms"})
    u = torch.randn(2, 7, 12, dtype=torch.float64)
    with torch.no_grad(), ssmlens.recording(mixer) as rec:
        output = mixer(u)
    (record,) = rec
    matrix, offset = ssmlens.channel_maps(record.operands, fold=("gate",))
    assert not offset.any()
    mixed = torch.einsum("bcij,bjc->bic", matrix, record.operands.x.flatten(2))
    torch.testing.assert_close(mixed @ mixer.out_proj.weight.T, output)
    with pytest.raises(UsageError, match=r"no skip \(D\): leave 'skip' out"):
        ssmlens.channel_maps(record.operands, fold=("skip",))
    mixer = mixer_of("LinearAttention", {})
    with ssmlens.recording(mixer) as rec:
        mixer(u)
    with pytest.raises(UsageError, match="no gate: leave 'gate' out"):
        ssmlens.channel_maps(next(iter(rec)).operands, fold=("gate",))


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "options"), MIXERS, ids=str)
@torch.no_grad()
def test_the_same_numbers_on_a_gpu(name, options):
    mixer = mixer_of(name, options, torch.float32)
    u = torch.randn(2, 1100, 12)
    wanted = mixer(u)
    got = mixer.cuda()(u.cuda()).cpu()
    assert (got - wanted).norm() < 1e-5 * wanted.norm()


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="d_model in nheads equal heads; got 12 and 5"):
        build_mixer("LinearAttention", d_model=12, nheads=5)
    with pytest.raises(UsageError, match="got 12 and 0"):
        build_mixer("LinearAttention", d_model=12, nheads=0)
    with pytest.raises(
        UsageError, match="normalise must be one of none, length, rms, not 'softmax'"
    ):
        build_mixer("LinearAttention", d_model=12, normalise="softmax")
