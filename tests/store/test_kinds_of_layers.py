"""Layers other than Mamba-1 and -2: data-dependent decay, softmax attention, reduced maps; the kinds of blocks."""

import re

import h5py
import numpy as np
import pytest
import torch
from oracles import maps_by_definition

from ssmlens.errors import CaptureFileError, UsageError
from ssmlens.names import LARGEST_WHOLE_MAP, MAP_STATISTICS
from ssmlens.scan.operators.decay_scan import ScanOperands
from ssmlens.scan.reduce import reduced_maps
from ssmlens.store import CaptureWriter, open_capture, verify
from ssmlens.store.schema import tokens_per_block

BLOCK = 2
MAMBA, MAMBA3, ATTENTION, REDUCED = 0, 1, 2, 3
KINDS = ["mamba", "mamba+attention", "attention", "mamba", "mlp", "moe"]


@pytest.fixture(scope="module")
def layers(sample):
    """Arrays and attributes of a layer of each kind."""
    shares = sample.attention_arrays(3)["attention_map"]
    whole = sample.layer_arrays(5)
    mamba = {"finite": "yes"}
    return {
        MAMBA: (sample.layer_arrays(0), mamba),
        MAMBA3: (sample.layer_arrays(1, mamba3=True) | {"softmax_attention_map": shares}, mamba),
        ATTENTION: (sample.attention_arrays(2), mamba | {"kind": "attention"}),
        REDUCED: (
            sample.reduced(whole, sample.LENGTHS, BLOCK, sample.header().target),
            mamba | {"block_tokens": BLOCK},
        ),
    }


def write(sample, out, layers, batches=1, **changes):
    asked = sample.header(layers=tuple(layers), **({"block_kinds": KINDS} | changes))
    writer = CaptureWriter(out, asked, layers=asked.layers, batches=batches)
    for batch in range(batches):
        for index, (arrays, told) in layers.items():
            writer.write(index, batch, sample.batch_of(arrays, writer.prompts(batch)), told)
    return writer.finish()


@pytest.fixture(scope="module", params=[("run.h5", 1), ("run", 3)], ids=str)
def path(request, sample, layers, tmp_path_factory):
    out, batches = request.param
    return write(sample, tmp_path_factory.mktemp("kinds") / out, layers, batches)


@pytest.fixture
def capture(path):
    with open_capture(path) as capture:
        yield capture


def test_everything_comes_back_and_verifies(path, capture, layers):
    assert verify(path) == []
    for index, (arrays, told) in layers.items():
        layer = capture.layer(index)
        assert layer.kind == told.get("kind", "mamba")
        assert set(layer.names) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(layer.read(name), array)


def test_block_kinds(capture):
    assert capture.block_kinds == KINDS
    assert capture.to_xarray()["block_kinds"].values.tolist() == KINDS


@pytest.mark.parametrize("kinds", [["mamba"], [*KINDS[:5], "mamba3"]])
def test_block_kinds_that_are_not_taken(sample, kinds):
    with pytest.raises(ValueError, match="block_kinds must be of"):
        sample.header(layers=(0, 2), block_kinds=kinds)


def test_a_capture_of_other_blocks_is_another_request(sample):
    asked, other = sample.header(block_kinds=KINDS), sample.header(block_kinds=KINDS[:4])
    assert asked.differences(other) == ["block_kinds"]
    assert len({asked.digest(), other.digest(), sample.header().digest()}) == 3


@pytest.mark.parametrize("index", [MAMBA, MAMBA3])
@pytest.mark.parametrize("prompt", [0, 1, 3])
def test_maps_tiles_and_channels_on_demand(capture, sample, layers, index, prompt):
    arrays, n = layers[index][0], sample.LENGTHS[prompt]
    cut = {
        k: arrays[k] if k == "A" else arrays[k][prompt, :n] for k in sample.OPERANDS if k in arrays
    }
    maps, mask = maps_by_definition(**{"A": None, **cut})
    layer = capture.layer(index)
    parts = (max(0, n - 4), n), (0, max(1, n - 2))
    rows, columns = (slice(*part) for part in parts)
    for channel in range(sample.HEADS):
        np.testing.assert_allclose(layer.channel_map(channel, prompt), maps[channel], atol=1e-6)
        np.testing.assert_allclose(
            layer.channel_map(channel, prompt, queries=parts[0], keys=parts[1]),
            maps[channel, rows, columns],
            atol=1e-6,
        )
    np.testing.assert_allclose(
        layer.channel_map(0, prompt, keys=parts[1]), maps[0, :, columns], atol=1e-6
    )
    attention_map, attention_mask = layer.tile(*parts, prompt)
    np.testing.assert_allclose(attention_map, maps.mean(0)[rows, columns], atol=1e-6)
    np.testing.assert_allclose(attention_mask, mask[rows, columns], atol=1e-6)


def test_discretised_mamba_3(capture, sample, layers):
    arrays = {k: v.astype(np.float64) for k, v in layers[MAMBA3][0].items()}
    layer = capture.layer(MAMBA3)
    assert layer.operands(1).A is None
    np.testing.assert_array_equal(layer.operands(1).write[0], arrays["write"][1, :5])
    assert layer.A_bar.dims == ("prompt", "token", "head")
    view = layer.A_bar.isel(prompt=1, head=slice(2, 5))
    assert not view.variable._in_memory
    np.testing.assert_allclose(view, np.exp(arrays["log_decay"][1, :, 2:5]), rtol=1e-6)
    of_head = np.repeat(arrays["B"], sample.HEADS // sample.GROUPS, axis=2)
    np.testing.assert_allclose(layer.B_bar, arrays["write"][..., None] * of_head, rtol=1e-6)


@pytest.mark.parametrize(
    "ask",
    [
        lambda layer: layer.operands(),
        lambda layer: layer.A_bar,
        lambda layer: layer.B_bar,
        lambda layer: layer.channel_map(0),
        lambda layer: layer.tile((0, 2), (0, 2)),
        lambda layer: layer.attention_mask(),
    ],
)
def test_softmax_attention_has_maps_but_no_operands(capture, layers, ask):
    layer = capture.layer(ATTENTION)
    with pytest.raises(
        UsageError, match="layer 2 is softmax attention: its maps are stored, not its operands"
    ):
        ask(layer)
    expected = layers[ATTENTION][0]["attention_map"]
    np.testing.assert_array_equal(layer.attention_map(1), expected[1, :5, :5])


def test_reduced_maps_are_cut_to_the_prompt_in_blocks(capture, layers):
    arrays, layer = layers[REDUCED][0], capture.layer(REDUCED)
    assert layer.dims("attention_map_max") == ("prompt", "query_block", "key_block")
    for prompt, (tokens, blocks) in enumerate([(9, 5), (5, 3), (7, 4), (1, 1)]):
        np.testing.assert_array_equal(
            layer.read("attention_map_max", prompt),
            arrays["attention_map_max"][prompt, :blocks, :blocks],
        )
        for name in ("lag_energy", "row_magnitude", "mask_row_sum"):
            np.testing.assert_array_equal(layer.read(name, prompt), arrays[name][prompt, :tokens])


def test_short_prompts_beside_a_long_one_still_have_their_maps(capture, sample):
    expected = sample.layer_arrays(5)
    layer = capture.layer(REDUCED)
    np.testing.assert_allclose(
        layer.attention_map(1), expected["attention_map"][1, :5, :5], atol=1e-6
    )
    np.testing.assert_allclose(
        layer.attention_mask(2), expected["attention_mask"][2, :7, :7], atol=1e-6
    )


def test_whole_maps_of_long_prompts_are_refused_with_the_way_to_parts_of_them(sample, tmp_path):
    tokens = LARGEST_WHOLE_MAP + 1
    block = tokens_per_block(tokens)
    blocks, rng = -(-tokens // block), np.random.default_rng(0)
    per_token = {
        n: np.ones((1, tokens), np.float32) for n in ("lag_energy", "row_magnitude", "mask_row_sum")
    }
    per_block = {
        f"attention_{what}_{how}": np.ones((1, blocks, blocks), np.float32)
        for what in ("map", "mask")
        for how in ("mean", "max")
    }
    arrays = {
        "delta": rng.uniform(0.1, 0.5, (1, tokens, 2)).astype(np.float32),
        "A": -np.ones(2, np.float32),
        "B": rng.standard_normal((1, tokens, 1, 2)).astype(np.float32),
        "C": rng.standard_normal((1, tokens, 1, 2)).astype(np.float32),
    }
    asked = sample.header(lengths=(tokens,), layers=(0,), prompt_kinds=["text"])
    writer = CaptureWriter(tmp_path / "run.h5", asked, layers=[0])
    told = {"finite": "yes", "block_tokens": block}
    writer.write(0, 0, arrays | per_token | per_block, told)
    with open_capture(writer.finish()) as capture:
        layer = capture.layer(0)
        with pytest.raises(
            UsageError, match=r"8193 tokens, too many .*\.map_tile\(.*attention_map_max"
        ):
            layer.attention_map()
        with pytest.raises(UsageError, match=r"too many .*\.map_tile\(.*attention_mask_max"):
            layer.attention_mask()
        with pytest.raises(UsageError, match=r"\.channel_map\(1, queries=\(0, 1024\)"):
            layer.channel_map(1)
        last = layer.tile((tokens - 2, tokens), (tokens - 3, tokens))
        end = {n: a if n == "A" else a[0, -3:] for n, a in arrays.items()}
        maps, mask = maps_by_definition(**end)
        np.testing.assert_allclose(last[0], maps.mean(0)[1:], rtol=1e-5)
        np.testing.assert_allclose(last[1], mask[1:], rtol=1e-5)
        one = layer.channel_map(1, queries=(tokens - 1, tokens), keys=(tokens - 3, tokens))
        np.testing.assert_allclose(one, maps[1, 2:], rtol=1e-5)
    # Ones are no map of these operands: the sampled blocks and rows all say so.
    problems = verify(tmp_path / "run.h5")
    for name in (
        "attention_map_mean[0, 0]",
        "attention_mask_mean[1024",
        "row_magnitude[4096]",
        "lag_energy[0]",
    ):
        assert any(name in problem or name[:-6] in problem for problem in problems), name


def test_blocks_are_powers_of_two_that_make_at_most_1024():
    for tokens in (1, 1023, 1024, 1025, 8193, 16384, 16385, 100_000):
        block = tokens_per_block(tokens)
        assert block & (block - 1) == 0
        assert -(-tokens // block) <= 1024
        assert block == 1 or -(-tokens // (block // 2)) > 1024


# Statistics that older captures lack.
LATER_ARRAYS = ("previous_magnitude", "first_magnitude", "separator_magnitude", "reach")
REDUCED_ARRAYS = [
    "attention_map_mean",
    "attention_map_max",
    "attention_mask_mean",
    "attention_mask_max",
    "lag_energy",
    "row_magnitude",
    "target_magnitude",
    "mask_row_sum",
    *LATER_ARRAYS,
]


@pytest.mark.parametrize("factor", [-1, 1.01, np.nan])
@pytest.mark.parametrize("name", REDUCED_ARRAYS)
def test_reduced_maps_that_the_operands_do_not_give(sample, layers, tmp_path, name, factor):
    arrays, told = layers[REDUCED]
    changed = arrays[name] * np.float32(factor)
    path = write(sample, tmp_path / "run.h5", {REDUCED: (arrays | {name: changed}, told)})
    problems = verify(path)
    assert problems
    for problem in problems:
        assert problem.startswith(
            f"layer 3: {name} is not finite" if factor != factor else "layer 3: prompt"
        )
        assert name in problem


@pytest.mark.parametrize("step", [-1, 1])
def test_a_reach_that_is_one_token_off(sample, layers, tmp_path, step):
    arrays, told = layers[REDUCED]
    prompt, last = 0, int(sample.LENGTHS[0]) - 1
    reach = arrays["reach"].copy()
    assert 0 < reach[prompt, last] < last
    reach[prompt, last] += step
    path = write(sample, tmp_path / "run.h5", {REDUCED: (arrays | {"reach": reach}, told)})
    (problem,) = verify(path)
    assert problem.startswith("layer 3: prompt 0: ")
    assert f"reach[{last}]" in problem


@pytest.mark.parametrize("name", REDUCED_ARRAYS)
def test_reduced_maps_without_their_other_half(sample, layers, tmp_path, name):
    arrays, told = layers[REDUCED]
    kept = {n: a for n, a in arrays.items() if n != name}
    if name in ("target_magnitude", *LATER_ARRAYS):
        assert verify(write(sample, tmp_path / "run.h5", {REDUCED: (kept, told)})) == []
    else:
        with pytest.raises(ValueError, match=f"missing: {name}"):
            write(sample, tmp_path / "run.h5", {REDUCED: (kept, told)})


@pytest.mark.parametrize("block", [None, 0, 3, 2.0])
def test_blocks_of_another_size(sample, layers, tmp_path, block):
    arrays, told = layers[REDUCED]
    told = {k: v for k, v in told.items() if k != "block_tokens"}
    told |= {} if block is None else {"block_tokens": block}
    with pytest.raises(ValueError, match=r"block_tokens|in blocks of 3 are not 5 blocks"):
        write(sample, tmp_path / "run.h5", {REDUCED: (arrays, told)})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda a: a["attention_map"].__setitem__((0, 4, 2), 0), "rows of .* are not weights"),
        (
            lambda a: a["attention_map"].__setitem__((0, 2, 4), 1e-3),
            "reads later tokens",
        ),
        (lambda a: a["attention_map"][2].__imul__(-1), "rows of .* are not weights"),
    ],
)
@pytest.mark.parametrize("index", [MAMBA3, ATTENTION])
def test_softmax_attention_that_is_none(sample, layers, tmp_path, index, change, told):
    arrays, attributes = layers[index]
    name = "attention_map" if index == ATTENTION else "softmax_attention_map"
    changed = {"attention_map": arrays[name].copy()}
    change(changed)
    arrays = arrays | {name: changed["attention_map"]}
    path = write(sample, tmp_path / "run.h5", {index: (arrays, attributes)})
    (problem,) = verify(path)
    assert re.fullmatch(rf"layer {index}: prompt \d: .*{told}.*", problem)
    assert name in problem


def heads_of(sample, maps):
    """What is kept of heads, and their mean map, one row at a time."""
    lengths, target = sample.LENGTHS, sample.header().target
    sizes = len(lengths), len(maps), max(lengths)
    found = {f"head_{name}": np.zeros(sizes, np.float32) for name in MAP_STATISTICS}
    for head, whole in enumerate(maps):
        for name, values in sample.looks(whole, lengths).items():
            found[f"head_{name}"][:, head] = values
        for p, n in enumerate(lengths):
            own = whole[p, :n, :n].astype(np.float64)
            found["head_row_magnitude"][p, head, :n] = own.sum(1)
            found["head_target_magnitude"][p, head, :n] = [
                own[i, t] if t >= 0 else 0 for i, t in enumerate(target[p, :n])
            ]
            found["head_lag_energy"][p, head, :n] = [
                np.mean([own[i, i - lag] ** 2 for i in range(lag, n)]) for lag in range(n)
            ]
    return found, np.mean(maps, axis=0, dtype=np.float32)


@pytest.mark.parametrize("beside", [False, True])
def test_what_is_kept_of_heads_has_the_means_of_their_map(sample, tmp_path, beside):
    maps = [sample.attention_arrays(seed)["attention_map"] for seed in (3, 4, 5)]
    kept, mean = heads_of(sample, maps)
    told = {"finite": "yes"} | ({} if beside else {"kind": "attention"})
    whole = kept | {"softmax_attention_map" if beside else "attention_map": mean}
    whole |= sample.layer_arrays(0) if beside else {}
    assert verify(write(sample, tmp_path / "good.h5", {0: (whole, told)})) == []
    for n, name in enumerate(kept):
        for factor in (1.1, -1):
            changed = whole | {name: kept[name] * np.float32(factor)}
            if name == "head_lag_energy" and factor > 0:  # known by its bounds alone
                changed[name] = kept[name] * 20
            problems = verify(write(sample, tmp_path / f"{n}{factor}.h5", {0: (changed, told)}))
            assert problems
            for problem in problems:
                assert re.fullmatch(rf"layer 0: prompt \d: {name} is not that of heads .*", problem)


def test_bfloat16_weights_are_rounded_shares(sample, tmp_path):
    arrays = sample.attention_arrays(0)
    arrays["attention_map"] = (arrays["attention_map"].view(np.uint32) & 0xFFFF0000).view(
        np.float32
    )
    layers = {0: (arrays, {"finite": "yes", "kind": "attention"})}
    assert verify(write(sample, tmp_path / "32", layers))
    rounded = write(sample, tmp_path / "16", layers, attributes={"dtype": "bfloat16"})
    assert verify(rounded) == []


@pytest.mark.parametrize(
    ("index", "change", "told"),
    [
        (ATTENTION, lambda g: g.pop("attention_map"), "layers/002 lacks attention_map"),
        (REDUCED, lambda g: g.pop("lag_energy"), "layers/003 lacks lag_energy"),
        (REDUCED, lambda g: g.attrs.pop("block_tokens"), "reduced maps need the attribute"),
        (REDUCED, lambda g: g.attrs.modify("block_tokens", 4), "in blocks of 4 are not 5"),
        (MAMBA3, lambda g: g.pop("log_decay"), "lacks exactly one of A and log_decay"),
        (MAMBA, lambda g: g.attrs.__setitem__("kind", 3), "the kind of .* is unknown"),
    ],
)
def test_files_that_are_refused(sample, layers, tmp_path, index, change, told):
    path = write(sample, tmp_path / "run.h5", layers)
    with h5py.File(path, "r+") as file:
        change(file[f"layers/{index:03d}"])
    with pytest.raises(CaptureFileError, match=told):
        open_capture(path)


@pytest.mark.parametrize("mamba3", [False, True])
def test_what_the_scan_reduces_verifies(sample, tmp_path, mamba3):
    """Over more than one of its tiles, with a last block that is not full."""
    tokens, heads = 2115, 4
    block, rng = tokens_per_block(tokens), np.random.default_rng(0)
    delta = rng.uniform(0.001, 0.1, (1, tokens, heads))
    operands = {
        "delta": delta,
        "B": rng.standard_normal((1, tokens, 2, 3)),
        "C": rng.standard_normal((1, tokens, 2, 3)),
    }
    if mamba3:
        operands |= {"log_decay": -delta, "write": delta[:, ::-1], "write_now": delta * 3}
    else:
        operands["A"] = -rng.uniform(0.1, 1, (heads, 3))
    operands = {name: np.ascontiguousarray(a, np.float32) for name, a in operands.items()}
    tensors = {name: torch.from_numpy(a) for name, a in operands.items()}
    asked = sample.header(lengths=(tokens,), layers=(0,), prompt_kinds=["text"])
    separator = torch.from_numpy(asked.separator()[0])
    assert separator.any()
    of_scan = reduced_maps(
        ScanOperands(**{"A": None, **tensors}),
        block,
        torch.tensor(asked.target[0]),
        separator=separator,
    )
    arrays = {name: array.numpy()[None] for name, array in of_scan.arrays().items()}
    assert {*arrays} == {*REDUCED_ARRAYS}
    told = {"finite": "yes", "block_tokens": block}
    with CaptureWriter(tmp_path / "run.h5", asked, layers=[0]) as writer:
        writer.write(0, 0, operands | arrays, told)
        path = writer.finish()
    assert verify(path) == []
