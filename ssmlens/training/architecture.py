"""From a config to the architecture of its model, in mamba_ssm's terms: which block has which mixer."""

from typing import Any

from ssmlens.errors import UsageError
from ssmlens.models.mamba_config import MIXER_OF_LAYER, MambaConfig
from ssmlens.tasks.task import Task
from ssmlens.training.config import TrainConfig, flag

MIXER_OPTIONS = ("d_state", "d_conv", "expand", "headdim", "ngroups")
"""Fields of a config that are arguments of its mixer."""


def model_config(config: TrainConfig, task: Task) -> MambaConfig:
    """The architecture, in mamba_ssm's terms, with a token for each of the task's."""
    if config.mixer not in MIXER_OF_LAYER:
        raise UsageError(
            f"--mixer {config.mixer!r} is unknown; choose from: {', '.join(MIXER_OF_LAYER)}"
        )
    given = {name: getattr(config, name) for name in MIXER_OPTIONS}
    options = {name: value for name, value in given.items() if value is not None}
    _check_blocks(config)
    try:
        made = MambaConfig(
            d_model=config.d_model,
            n_layer=config.n_layer,
            d_intermediate=config.d_intermediate,
            vocab_size=task.vocab_size,
            ssm_cfg={"layer": config.mixer, **options},
            attn_layer_idx=list(config.attention_layers),
            attn_cfg=_attention(config),
            linear_attn_cfg=_linear_attention(config),
        )
        for layer in range(config.n_layer + 1):  # one beyond the last has the mixer in any case
            made.build_mixer(layer, device="meta")
    except UsageError as error:
        named = [flag(name) for name in options or MIXER_OPTIONS if name in str(error)]
        raise UsageError(f"{' '.join([f'--mixer {config.mixer}', *named])}: {error}") from None
    return made


def _check_blocks(config: TrainConfig) -> None:
    for name in ("attention_layers", "linear_attention_layers"):
        for layer in getattr(config, name):
            if not 0 <= layer < config.n_layer:
                last = config.n_layer - 1
                raise UsageError(f"{flag(name)} {layer} is out of range: there are 0..{last}")
    both = set(config.attention_layers) & set(config.linear_attention_layers)
    if both:
        raise UsageError(
            f"block {min(both)} is in --attention-layers and in --linear-attention-layers"
        )
    if config.attention_heads < 1 or config.d_model % config.attention_heads:
        raise UsageError(
            f"--attention-heads {config.attention_heads} does not divide --d-model {config.d_model}"
        )


def _attention(config: TrainConfig) -> dict[str, Any]:
    if not config.attention_layers:
        return {}
    return {"num_heads": config.attention_heads, "causal": True}


def _linear_attention(config: TrainConfig) -> dict[str, Any]:
    if not config.linear_attention_layers:
        return {}
    cfg = {
        "layer": config.linear_attention,
        "layer_idx": list(config.linear_attention_layers),
        "d_state": config.linear_attention_state,
    }
    return {name: value for name, value in cfg.items() if value is not None}
