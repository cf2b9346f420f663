"""What was written is what is read, by ssmlens, by xarray and by plain h5py."""

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from oracles import maps_by_definition

from ssmlens.errors import CaptureFileError, UsageError
from ssmlens.store import open_capture
from ssmlens.store.schema import LAYER_ARRAYS

FORMS = [("run.h5", 1), ("run.h5", 3), ("run", 1), ("run", 4)]


@pytest.fixture(scope="module", params=FORMS, ids=lambda form: f"{form[0]} in {form[1]}")
def path(request, sample, tmp_path_factory):
    out, batches = request.param
    return sample.write_capture(tmp_path_factory.mktemp("captures") / out, batches)


@pytest.fixture(scope="module")
def capture(sample, tmp_path_factory):
    with open_capture(sample.write_capture(tmp_path_factory.mktemp("capture") / "run")) as capture:
        yield capture


def test_every_array_comes_back(path, sample):
    with open_capture(path) as capture:
        for index, arrays in sample.samples().items():
            layer = capture.layer(index)
            assert set(layer.names) == set(arrays)
            for name, array in arrays.items():
                stored = layer.read(name)
                assert stored.dtype == array.dtype
                np.testing.assert_array_equal(stored, array)
                assert layer.dims(name) == LAYER_ARRAYS[name][: array.ndim]


def test_the_header_comes_back(path, sample):
    asked = sample.header()
    with open_capture(path) as capture:
        np.testing.assert_array_equal(capture.tokens, asked.tokens)
        np.testing.assert_array_equal(capture.length, asked.length)
        np.testing.assert_array_equal(capture.target, asked.target)
        assert capture.attributes == asked.attributes
        assert capture.layers == (0, 2)
        assert capture.n_layer == 4
        assert capture.prompts == 4
        assert capture.prompt_kinds == asked.prompt_kinds
        assert [capture.token_strings(p) for p in range(4)] == asked.token_strings
        # strings of fixed length end at a NUL, so one inside is shown as a sign
        assert capture.prompt_texts[1] == "prompt 1 “quoted”\n␀ end"
        assert capture.layer(2).attributes == sample.attributes(2)
        assert capture.layer(2).state == "yes"
        assert "layers 0, 2 of 4" in repr(capture)
        assert "delta" in repr(capture.layer(0))


def test_one_prompt_is_cut_to_its_length(capture, sample):
    arrays = sample.samples()[0]
    layer = capture.layer(0)
    assert layer.read("delta", 1).shape == (5, 6)
    np.testing.assert_array_equal(
        layer.read("attention_map", 3), arrays["attention_map"][3, :1, :1]
    )
    np.testing.assert_array_equal(layer.read("channel_map", 2), arrays["channel_map"][2, :, :7, :7])
    assert layer.read("closure_error", 2) == arrays["closure_error"][2]
    np.testing.assert_array_equal(layer.read("W_B", 2), arrays["W_B"])


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("prompt", range(4))
def test_any_channel_on_demand(capture, sample, index, prompt):
    arrays, n = sample.samples()[index], sample.LENGTHS[prompt]
    cut = [arrays[k][prompt, :n] for k in ("delta", "B", "C")]
    maps, mask = maps_by_definition(cut[0], arrays["A"], cut[1], cut[2])
    layer = capture.layer(index)
    for channel in range(sample.HEADS):
        np.testing.assert_allclose(layer.channel_map(channel, prompt), maps[channel], atol=1e-6)
    np.testing.assert_allclose(layer.attention_map(prompt), maps.mean(0), atol=1e-6)
    np.testing.assert_allclose(layer.attention_mask(prompt), mask, atol=1e-6)


def test_maps_that_are_not_stored_are_computed(sample, tmp_path):
    arrays = sample.samples()
    small = {
        index: {
            n: a for n, a in held.items() if "map" not in n and "mask" not in n and n != "channel"
        }
        for index, held in arrays.items()
    }
    with open_capture(sample.write_capture(tmp_path / "run.h5", arrays=small)) as capture:
        for index, held in arrays.items():
            layer = capture.layer(index)
            assert "attention_map" not in layer
            expected = held["attention_map"][1, :5, :5]
            np.testing.assert_allclose(layer.attention_map(1), expected, atol=1e-6)
            expected = held["attention_mask"][1, :5, :5]
            np.testing.assert_allclose(layer.attention_mask(1), expected, atol=1e-6)


def test_operands(capture, sample):
    arrays = sample.samples()[2]
    operands = capture.layer(2).operands(1, dtype=torch.float64)
    assert operands.delta.dtype == torch.float64
    assert operands.delta.shape == (1, 5, 6)
    assert operands.A.shape == (6, 1)
    assert operands.x is None
    np.testing.assert_array_equal(operands.B[0].numpy(), arrays["B"][1, :5])
    np.testing.assert_array_equal(operands.D[:, 0].numpy(), arrays["D"])


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        (lambda c: c.layer(1), r"no layer 1; it has 0, 2"),
        (lambda c: c.layer(0).read("delta", 4), r"prompt 4 is out of range: 0\.\.3"),
        (lambda c: c.layer(0).read("delta", -1), r"prompt -1 is out of range"),
        (lambda c: c.layer(0).read("attention_maps"), r"did you mean 'attention_map'"),
        (lambda c: c.layer(0).channel_map(6), r"layer 0: channel 6 is out of range: 0\.\.5"),
        (lambda c: c.layer(0).channel_map(0, 9), r"prompt 9 is out of range"),
        (lambda c: c.token_strings(4), r"prompt 4 is out of range"),
    ],
)
def test_out_of_range(capture, ask, told):
    with pytest.raises(UsageError, match=told):
        ask(capture)


def test_without_strings_tokens_are_their_ids(sample, tmp_path):
    asked = sample.header(token_strings=None, target=None, prompt_texts=None, prompt_kinds=None)
    with open_capture(sample.write_capture(tmp_path / "run.h5", asked=asked)) as capture:
        assert capture.token_strings(1) == [str(t) for t in asked.tokens[1, :5]]
        assert capture.target is None
        assert capture.prompt_texts == [""] * 4
        assert capture.prompt_kinds == ["tokens"] * 4


def test_xarray_opens_each_file_with_named_dimensions(path, sample):
    files = [path] if path.is_file() else sorted(path.glob("layer-*.h5"))
    seen = set()
    for file in files:
        with xr.open_datatree(file, engine="h5netcdf") as tree:
            for index, arrays in sample.samples().items():
                node = f"layers/{index:03d}"
                if node not in tree.groups and f"/{node}" not in tree.groups:
                    continue
                seen.add(index)
                for name, array in arrays.items():
                    variable = tree[node][name]
                    assert variable.dims == LAYER_ARRAYS[name][: array.ndim]
                    np.testing.assert_array_equal(variable.values, array)
                assert tree[node].coords["channel"].values.tolist() == list(sample.CHANNELS)
                assert tree[node].attrs["finite"] == "yes"
                assert "head" not in tree[node].variables
    assert seen == {0, 2}


def test_xarray_reads_the_header(sample, tmp_path):
    path = sample.write_capture(tmp_path / "run.h5")
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        assert tree["tokens"].dims == ("prompt", "token")
        assert tree["token_strings"].values[1, 1] == sample.header().token_strings[1][1]
        assert tree["prompt_kinds"].values.tolist() == ["copy", "text", "copy", "text"]
        assert tree.attrs["model"] == "tiny"


def test_plain_h5py_sees_dimension_scales(path, sample):
    for file in [path] if path.is_file() else sorted(path.glob("layer-*.h5")):
        with h5py.File(file) as opened:
            for group in opened["layers"].values():
                for name in set(LAYER_ARRAYS) & set(group) - {"channel"}:
                    dataset, axes = group[name], LAYER_ARRAYS[name][: group[name].ndim]
                    assert tuple(dim.label for dim in dataset.dims) == axes
                    assert tuple(dim[0].name.split("/")[-1] for dim in dataset.dims) == axes
                    assert dataset.fletcher32
                    assert dataset.chunks is not None


def test_to_xarray_is_lazy_and_equal(path, sample):
    with open_capture(path) as capture:
        tree = capture.to_xarray()
        assert tree["tokens"].dims == ("prompt", "token")
        for index, arrays in sample.samples().items():
            node = tree[f"layers/{index:03d}"]
            for name, array in arrays.items():
                if name != "channel":
                    assert not node[name].variable._in_memory
                np.testing.assert_array_equal(node[name].values, array)
        assert "delta" in capture.to_xarray()._repr_html_()


def test_unfinished_captures_say_how_to_resume(sample, tmp_path):
    writer = sample.CaptureWriter(tmp_path / "run.h5", sample.header(), layers=[0, 2])
    for path in (writer.out, writer.partial):
        with pytest.raises(CaptureFileError, match="`resume`"):
            open_capture(path)


def test_a_capture_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="there is no capture"):
        open_capture(tmp_path / "none.h5")
    with pytest.raises(CaptureFileError, match=r"has no manifest\.json"):
        open_capture(tmp_path)
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(CaptureFileError, match="not an HDF5 file"):
        open_capture(tmp_path / "text.h5")


def test_a_part_is_not_a_capture(sample, tmp_path):
    path = sample.write_capture(tmp_path / "run")
    with pytest.raises(CaptureFileError, match="open its folder"):
        open_capture(path / "layer-000.h5")


def test_a_layer_of_another_capture_is_noticed(sample, tmp_path):
    path = sample.write_capture(tmp_path / "run")
    asked = sample.header(attributes={"model": "other"})
    other = sample.write_capture(tmp_path / "other", asked=asked)
    (other / "layer-002.h5").replace(path / "layer-002.h5")
    with pytest.raises(CaptureFileError, match="belongs to another capture"):
        open_capture(path)
