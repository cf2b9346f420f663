"""Models of flash-linear-attention in files: what is stored of them is what they are."""

import pytest
import torch
from oracles import mixed_by_definition, relative

import ssmlens
from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.find import find_mixers
from ssmlens.plot.weight_numbers import kernels
from ssmlens.store.integrity import verify

FAMILIES = {a.family: a for a in map(adapters.__getitem__, adapters) if "fla " in a.family}


@pytest.fixture(params=FAMILIES)
def model(request):
    torch.manual_seed(0)
    return FAMILIES[request.param].tiny_model().eval()


def test_a_file_has_maps_operands_and_weights_of_every_layer(model, tmp_path):
    capture = ssmlens.capture(model, torch.randint(0, 32, (2, 9)), out=tmp_path / "run.h5")
    assert verify(tmp_path / "run.h5") == []
    for site in find_mixers(model):
        layer = capture.layer(site.layer)
        views = site.adapter.weights(site.module).named()
        for name, view in views.items():
            assert torch.equal(
                torch.from_numpy(layer.read(name)), view.detach().view(layer.shape(name))
            )
        written = kernels(layer)
        assert bool(written) == hasattr(site.module, "v_conv1d")
        for taps, name in zip(written.values(), "vkq", strict=False):
            own = getattr(site.module, f"{name}_conv1d").weight.detach().squeeze(1).flip(1)
            assert torch.equal(torch.from_numpy(taps.copy()), own)


def test_a_stored_map_times_ones_is_what_the_layer_mixes_of_ones(model, tmp_path):
    ids = torch.randint(0, 32, (2, 9))
    capture = ssmlens.capture(model, ids, out=tmp_path / "run.h5")
    with torch.no_grad(), ssmlens.recording(model) as rec:
        model(ids, use_cache=False)
        operands = rec[1].operands
    ones = torch.ones_like(operands.x)
    operands = type(operands)(**operands.arrays(), x=ones)
    wanted = mixed_by_definition(operands).mean((2, 3))
    got = capture.layer(1).read("attention_map").sum(2)
    assert relative(got, wanted) < 1e-5
