"""Small fresh models of each library and generation, by one name and one set of options."""

import pytest
import torch

from ssmlens.models.mamba_lm import MambaConfig, MambaLM


@pytest.fixture
def build():
    """build("transformers mamba2", d_state=8): a fresh model, drawn from seed 0."""

    def make(family, d_model=32, d_state=16, n_layer=2, headdim=8, **options):
        library, generation = family.split()
        torch.manual_seed(0)
        return _LIBRARIES[library](
            generation == "mamba2", d_model, d_state, n_layer, headdim, options
        )

    return make


@pytest.fixture
def mixers():
    """mixers(model): its mixers, which all three libraries keep in the same place."""
    return lambda model: [layer.mixer for layer in model.backbone.layers]


def _of_ssmlens(second, d_model, d_state, n_layer, headdim, options):
    ssm_cfg = {"d_state": d_state, **options.pop("ssm_cfg", {})}
    if second:
        ssm_cfg = {"layer": "Mamba2", "headdim": headdim, **ssm_cfg}
    shape = {"d_model": d_model, "n_layer": n_layer, "vocab_size": 32}
    return MambaLM(MambaConfig(**shape, ssm_cfg=ssm_cfg, **options))


def _of_transformers(second, d_model, d_state, n_layer, headdim, options):
    import transformers

    shape = {"hidden_size": d_model, "state_size": d_state, "num_hidden_layers": n_layer}
    if not second:
        config = transformers.MambaConfig(vocab_size=32, **shape, **options)
        return transformers.MambaForCausalLM(config)
    shape |= {"num_heads": 2 * d_model // headdim, "head_dim": headdim, "n_groups": 1}
    return transformers.Mamba2ForCausalLM(
        transformers.Mamba2Config(vocab_size=32, **shape, **options)
    )


def _of_mamba_ssm(second, d_model, d_state, n_layer, headdim, options):
    if not torch.cuda.is_available():
        pytest.skip("mamba_ssm needs a GPU")
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    ssm_cfg = {"layer": "Mamba2", "headdim": headdim} if second else {}
    ssm_cfg |= {"d_state": d_state, **options.pop("ssm_cfg", {})}
    shape = {"d_model": d_model, "n_layer": n_layer, "vocab_size": 32}
    return MambaLMHeadModel(MambaConfig(**shape, ssm_cfg=ssm_cfg, **options), device="cuda")


_LIBRARIES = {
    "ssmlens": _of_ssmlens,
    "transformers": _of_transformers,
    "mamba_ssm": _of_mamba_ssm,
}
