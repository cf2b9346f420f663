"""The libraries' draws, against REFERENCE section 4, transformers' own models and MambaLM's constructor."""

import math
import re

import pytest
import torch

from ssmlens.adapters.adapter import adapters
from ssmlens.errors import UsageError
from ssmlens.inits.init import inits

FAMILIES = [
    "ssmlens mamba",
    "ssmlens mamba2",
    "transformers mamba",
    "transformers mamba2",
    "mamba_ssm mamba",
    "mamba_ssm mamba2",
]


def spoil(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    return model


def statistics(model):
    """(lower and upper quartile, mean, standard deviation) of each parameter, all layers' together."""
    pooled = {}
    for name, p in model.named_parameters():
        values = p.detach().double().flatten()[:100_000].cpu()
        pooled.setdefault(re.sub(r"\d+", "i", name), []).append(values)
    result = {}
    for name, parts in pooled.items():
        values = torch.cat(parts)
        quartiles = values.quantile(torch.tensor([0.25, 0.75]).double())
        result[name] = [*quartiles.tolist(), float(values.mean()), float(values.std())]
    return result


def close(got, wanted):
    """Two draws of one distribution, 384 entries or more."""
    scale = wanted[3] or 1.0
    if abs(got[3] - wanted[3]) > 0.12 * scale:
        return False
    pairs = zip(got, wanted, strict=True)
    return all(abs(a - b) < 0.25 * max(scale, abs(b)) for a, b in pairs)


@pytest.mark.parametrize(
    ("init", "family"),
    [
        ("transformers", "transformers mamba"),
        ("transformers", "transformers mamba2"),
        ("mamba-ssm", "ssmlens mamba"),
        ("mamba-ssm", "ssmlens mamba2"),
        ("mamba-ssm", "mamba_ssm mamba"),
        ("mamba-ssm", "mamba_ssm mamba2"),
    ],
)
def test_a_librarys_init_draws_what_the_library_draws(build, init, family):
    model = build(family, d_model=128, n_layer=3, headdim=1)
    wanted = statistics(model)
    own = {n: p.detach().clone() for n, p in model.named_parameters()}
    inits[init]().apply_(spoil(model), seed=3)
    got = statistics(model)
    for name in wanted:
        assert close(got[name], wanted[name]), (name, got[name], wanted[name])
    random = {n for n, p in model.named_parameters() if not torch.equal(p, own[n])}
    still = {n.rpartition("mixer.")[2] for n in own} - {n.rpartition("mixer.")[2] for n in random}
    assert {"D"} <= still
    assert ("A_log" in still) == (family != "ssmlens mamba2" and family != "mamba_ssm mamba2")


@pytest.mark.parametrize("family", FAMILIES)
def test_mamba_ssms_numbers(build, mixers, family):
    model = spoil(build(family, d_model=64, n_layer=4, headdim=1))
    inits["mamba-ssm"]().apply_(model, 1)
    second = family.endswith("mamba2")
    embedding = next(p for n, p in model.named_parameters() if "embedding" in n)
    assert float(embedding.detach().std()) == pytest.approx(0.02, rel=0.05)
    for mixer in mixers(model):
        decay = mixer.A_log.detach().double().exp().cpu()
        if second:
            assert 1 <= decay.min() < 1.7
            assert 15.3 < decay.max() <= 16
            assert float(decay.mean()) == pytest.approx(8.5, abs=1.6)
        else:
            n = torch.arange(1, 17).double().expand_as(decay)
            torch.testing.assert_close(decay, n, rtol=1e-5, atol=0)
        bias = mixer.dt_bias if second else mixer.dt_proj.bias
        step = torch.nn.functional.softplus(bias.detach().double())
        assert 1e-3 * 0.999 <= step.min() < 2e-3
        assert 0.07 < step.max() <= 0.1001
        assert float(step.log().mean()) == pytest.approx(math.log(1e-2), abs=0.4)
        reads = mixer.in_proj.weight if second else mixer.x_proj.weight
        fan_in = reads.shape[1]
        assert float(reads.detach().std()) == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.05)
        out = mixer.out_proj.weight
        assert float(out.detach().std() * 2) == pytest.approx(
            1 / math.sqrt(3 * out.shape[1]), rel=0.05
        )
        for part in (mixer.conv1d.weight, mixer.conv1d.bias):
            assert -0.5 <= part.min() < -0.4
            assert 0.4 < part.max() <= 0.5
        assert (mixer.D == 1).all()
        if not second:
            bound = mixer.dt_proj.weight.shape[1] ** -0.5
            assert 0.9 * bound < mixer.dt_proj.weight.abs().max() <= bound
    norms = [p for n, p in model.named_parameters() if "norm" in n]
    assert len(norms) >= 5
    assert all((p == 1).all() for p in norms)


def test_the_same_seed_draws_the_same_and_ties_stay(build):
    a, b, c = (build("ssmlens mamba") for _ in range(3))
    for model, seed in ((a, 5), (b, 5), (c, 6)):
        inits["mamba-ssm"]().apply_(model, seed)
        assert model.lm_head.weight is model.backbone.embedding.weight
    pairs = list(zip(a.parameters(), b.parameters(), c.parameters(), strict=True))
    assert all(torch.equal(x, y) for x, y, _ in pairs)
    assert sum(not torch.equal(x, z) for x, _, z in pairs) > 8


def test_layers_are_drawn_independently(build, mixers):
    model = build("ssmlens mamba")
    inits["mamba-ssm"]().apply_(model)
    first, second = mixers(model)
    assert not torch.equal(first.in_proj.weight, second.in_proj.weight)


def test_a_block_with_an_mlp_counts_once(build):
    """As in mamba_ssm's language model, whose second pass over the weights undoes the count of its MLPs."""
    with_mlp = build("ssmlens mamba", d_intermediate=64, n_layer=2)
    inits["mamba-ssm"]().apply_(with_mlp)
    block = with_mlp.backbone.layers[0]
    for weight in (block.mixer.out_proj.weight, block.mlp.fc2.weight):
        bound = (2 * weight.shape[1]) ** -0.5
        assert 0.95 * bound < weight.abs().max() <= bound


@pytest.mark.parametrize("init", ["mamba-ssm", "transformers"])
def test_biases_of_linear_layers_and_norms_are_0(build, init):
    model = spoil(build("ssmlens mamba", ssm_cfg={"bias": True}, rms_norm=False))
    inits[init]().apply_(model)
    zero = ("norm.bias", "norm_f.bias", "in_proj.bias", "out_proj.bias")
    biases = {name: p for name, p in model.named_parameters() if name.endswith(zero)}
    assert len(biases) == 2 * 3 + 1
    assert not any(bias.any() for bias in biases.values())


def test_hybrids_are_drawn_whole(build):
    attention = {"attn_layer_idx": [1], "attn_cfg": {"num_heads": 2, "d_conv": 3, "causal": True}}
    model = spoil(build("ssmlens mamba2", **attention))
    inits["mamba-ssm"]().apply_(model)
    assert not any((p == 7).any() for p in model.parameters())


@pytest.mark.parametrize("init", ["mamba-ssm", "transformers"])
@pytest.mark.parametrize("family", ["transformers ZambaMambaMixer", "ssmlens Mamba3"])
def test_parameters_without_a_draw_are_refused_by_name(init, family):
    (adapter, *_) = (adapters[path] for path in adapters if adapters[path].family == family)
    model = adapter.tiny_model()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(UsageError, match=r"\.(x_proj_weight|\w+) \(in \w+\) cannot be drawn"):
        inits[init]().apply_(model)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_a_redrawn_model_is_fresh_again(build):
    model = build("ssmlens mamba2")
    inits["mimetic"]().apply_(model)
    inits["mamba-ssm"]().apply_(model, 1)
    inits["mimetic"]().apply_(model)


def test_seeds_out_of_range(build):
    for seed in (-1, 2**32):
        with pytest.raises(UsageError, match=r"seed .* is out of range"):
            inits["mamba-ssm"]().apply_(build("ssmlens mamba"), seed)
