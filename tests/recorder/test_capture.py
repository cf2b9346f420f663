"""`capture`: what is in the file is what the model computed, however it was asked, stopped and spread."""

import json
import logging

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from oracles import maps_by_definition
from torch import nn

import ssmlens
from ssmlens.adapters.load import load_model
from ssmlens.errors import ClosureError, UsageError
from ssmlens.models.mamba_config import MambaConfig as SsmlensConfig
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.recorder import capture as module
from ssmlens.recorder.prompts import Prompts, from_file
from ssmlens.store import guard, pack, reader, verify
from ssmlens.store.schema import LAYER_ARRAYS

# A generation each; what families differ in is between their adapters and the contract tests.
FAMILIES = ["ssmlens Mamba", "transformers Mamba2Mixer"]
IDS = [[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5], [8], [9, 7, 9, 3, 2], [3, 8, 4, 6, 2, 6]]


@pytest.fixture(params=FAMILIES)
def model(request, tiny_model):
    return tiny_model(request.param)


@pytest.fixture
def mamba(tiny_model):
    return tiny_model("ssmlens Mamba")


def contents(captured):
    """{(layer, array): values}, the closed capture's."""
    with captured:
        layers = {i: captured.layer(i) for i in captured.layers}
        return {(i, n): layer.read(n) for i, layer in layers.items() for n in layer.names}


def assert_same(got, wanted, rtol=1e-4):
    assert got.keys() == wanted.keys()
    for (layer, name), array in wanted.items():
        if name.endswith("_error"):
            assert (got[layer, name] < 1e-5).all()
        elif name != "closure_worst_token":
            atol = 1e-6 * max(1, np.abs(array).max())
            # Rounding of the output, beside the little of it that comes from a fresh model's map.
            least = 1e-4 if name == "map_closure" else atol
            np.testing.assert_allclose(got[layer, name], array, rtol, least, err_msg=name)


def mixer_calls(model, ids):
    """(adapter, mixer, input, output) of each mixer, seen by hooks of the test's own."""
    from ssmlens.adapters.find import find_mixers

    seen, handles = [], []
    for site in find_mixers(model):

        def hook(mixer, args, kwargs, output, site=site):
            seen.append((site.adapter, mixer, site.adapter.read_input(mixer, args, kwargs), output))

        handles.append(site.module.register_forward_hook(hook, with_kwargs=True))
    with torch.no_grad():
        model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return seen


def test_operands_maps_and_weights_of_every_prompt(model, tmp_path):
    with ssmlens.capture(model, IDS, tmp_path / "run", channels=[5, 0]) as captured:
        assert captured.layers == (0, 1, 2)
        assert captured.length.tolist() == [7, 4, 1, 5, 6]
        for p, ids in enumerate(IDS):
            for index, (adapter, mixer, given, _) in enumerate(mixer_calls(model, ids)):
                layer = captured.layer(index)
                with torch.no_grad():
                    operands = adapter.project(mixer, given)
                for name in ("delta", "B", "C"):
                    alone = getattr(operands, name)[0].numpy()
                    np.testing.assert_allclose(layer.read(name, p), alone, 1e-4, 1e-6)
                    assert not layer.read(name)[p, len(ids) :].any()
                stored = [layer.read(name, p) for name in ("delta", "A", "B", "C")]
                whole, mask = maps_by_definition(*stored)
                for name, exact in (("attention_map", whole.mean(0)), ("attention_mask", mask)):
                    apart = np.linalg.norm(layer.read(name, p) - exact)
                    assert apart <= 1e-5 * np.linalg.norm(exact)
                    assert np.count_nonzero(layer.read(name)[p]) <= len(ids) * (len(ids) + 1) / 2
                own = layer.read("channel_map", p)
                np.testing.assert_allclose(own, whole[[5, 0]], rtol=1e-4, atol=1e-6)
                assert layer.read("channel").tolist() == [5, 0]
                energy = (whole.mean(0) ** 2).sum() / (whole**2).sum((1, 2)).mean()
                assert layer.read("channel_agreement")[p] == pytest.approx(energy, rel=1e-3)
                for name, view in adapter.weights(mixer).named().items():
                    kept = layer.read(name)
                    np.testing.assert_array_equal(kept, view.detach().numpy().reshape(kept.shape))
                for name in ("closure_error", "map_error", "mask_error"):
                    assert layer.read(name)[p] < 1e-5
                assert layer.state == "yes"
                assert layer.attributes["adapter"] == adapter.family
                assert layer.attributes["d_conv"] == 4
    assert verify(tmp_path / "run") == []


def test_a_prompt_among_others_is_as_if_alone(model, tmp_path):
    together = contents(ssmlens.capture(model, IDS, tmp_path / "all", channels=[1]))
    for p, ids in list(enumerate(IDS))[1:4]:
        alone = contents(ssmlens.capture(model, [ids], tmp_path / f"{p}", channels=[1]))
        cut = {}
        for (layer, name), array in together.items():
            axes = LAYER_ARRAYS[name][: array.ndim]
            place = [slice(len(ids) if a in ("token", "query", "key") else None) for a in axes]
            place[0] = slice(p, p + 1) if axes[0] == "prompt" else slice(None)
            cut[layer, name] = array[tuple(place)]
        assert_same(cut, alone)


@pytest.mark.parametrize("tokens", [1, 14])
def test_batches_give_the_same_content(model, tmp_path, monkeypatch, tokens):
    whole = contents(ssmlens.capture(model, IDS, tmp_path / "one", channels=[0, 3]))
    batches, write = set(), module.CaptureWriter.write

    def counted(self, layer, batch, *rest, **options):
        batches.add(batch)
        write(self, layer, batch, *rest, **options)

    monkeypatch.setattr(module, "_BATCH_TOKENS", tokens)
    monkeypatch.setattr(module.CaptureWriter, "write", counted)
    parts = contents(ssmlens.capture(model, IDS, tmp_path / "parts", channels=[0, 3]))
    assert len(batches) == min(5, -(-35 // tokens))
    assert_same(parts, whole)
    assert verify(tmp_path / "parts") == []


def test_without_a_choice_the_channels_that_write_most(model, tmp_path, monkeypatch):
    """The loudest over the first batch of prompts, in all batches."""
    with ssmlens.capture(model, IDS[:1], tmp_path / "one") as captured:
        for index, (adapter, mixer, given, _) in enumerate(mixer_calls(model, IDS[0])):
            with torch.no_grad():
                o = adapter.project(mixer, given)
            written = torch.einsum("bhij,bjhp->bihp", ssmlens.channel_maps(o), o.x)
            loud = written.square().sum((0, 1, 3)).argsort(descending=True)[:4]
            stored = captured.layer(index).read("channel")
            assert stored.tolist() == sorted(loud.tolist())
            assert captured.layer(index).read("channel_map").shape == (1, 4, 7, 7)
    monkeypatch.setattr(module, "_BATCH_TOKENS", 7)
    with ssmlens.capture(model, IDS, tmp_path / "all") as batches:
        for index in batches.layers:
            stored = batches.layer(index).read("channel").tolist()
            assert len(stored) == min(4, batches.layer(index).read("delta").shape[2])
    with ssmlens.capture(model, IDS, tmp_path / "none", channels=[]) as none:
        assert "channel_map" not in none.layer(0)
        assert "channel" not in none.layer(0)


@pytest.mark.parametrize("out", ["run.h5", "run"])
def test_stopped_anywhere_and_resumed(mamba, tmp_path, monkeypatch, out):
    monkeypatch.setattr(module, "_BATCH_TOKENS", 18)
    steps = []
    with ssmlens.capture(
        mamba, IDS, tmp_path / "whole.h5", progress=lambda *step: steps.append(step)
    ) as whole:
        digest = whole.digest
    dones = [done for done, _, _ in steps]
    assert dones == sorted(dones)
    assert dones[-1] == 6
    assert {total for _, total, _ in steps} == {6}
    path = tmp_path / out
    for _ in range(len(steps)):  # each run gets one step further

        def stop(done, total, what, seen=[]):  # noqa: B006
            seen.append(done)
            if len(seen) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ssmlens.capture(mamba, IDS, path, resume=True, progress=stop)
        assert not path.exists()
        with pytest.raises(UsageError, match="is half captured; pass `resume`"):
            ssmlens.capture(mamba, IDS, path)
        if len(list((tmp_path / f"{out}.partial").glob("layer*"))) == 6:
            break
    with pytest.raises(UsageError, match="its request differs"):
        ssmlens.capture(mamba, IDS[:4], path, resume=True)
    calls = []
    mamba.backbone.layers[0].mixer.register_forward_hook(lambda *_: calls.append(1))
    with ssmlens.capture(mamba, IDS, path, resume=True) as resumed:
        assert resumed.digest == digest
    assert not calls  # everything was there
    assert verify(path) == []
    assert not list(tmp_path.glob("*.partial"))


def test_a_stop_before_the_first_layer_leaves_nothing_under_the_final_name(mamba, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ssmlens.capture(mamba, IDS, tmp_path / "run.h5", progress=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["run.h5.partial"]


def test_only_a_run_that_wrote_every_file_opens_them_unguarded(mamba, tmp_path, monkeypatch):
    """A resumed run, or the last of several machines, opens files that others wrote."""
    guarded = []
    walk = guard.open_guarded
    monkeypatch.setattr(reader, "open_guarded", lambda path: guarded.append(path) or walk(path))
    ids, path = torch.tensor([[3, 1, 4]]), tmp_path / "run"
    ssmlens.capture(mamba, ids, path).close()
    assert guarded == []
    ssmlens.capture(mamba, ids, path, resume=True).close()
    assert len(guarded) == 1 + len(mamba.backbone.layers)
    guarded.clear()
    ssmlens.capture(mamba, ids, tmp_path / "shared", shard=(1, 1)).close()
    assert len(guarded) == 1 + len(mamba.backbone.layers)


@pytest.mark.parametrize("out", ["run.h5", "run"])
@pytest.mark.parametrize("shards", [2, 3])
def test_shards_give_the_whole(mamba, tmp_path, out, shards):
    with ssmlens.capture(mamba, IDS, tmp_path / "whole") as whole:
        digest = whole.digest
    for i in range(shards, 1, -1):
        assert ssmlens.capture(mamba, IDS, tmp_path / out, shard=(i, shards)) is None
        assert not (tmp_path / out).exists()
    with ssmlens.capture(mamba, IDS, tmp_path / out, shard=(1, shards)) as captured:
        assert captured.digest == digest
    assert verify(tmp_path / out) == []


def test_each_shard_computes_its_layers_only(mamba, tmp_path):
    calls = []
    for i, block in enumerate(mamba.backbone.layers):
        block.mixer.register_forward_hook(lambda *_, i=i: calls.append(i))
    ssmlens.capture(mamba, IDS, tmp_path / "run", shard=(1, 3))
    assert calls == [0]  # the forward ends where the last layer wanted has been stored


def test_pack_keeps_the_digest(mamba, tmp_path):
    with ssmlens.capture(mamba, IDS, tmp_path / "run") as folder:
        digest = folder.digest
    with ssmlens.open_capture(pack(tmp_path / "run", tmp_path / "one.h5")) as packed:
        assert packed.digest == digest
    with ssmlens.capture(mamba, IDS, tmp_path / "run.h5") as one:
        assert one.digest == digest


def test_digest_sees_the_model_and_the_prompts(mamba, tmp_path):
    def digest(name, ids=IDS):
        with ssmlens.capture(mamba, ids, tmp_path / name) as captured:
            return captured.digest

    first = digest("a")
    assert digest("b") == first
    assert digest("c", IDS[:4]) != first
    with torch.no_grad():
        mamba.backbone.layers[2].mixer.D[0] += 1e-3
    assert digest("d") != first


def test_some_layers_and_channels(model, tmp_path):
    whole = contents(ssmlens.capture(model, IDS, tmp_path / "all", channels=[2]))
    some = contents(ssmlens.capture(model, IDS, tmp_path / "some", layers=[2, 0], channels=[2]))
    assert_same(some, {key: array for key, array in whole.items() if key[0] != 1})
    with ssmlens.open_capture(tmp_path / "some") as captured:
        assert captured.layers == (0, 2)
        assert captured.n_layer == 3


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"layers": [3]}, r"layer 3 is out of range: this model has Mamba layers 0\.\.2"),
        ({"layers": [-1]}, "layer -1 is out of range"),
        ({"layers": []}, "no layer"),
        ({"channels": [32]}, r"channel 32 is out of range: layer 0 has 0\.\.31"),
        ({"channels": [-1]}, "channel -1 is out of range"),
        ({"shard": (0, 2)}, "shard 0/2"),
        ({"shard": (3, 2)}, "shard 3/2"),
        ({"shard": (1, 4)}, "shard 1/4: i/N needs 1 ≤ i ≤ N ≤ 3"),
    ],
)
def test_what_is_out_of_range_leaves_nothing_behind(mamba, tmp_path, options, told):
    with pytest.raises(UsageError, match=told):
        ssmlens.capture(mamba, IDS, tmp_path / "run.h5", **options)
    assert not list(tmp_path.iterdir())


def test_tokens_outside_the_vocabulary_are_refused(mamba, tmp_path):
    with pytest.raises(UsageError, match="token id 32 is out of range"):
        ssmlens.capture(mamba, [[1, 32]], tmp_path / "run.h5")
    assert not list(tmp_path.iterdir())


def test_discretised_operands_are_stored_on_request(model, tmp_path):
    with ssmlens.capture(model, IDS, tmp_path / "run", store_discretized=True) as captured:
        for index in captured.layers:
            layer = captured.layer(index)
            delta, A, B = (layer.read(n).astype(np.float64) for n in ("delta", "A", "B"))
            B = np.repeat(B, delta.shape[2] // B.shape[2], axis=2)
            A_bar = np.exp(delta[..., None] * A if A.ndim == 2 else delta * A)
            for p, real in enumerate(captured.length):
                A_bar[p, real:] = 0  # as all padding
            np.testing.assert_allclose(layer.read("A_bar"), A_bar, rtol=1e-5)
            B_bar = delta[..., None] * B
            np.testing.assert_allclose(layer.read("B_bar"), B_bar, rtol=1e-5, atol=1e-12)
    assert verify(tmp_path / "run") == []
    with ssmlens.capture(model, IDS, tmp_path / "lazy") as captured:
        assert "A_bar" not in captured.layer(0)


def test_prompts_of_every_kind_are_the_same_prompts(tmp_path):
    model = load_model("copy-mamba2-default")
    text, ids = "ab|ab", [3, 4, 1, 3, 4]
    (tmp_path / "p.txt").write_text("ab|ab\n")
    (tmp_path / "p.jsonl").write_text(json.dumps({"tokens": ids}))
    target = ((-1, -1, 0, 1, -1),)
    kinds = {
        "text": text,
        "texts": [text],
        "list": [ids],
        "sequence": ids,
        "tensor": torch.tensor([ids]),
        "prompts": Prompts((tuple(ids),), ("copy",), (text,), target),
        "txt": from_file(tmp_path / "p.txt", model.tokenizer),
        "jsonl": from_file(tmp_path / "p.jsonl", model.tokenizer),
    }
    first = None
    for name, given in kinds.items():
        captured = ssmlens.capture(model, given, tmp_path / f"{name}", layers=[1])
        assert captured.tokens.tolist() == [ids]
        assert captured.token_strings(0) == ["a", "b", "|", "a", "b"]
        assert (captured.target is not None) == (name == "prompts")
        assert captured.target is None or captured.target.tolist() == [[-1, -1, 0, 1, -1]]
        got = contents(captured)
        first = first or got
        assert_same(got, first, rtol=0)


def test_named_dimensions_for_h5py_and_xarray(tiny_model, tmp_path):
    model = tiny_model("transformers Mamba2Mixer")
    ssmlens.capture(model, IDS, tmp_path / "run.h5", channels=[1, 6]).close()
    with h5py.File(tmp_path / "run.h5") as file:
        shown = [
            d.label or d[0].name.rsplit("/", 1)[-1] for d in file["layers/001/channel_map"].dims
        ]
        assert shown == ["prompt", "channel", "query", "key"]
    with xr.open_datatree(tmp_path / "run.h5", engine="h5netcdf") as tree:
        layer = tree["layers/001"]
        assert layer["delta"].dims == ("prompt", "token", "head")
        assert layer["B"].dims == ("prompt", "token", "group", "state")
        assert layer["A"].dims == ("head",)
        assert layer["channel_map"].sel(channel=6).dims == ("prompt", "query", "key")
        assert tree["tokens"].dims == ("prompt", "token")


def test_a_transformers_model_as_its_library_makes_it(tmp_path):
    """In training mode, with its cache on: what a user has after from_pretrained or from_config."""
    from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    small = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 2}
    for model in (
        MambaForCausalLM(MambaConfig(**small)),
        Mamba2ForCausalLM(Mamba2Config(**small, num_heads=4, head_dim=8, n_groups=2)),
    ):
        before, training = model.config.to_dict(), model.training
        with ssmlens.capture(model, IDS, tmp_path / f"{type(model).__name__}") as captured:
            assert captured.attributes["backend"] == "transformers"
            for index in captured.layers:
                assert captured.layer(index).read("closure_error").max() < 1e-5
        assert model.config.to_dict() == before
        assert model.training == training
        assert not any(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 5e-2), (torch.float64, 1e-5)])
def test_other_dtypes(model, tmp_path, dtype, limit):
    with ssmlens.capture(model.to(dtype), IDS, tmp_path / "run") as captured:
        assert captured.attributes["dtype"] == str(dtype).removeprefix("torch.")
        for index in captured.layers:
            assert captured.layer(index).read("closure_error").max() < limit
    assert verify(tmp_path / "run") == []


def test_a_mixer_that_does_something_else_is_named(model, tmp_path):
    mixers = [m for _, m, _, _ in mixer_calls(model, [1])]
    mixers[1].register_forward_hook(lambda _, __, output: output + 0.01)
    with pytest.raises(ClosureError, match=r"layer 1 \(.*\): recomputed output differs by .*e-"):
        ssmlens.capture(model, IDS, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with ssmlens.capture(model, IDS, tmp_path / "run", resume=True, keep_going=True) as captured:
        assert captured.layer(0).read("closure_error").max() < 1e-5
        assert captured.layer(1).read("closure_error").min() > 1e-4
        assert captured.layer(2).read("closure_error").max() < 1e-5
    (*problems,) = verify(tmp_path / "run")
    assert len(problems) == len(IDS)
    assert all(p.startswith("layer 1: prompt") and "closure error" in p for p in problems)


def test_one_wrong_prompt_is_enough(mamba, tmp_path):
    def hook(_, __, output):
        output[3] *= 1.0003

    mamba.backbone.layers[0].mixer.register_forward_hook(hook)
    with pytest.raises(ClosureError, match=r"layer 0 .* differs by 3\.0e-04"):
        ssmlens.capture(mamba, IDS, tmp_path / "run")
    with ssmlens.capture(mamba, IDS, tmp_path / "run", resume=True, keep_going=True) as captured:
        wrong = captured.layer(0).read("closure_error") > 1e-4
        assert wrong.tolist() == [False, False, False, True, False]


def test_operands_that_overflow_where_the_mixer_did_not_are_an_error(mamba, tmp_path):
    mixer = mamba.backbone.layers[1].mixer
    with torch.no_grad():
        mixer.in_proj.weight.fill_(3e38)
    mixer.register_forward_hook(lambda _, __, output: torch.ones_like(output))
    with pytest.raises(ClosureError, match=r"layer 1 .* differs by nan"):
        ssmlens.capture(mamba, IDS, tmp_path / "run")


def test_weights_that_the_mixer_used_and_no_longer_has(mamba, tmp_path):
    """The mixer computes with other weights than it shows: only its output tells."""
    mixer = mamba.backbone.layers[2].mixer
    kept = mixer.out_proj.weight.detach().clone()

    def swap(*_):
        mixer.out_proj.weight.data = -kept

    mixer.register_forward_pre_hook(swap)
    mixer.register_forward_hook(lambda *_: setattr(mixer.out_proj.weight, "data", kept))
    with pytest.raises(ClosureError, match=r"layer 2 .*differs by 2\.0e\+00"):
        ssmlens.capture(mamba, IDS, tmp_path / "run")


def test_a_prompt_that_is_not_finite_leaves_the_others_alone(mamba, tmp_path, monkeypatch):
    with torch.no_grad():
        mamba.backbone.embedding.weight[9] = torch.nan  # in the first and the fourth prompt
    monkeypatch.setattr(module, "_BATCH_TOKENS", 14)
    with ssmlens.capture(mamba, IDS, tmp_path / "run", channels=[0]) as captured:
        for index in captured.layers:
            layer = captured.layer(index)
            assert layer.state == "input"
            for name in ("attention_map", "attention_mask", "channel_map", "closure_error"):
                lost = np.isnan(layer.read(name).reshape(5, -1)).any(1)
                assert lost.tolist() == [True, False, False, True, False], name
    assert verify(tmp_path / "run") == []
    with (  # what is not finite has no say in which channels write most
        ssmlens.capture(mamba, [[9, *IDS[1]], IDS[4]], tmp_path / "two") as every,
        ssmlens.capture(mamba, [IDS[4]], tmp_path / "one") as others,
    ):
        for index in every.layers:
            chosen = [c.layer(index).read("channel").tolist() for c in (every, others)]
            assert chosen[0] == chosen[1]


def test_a_model_that_skips_a_layer_is_told(mamba, tmp_path):
    class Skips(nn.Module):
        def __init__(self):
            super().__init__()
            self.whole = mamba

        def forward(self, ids):
            hidden = self.whole.backbone.embedding(ids)
            return self.whole.backbone.layers[0](hidden, None)

    with pytest.raises(UsageError, match=r"without calling its layer whole\.backbone\.layers\.1"):
        ssmlens.capture(Skips(), IDS, tmp_path / "run.h5")


def test_nothing_is_logged(mamba, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        ssmlens.capture(mamba, IDS, tmp_path / "run").close()
    assert not [r for r in caplog.records if r.name.startswith("ssmlens")]


def test_a_map_that_overflows_is_marked(tmp_path):
    """B and C are huge and x is tiny: the output is finite, the map is not."""
    torch.manual_seed(0)
    config = {"d_model": 16, "n_layer": 1, "vocab_size": 32, "ssm_cfg": {"d_state": 4}}
    model = MambaLM(SsmlensConfig(**config))
    mixer = model.backbone.layers[0].mixer
    with torch.no_grad():
        mixer.x_proj.weight[-8:] *= 1e32
        mixer.in_proj.weight[:32] *= 1e-10
        mixer.conv1d.bias.zero_()
    with ssmlens.capture(model, [[1, 2, 3, 4]], tmp_path / "c.h5") as captured:
        layer = captured.layer(0)
        assert np.isfinite(layer.read("closure_error")).all()
        assert not np.isfinite(layer.read("attention_map")).all()
        assert (layer.state, layer.attributes["reason"][:17]) == ("output", "its map overflows")
        assert layer.verdict.answer == "no"
    assert verify(tmp_path / "c.h5") == []
