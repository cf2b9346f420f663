"""What every adapter must keep: run on each registered family's tiny model; a new family inherits all of it."""

import importlib.util
import inspect

import pytest
import torch
from devices import DEVICE, closure_tolerance, runnable
from oracles import mixed_by_definition, relative
from tiny_models import tiny_model_of

from ssmlens.adapters.adapter import MixerInput, adapters, arguments
from ssmlens.adapters.find import find_mixers
from ssmlens.scan.hidden_attention import channel_maps
from ssmlens.scan.operators.delta_rule import DeltaRule

pytestmark = pytest.mark.device

FAMILIES = {adapters[path].family: (adapters[path], path.rpartition(".")) for path in adapters}
MAMBA_BLOCKS = ("mamba", "linear_attention", "hybrid", "conv", "recurrent")
HERE = runnable(FAMILIES)
OUTSIDE = "typeseg"  # the fixture of a family that is not in the package


@pytest.fixture(scope="module", params=[*HERE, OUTSIDE])
def family(request):
    if request.param == OUTSIDE:
        adapter = request.getfixturevalue(OUTSIDE)
    else:
        adapter, (module, _, mixer) = FAMILIES[request.param]
    torch.manual_seed(0)
    model = spread(tiny_model_of(adapter).eval()).to(DEVICE)
    if request.param != OUTSIDE:
        assert hasattr(importlib.import_module(module), mixer)
    return adapter, model


def spread(model):
    """Random biases, D and Δ: a default draw leaves many of them 0 or 1, where mistakes do not show."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith((".D", "bias", "norm.weight", "dt_bias")):
                p.add_(torch.randn_like(p) * 0.3)
            elif name.endswith("A_log"):
                p.add_(torch.rand_like(p) - 0.5)
            elif "proj" in name or "conv" in name:
                p.mul_(2)
    return model


def takes(model, argument):
    """Whether the model's forward names this argument."""
    return argument in inspect.signature(model.forward).parameters


def calls_of(model, adapter, ids, **kwargs):
    """(site, input, output) of every mixer during one forward."""
    calls, handles = [], []
    for site in find_mixers(model):

        def hook(module, args, kw, output, site=site):
            given = adapter.read_input(module, args, kw)
            calls.append((site, *adapter.read_output(module, given, output)))

        handles.append(site.module.register_forward_hook(hook, with_kwargs=True))
    if takes(model, "use_cache"):
        kwargs["use_cache"] = False
    with torch.no_grad():
        model(ids, **kwargs)
    for handle in handles:
        handle.remove()
    return calls


def ids_of(batch, tokens):
    torch.manual_seed(batch * 100 + tokens)
    return torch.randint(0, 32, (batch, tokens), device=DEVICE)


def assert_closed(adapter, calls, tolerance=0.0):
    """Operands from the input, scanned and finished, are the mixer's output, within `tolerance` or the family's own."""
    tolerance = max(tolerance, closure_tolerance(adapter))
    assert calls
    for site, given, output in calls:
        with torch.no_grad():
            operands = adapter.project(site.module, given)
            y = mixed_by_definition(operands).to(operands.like.dtype)
            again = adapter.finish(site.module, y, operands)
        assert again.shape == output.shape
        assert relative(again, output) < tolerance, site.name


@pytest.mark.parametrize("tokens", [1, 2, 5, 64, 65])
@pytest.mark.parametrize("batch", [1, 3])
def test_operands_scanned_and_finished_are_the_mixers_output(family, batch, tokens):
    adapter, model = family
    assert_closed(adapter, calls_of(model, adapter, ids_of(batch, tokens)))


@pytest.mark.parametrize("tokens", [2, 5, 64, 65])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_token_mask_is_applied_where_the_mixer_applies_it(family, batch, tokens):
    adapter, model = family
    if not takes(model, "attention_mask"):
        pytest.skip("takes no attention mask")
    mask = torch.ones(batch, tokens, dtype=torch.long, device=DEVICE)
    mask[0, : tokens // 2] = 0
    mask[-1, 0] = 0
    ids = ids_of(batch, tokens)
    calls = calls_of(model, adapter, ids, attention_mask=mask)
    # Rounding alone reaches 1.1e-5 where the one token that counts nearly cancels in a head, and a norm follows.
    assert_closed(adapter, calls, tolerance=2e-5)
    for _, given, _ in calls:
        if not adapter.masks_padding:
            assert given.token_mask is None
        elif batch > 1:
            assert torch.equal(given.token_mask.to(mask), mask)


def test_maps_times_x_is_what_the_scan_computes(family):
    adapter, model = family
    for site, given, _ in calls_of(model, adapter, ids_of(2, 9)):
        with torch.no_grad():
            o = adapter.project(site.module, given)
        y = torch.einsum("bhij,bjhp->bihp", channel_maps(o), o.x)
        skipped = 0 if o.D is None else o.D * o.x
        assert relative(y + skipped, mixed_by_definition(o)) < 1e-5


def test_padding_on_the_right_changes_nothing_before_it(family):
    adapter, model = family
    if adapter.looks_ahead:
        pytest.skip("its tokens read later ones")
    ids = ids_of(2, 11)
    short = calls_of(model, adapter, ids[:, :7])
    for (_, given, _), (site, padded, _) in zip(short, calls_of(model, adapter, ids), strict=True):
        with torch.no_grad():
            a, b = (adapter.project(site.module, g) for g in (given, padded))
        assert relative(a.x, b.x[:, :7]) < 1e-5
        for name in [name for name, axes in a.axes.items() if "token" in axes]:
            if name != "write" and getattr(a, name) is not None:
                short_one, long_one = getattr(a, name), getattr(b, name)[:, :7]
                torch.testing.assert_close(short_one, long_one, rtol=1e-4, atol=1e-5, msg=name)


def test_a_padded_batch_equals_its_rows_alone(family):
    """Of a family that looks ahead: padding on either side."""
    adapter, model = family
    if not adapter.looks_ahead:
        pytest.skip("it looks at earlier tokens alone")
    ids, spans = ids_of(3, 11), [(0, 7), (4, 11), (3, 4)]
    mask = torch.zeros(3, 11, dtype=torch.long, device=DEVICE)
    for row, span in enumerate(spans):
        mask[row, slice(*span)] = 1
    together = calls_of(model, adapter, ids, attention_mask=mask)
    assert_closed(adapter, together)
    for row, span in enumerate(spans):
        alone = calls_of(model, adapter, ids[row : row + 1, slice(*span)])
        for (site, given, output), (_, own, wanted) in zip(together, alone, strict=True):
            torch.testing.assert_close(output[row, slice(*span)], wanted[0], rtol=1e-4, atol=1e-5)
            with torch.no_grad():
                both, one = (adapter.project(site.module, g) for g in (given, own))
            cut = both.rows([row], *span)
            torch.testing.assert_close(cut(cut.x), one(one.x), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(channel_maps(cut), channel_maps(one), rtol=1e-4, atol=1e-5)


def made_by(operands):
    """What the rows of each view make."""
    if isinstance(operands, DeltaRule):
        return {"W_B": "k", "W_C": "q", "W_dt": "log_decay", "W_beta": "beta"}
    return {"W_B": "B", "W_C": "C", "W_dt": "delta"}


def test_weight_views_share_the_mixers_memory_and_make_its_operands(family):
    """W_B, W_C and W_dt are the rows that make B, C and dt: set to zero, they leave nothing of the tokens in those.

    (In a delta rule those are k, q and the decay, and W_beta makes β.) B and C vanish, but where a bias is added that
    is then rotated (Mamba-3): its length is every token's.
    """
    adapter, model = family
    (site, given, _), *_ = calls_of(model, adapter, ids_of(1, 6))
    views = adapter.weights(site.module)
    with torch.no_grad():
        before = adapter.project(site.module, given)
        makes = made_by(before)
        for name in makes.keys() & views.named().keys():
            view = getattr(views, name)
            kept = view.clone()
            view.zero_()
            bias = views.conv_bias
            kept_bias = None if bias is None else bias.clone()
            if views.conv_B is not None and bias is not None:
                bias.zero_()
            o = adapter.project(site.module, given)
            made = getattr(o, makes[name])
            biased = getattr(getattr(site.module, "x_proj", None), "bias", None) is not None
            if name not in ("W_B", "W_C") or biased:
                torch.testing.assert_close(made, made[:, :1].expand_as(made))
            else:
                length = made.norm(dim=3)
                torch.testing.assert_close(length, length[:, :1].expand_as(length))
                assert not length.any() or hasattr(site.module, f"{name[-1]}_bias")
            view.copy_(kept)
            if bias is not None:
                bias.copy_(kept_bias)
    after = adapter.project(site.module, given)
    for name in before.arrays():
        torch.testing.assert_close(getattr(before, name), getattr(after, name))
    if views.W_B is not None:
        assert views.W_B.shape == views.W_C.shape
        assert views.W_B.shape[1] == getattr(before, makes["W_B"]).shape[3]
    if views.A_log is not None and getattr(before, "A", None) is not None:
        assert len(views.W_B) == before.groups
        torch.testing.assert_close(-torch.exp(views.A_log.float()), before.A)
    parameters = {p.untyped_storage().data_ptr() for p in site.module.parameters()}
    assert all(v.untyped_storage().data_ptr() in parameters for v in views.named().values())


def test_conv_views_are_the_taps_that_B_and_C_pass(family):
    adapter, model = family
    (site, given, _), *_ = calls_of(model, adapter, ids_of(1, 6))
    views = adapter.weights(site.module)
    if views.conv_B is None:
        pytest.skip("B and C are made after the convolution")
    with torch.no_grad():
        before = adapter.project(site.module, given)
        kept = views.conv_B.clone()
        views.conv_B.zero_()
        o = adapter.project(site.module, given)
        views.conv_B.copy_(kept)
    makes = made_by(o)
    key, query = getattr(o, makes["W_B"]), getattr(o, makes["W_C"])
    torch.testing.assert_close(key, key[:, :1].expand_as(key))  # only the bias is left
    torch.testing.assert_close(query, getattr(before, makes["W_C"]))


def test_every_mamba_block_is_found_once_under_its_own_index(family):
    adapter, model = family
    sites = find_mixers(model)
    config = getattr(model, "config", None)
    config = getattr(config, "text_config", config)
    blocks = getattr(config, "layers_block_type", None)
    blocks = blocks or getattr(config, "layer_types", None) or ["mamba"] * len(sites)
    assert [s.layer for s in sites] == [i for i, b in enumerate(blocks) if b in MAMBA_BLOCKS]
    assert all(s.adapter is adapter for s in sites)
    assert all(model.get_submodule(s.name) is s.module for s in sites)


def test_gradients_through_an_adapter_are_finite(family):
    adapter, model = family
    (site, given, _), *_ = calls_of(model, adapter, ids_of(1, 6))
    operands = adapter.project(site.module, MixerInput(given.hidden.requires_grad_()))
    channel_maps(operands).sum().backward()
    assert given.hidden.grad is not None
    assert given.hidden.grad.isfinite().all()


def generate(adapter, model, ids, more):
    if hasattr(model, "generation_config"):  # transformers'
        model.generate(ids, max_new_tokens=more, min_new_tokens=more, do_sample=False)
    else:
        model.generate(ids, max_length=ids.shape[1] + more)


def test_a_prefill_is_recorded_and_cached_steps_are_refused(family):
    adapter, model = family
    if adapter.cache_argument is None:
        pytest.skip("its models run without a cache")
    refusals, given, calls, handles = [], [], [], []
    sites = find_mixers(model)
    for site in sites:

        def before(module, args, kwargs):
            refusals.append(adapter.refusal(module, args, kwargs))
            given.append(arguments(module, args, kwargs))

        def after(module, args, kwargs, output, site=site):
            read = adapter.read_input(module, args, kwargs)
            calls.append((site, *adapter.read_output(module, read, output)))

        handles.append(site.module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(site.module.register_forward_hook(after, with_kwargs=True))
    try:
        generate(adapter, model, ids_of(1, 5), more=3)
    except KeyError as error:
        if error.args != ("mlp",):
            raise
        pytest.skip("this transformers makes no cache for MLP blocks")
    except AssertionError as error:
        if "Cute Mamba-3 step function" not in str(error):
            raise
        pytest.skip("mamba_ssm has no kernel here for a step of Mamba-3")
    finally:
        for handle in handles:
            handle.remove()
    steps = [refusals[i : i + len(sites)] for i in range(0, len(refusals), len(sites))]
    assert steps[0] == [None] * len(sites)
    assert_closed(adapter, calls[: len(sites)])
    assert len(steps) == 3
    for why, call in list(zip(refusals, given, strict=True))[len(sites) :]:
        assert f"a cached step ({adapter.cache_argument}) is not recorded" in str(why)
        assert call[adapter.cache_argument] is not None


@pytest.mark.parametrize("name", ["seq_idx", "cu_seqlens", "cu_seq_lens_q", "cu_seq_lens_k"])
def test_packed_sequences_are_refused_by_name(family, name):
    adapter, model = family
    mixer = find_mixers(model)[0].module
    hidden = torch.zeros(1, 3, 1)
    try:
        why = adapter.refusal(mixer, (hidden,), {name: torch.zeros(1, 3)})
    except TypeError:
        pytest.skip("the mixer does not take it")
    assert f"packed sequences ({name})" in str(why)
    assert adapter.refusal(mixer, (hidden,), {}) is None
