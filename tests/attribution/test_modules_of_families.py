"""What each module adds where a family multiplies, normalises or withholds it: plain hooks and its configuration."""

import pytest
import torch
from logit_models import FAMILIES, spread

import ssmlens
from ssmlens.errors import UnsupportedModelError

pytest.importorskip("transformers")

TOKENS, P, V = 7, 5, 3


class Outputs:
    """The outputs [token d_model] of some modules in one forward, and the stream before the final norm."""

    def __init__(self, model, names, norm, head="lm_head"):
        self.of, self.model = {}, model
        handles = [
            model.get_submodule(name).register_forward_hook(
                lambda module, args, output, name=name: self.of.update(
                    {name: (output[0] if isinstance(output, tuple) else output)[0].double()}
                )
            )
            for name in names
        ]
        before = model.get_submodule(norm).register_forward_pre_hook(
            lambda module, args: self.of.update(stream=args[0][0].double())
        )
        torch.manual_seed(5)
        self.ids = torch.randint(2, 32, (1, TOKENS))
        with torch.no_grad():
            self.logits = model(self.ids, use_cache=False).logits[0].double()
        for handle in (*handles, before):
            handle.remove()
        weight = model.get_submodule(norm).weight.detach().double()
        x = self.of["stream"][P]
        self.eps = model.config.rms_norm_eps
        row = model.get_submodule(head).weight[V].detach().double()
        self.reach = row * weight / (x.square().mean() + self.eps).sqrt()

    def adds(self, name, times=1.0):
        """What a module's output, so many times, adds to the logit."""
        return times * float(self.reach @ self.of[name][P])


def tiny(family, **changes):
    """A family's tiny model under a changed configuration."""
    (adapter,) = [found for name, (found, _) in FAMILIES.items() if family in name]
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = adapter.tiny_model().config
    for name, value in changes.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    return spread(model).cpu()


def check(model, outputs, wanted):
    """Every term, of which biases and gated MLPs of a module are part, and nothing else."""
    found = ssmlens.attribute(model, outputs.ids, P, V)
    largest = float(outputs.logits[P].abs().max())
    assert found.attrs["largest_logit"] == pytest.approx(largest, rel=1e-5)
    by_module = found["value"].groupby("module").sum()
    got = dict(zip(by_module["module"].values, by_module.values, strict=True))
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name] == pytest.approx(value, abs=2e-5 * largest), name
    assert sum(wanted.values()) == pytest.approx(float(outputs.logits[P, V]), abs=2e-5 * largest)
    return found


def test_granite_multiplies_embedding_residual_and_logits():
    model = tiny(
        "GraniteMoe", embedding_multiplier=1.7, residual_multiplier=0.6, logits_scaling=2.5
    )
    mixers = {0: "mamba", 1: "self_attn", 2: "mamba"}
    names = [f"model.layers.{n}.{name}" for n, name in mixers.items()]
    names += [f"model.layers.{n}.{m}" for n in mixers for m in ("block_sparse_moe", "shared_mlp")]
    out = Outputs(model, ["model.embed_tokens", *names], "model.norm")
    wanted = {name: out.adds(name, 0.6 / 2.5) for name in names}
    wanted["model.embed_tokens"] = out.adds("model.embed_tokens", 1.7 / 2.5)
    found = check(model, out, wanted)
    labels = found["term"].values.tolist()
    assert {"1 attention", "0 mlp", "0 mlp 2"} <= set(labels)


def test_falcon_h1_multiplies_mixer_attention_mlp_embedding_and_head():
    model = tiny(
        "FalconH1",
        embedding_multiplier=1.4,
        lm_head_multiplier=0.7,
        ssm_out_multiplier=0.8,
        attention_out_multiplier=1.6,
        attention_in_multiplier=0.9,
        mlp_multipliers=[0.7, 1.3],
        key_multiplier=0.5,
    )
    parts = {"mamba": 0.8, "self_attn": 1.6, "feed_forward": 1.0}
    names = {f"model.layers.{n}.{part}": times for n in range(3) for part, times in parts.items()}
    out = Outputs(model, ["model.embed_tokens", *names], "model.final_layernorm")
    wanted = {name: out.adds(name, 0.7 * times) for name, times in names.items()}
    wanted["model.embed_tokens"] = out.adds("model.embed_tokens", 0.7 * 1.4)
    found = check(model, out, wanted)
    # Attention beside the mixer is split by head and source, too.
    assert {"1 mamba", "1 attention"} <= set(found["mixer"].values)


def test_olmo_hybrid_normalises_what_attention_and_its_mlp_put_out():
    model = tiny("OlmoHybrid")
    layers = {n: f"model.layers.{n}" for n in range(3)}
    mixers = {0: "linear_attn", 1: "self_attn", 2: "linear_attn"}
    names = [f"{layers[n]}.{name}" for n, name in mixers.items()]
    names += [f"{layer}.mlp" for layer in layers.values()]
    out = Outputs(model, ["model.embed_tokens", *names], "model.norm")
    wanted = {name: out.adds(name) for name in ("model.embed_tokens", *names)}
    for name, norm in (
        ("model.layers.1.self_attn", "post_attention_layernorm"),
        ("model.layers.1.mlp", "post_feedforward_layernorm"),
    ):
        y = out.of[name][P]
        weight = model.get_submodule(f"model.layers.1.{norm}").weight.detach().double()
        normed = weight * y / (y.square().mean() + out.eps).sqrt()
        wanted[name] = float(out.reach @ normed)
    found = check(model, out, wanted)
    # Of attention whose output is normalised, too, the heads are the module's.
    weights, handles = {}, []
    attention = model.get_submodule("model.layers.1.self_attn")
    handles.append(
        attention.register_forward_hook(lambda module, args, output: weights.update(w=output[1]))
    )
    handles.append(
        attention.v_proj.register_forward_hook(
            lambda module, args, output: weights.update(v=output)
        )
    )
    with torch.no_grad():
        model(out.ids, use_cache=False)
    for handle in handles:
        handle.remove()
    y = out.of["model.layers.1.self_attn"][P]
    post = model.get_submodule("model.layers.1.post_attention_layernorm").weight.double()
    reach = out.reach * post / (y.square().mean() + out.eps).sqrt()
    size = attention.o_proj.in_features // 2
    values = weights["v"][0].unflatten(1, (-1, size)).double()
    read = (reach @ attention.o_proj.weight.double()).unflatten(0, (2, size))
    wanted_sources = torch.einsum("hj,jhd,hd->j", weights["w"][0, :, P].double(), values, read)
    largest = found.attrs["largest_logit"]
    got = torch.from_numpy(found["by_source"].sel(mixer="1 attention").values)
    torch.testing.assert_close(got, wanted_sources.detach(), rtol=0, atol=2e-5 * largest)


@pytest.mark.parametrize("family", ["ZambaMamba", "Zamba2Mamba"])
def test_zambas_shared_transformer_has_no_direct_term(family):
    model = tiny(family)
    names = [
        name
        for name, module in model.named_modules()
        if type(module).__name__ in ("ZambaMambaMixer", "Zamba2MambaMixer")
    ]
    out = Outputs(model, ["model.embed_tokens", *names], "model.final_layernorm")
    found = check(model, out, {name: out.adds(name) for name in ("model.embed_tokens", *names)})
    assert set(found["kind"].values) == {"embedding", "mamba"}


def test_nemotron_h_has_blocks_of_one_module_each():
    model = tiny("NemotronH")
    names = [f"model.layers.{n}.mixer" for n in range(5)]
    model.config.rms_norm_eps = model.config.layer_norm_epsilon
    out = Outputs(model, ["model.embeddings", *names], "model.norm_f")
    check(model, out, {name: out.adds(name) for name in ("model.embeddings", *names)})


def test_attention_whose_values_cannot_be_read_is_one_term():
    """Latent attention (Kimi), gated attention (Qwen3-Next)."""
    for family in ("KimiLinear", "Qwen3Next"):
        model = tiny(family)
        found = ssmlens.attribute(model, torch.tensor([[3, 4, 5]]))
        assert "1 attention" in found["term"].values
        assert "1 attention" not in found["mixer"].values


def test_fused_attention_is_one_term():
    from transformers import AutoModelForCausalLM

    model = tiny("Bamba")
    fused = AutoModelForCausalLM.from_config(model.config, attn_implementation="sdpa").eval()
    fused.load_state_dict(model.state_dict())
    ids = torch.tensor([[3, 4, 5, 9]])
    one, whole = (ssmlens.attribute(m, ids, token=4) for m in (fused, model))
    assert "1 attention" not in one["mixer"].values
    assert float(one["value"].sel(term="1 attention")) == pytest.approx(
        float(whole["value"].sel(term="1 attention")), abs=1e-4
    )


def test_a_model_without_a_head_is_refused():
    with pytest.raises(UnsupportedModelError, match="has no linear head"):
        ssmlens.attribute(tiny("Bamba").model, torch.tensor([[3, 4]]))
