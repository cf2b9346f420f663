"""The part of a config for the model, and the architecture that it defines, in mamba_ssm's terms."""

import dataclasses
from typing import Any

from ssmlens.errors import UsageError
from ssmlens.models.mamba_config import MIXER_OF_LAYER, MambaConfig
from ssmlens.options import option


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model; options of the mixer that are left out take the mixer's defaults.

    Attributes:
        mixer: The mixer of every block: Mamba1, Mamba2 or Mamba3.
        d_model: Width of the hidden states.
        n_layer: Number of blocks.
        d_state: State size of the mixer.
        d_conv: Taps of the mixer's convolution.
        expand: Inner width of the mixer as a multiple of d_model.
        headdim: Channels per head of the mixer.
        ngroups: Number of groups of heads that share B and C.
        d_intermediate: Width of a gated MLP after each mixer; 0 for none.
        attention_layers: Blocks with causal self-attention instead of the mixer.
        attention_heads: Heads of that attention.
        linear_attention_layers: Blocks with causal linear attention instead of the mixer.
        linear_attention: Its class: MambaLinearAttention (a Mamba block with linear attention for the scan) or
            LinearAttention (a plain layer).
        linear_attention_state: MambaLinearAttention: width of its queries and keys.
        linear_attention_skip: MambaLinearAttention: add D x, as Mamba does.
        linear_attention_write_gate: MambaLinearAttention: write Δ x instead of x, as Mamba does.
    """

    mixer: str = "Mamba2"
    d_model: int = option(64, least=1)
    n_layer: int = option(2, least=1)
    d_state: int | None = option(None, least=1)
    d_conv: int | None = option(None, least=1)
    expand: int | None = option(None, least=1)
    headdim: int | None = option(None, least=1)
    ngroups: int | None = option(None, least=1)
    d_intermediate: int = option(0, least=0)
    attention_layers: tuple[int, ...] = ()
    attention_heads: int = 1
    linear_attention_layers: tuple[int, ...] = ()
    linear_attention: str = "MambaLinearAttention"
    linear_attention_state: int | None = None
    linear_attention_skip: bool = False
    linear_attention_write_gate: bool = False


MIXER_OPTIONS = ("d_state", "d_conv", "expand", "headdim", "ngroups")
"""The options that are arguments of the mixer."""


def model_config(config: ModelOptions, vocab_size: int) -> MambaConfig:
    """Return the architecture, in mamba_ssm's terms, of a model with a vocabulary of this size.

    Raises:
        UsageError: The model cannot be built. To check, one mixer of each kind is built without weights.
    """
    if config.mixer not in MIXER_OF_LAYER:
        raise UsageError(
            f"`mixer` {config.mixer!r} is unknown; choose from: {', '.join(MIXER_OF_LAYER)}"
        )
    values = {name: getattr(config, name) for name in MIXER_OPTIONS}
    options = {name: value for name, value in values.items() if value is not None}
    _check_blocks(config)
    # The last index is beyond the blocks and always has the mixer.
    kinds = [*config.attention_layers[:1], *config.linear_attention_layers[:1], config.n_layer]
    try:
        architecture = MambaConfig(
            d_model=config.d_model,
            n_layer=config.n_layer,
            d_intermediate=config.d_intermediate,
            vocab_size=vocab_size,
            ssm_cfg={"layer": config.mixer, **options},
            attn_layer_idx=list(config.attention_layers),
            attn_cfg=_attention(config),
            linear_attn_cfg=_linear_attention(config),
        )
        for layer in kinds:
            architecture.build_mixer(layer, device="meta")
    except UsageError as error:
        named = [f"`{name}`" for name in options or MIXER_OPTIONS if name in str(error)]
        raise UsageError(f"{' '.join([f'`mixer` {config.mixer}', *named])}: {error}") from None
    return architecture


def _check_blocks(config: ModelOptions) -> None:
    for name in ("attention_layers", "linear_attention_layers"):
        for layer in getattr(config, name):
            if not 0 <= layer < config.n_layer:
                last = config.n_layer - 1
                raise UsageError(f"`{name}` {layer} is out of range: there are 0..{last}")
    both = set(config.attention_layers) & set(config.linear_attention_layers)
    if both:
        raise UsageError(
            f"block {min(both)} is in `attention_layers` and in `linear_attention_layers`"
        )
    if config.attention_heads < 1 or config.d_model % config.attention_heads:
        raise UsageError(
            f"`attention_heads` {config.attention_heads} does not divide `d_model` {config.d_model}"
        )


def _attention(config: ModelOptions) -> dict[str, Any]:
    if not config.attention_layers:
        return {}
    return {"num_heads": config.attention_heads, "causal": True}


def _linear_attention(config: ModelOptions) -> dict[str, Any]:
    if not config.linear_attention_layers:
        return {}
    cfg = {
        "layer": config.linear_attention,
        "layer_idx": list(config.linear_attention_layers),
        "d_state": config.linear_attention_state,
        "skip": config.linear_attention_skip or None,
        "write_gate": config.linear_attention_write_gate or None,
    }
    return {name: value for name, value in cfg.items() if value is not None}
