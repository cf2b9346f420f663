"""`MambaConfig`: a config.json in mamba_ssm's layout, above all the mixer of each block."""

import dataclasses
import inspect
import math
from collections.abc import Collection, Mapping
from typing import Any, get_origin

from torch import nn

from ssmlens.errors import UnsupportedModelError
from ssmlens.models.attention import MHA
from ssmlens.models.linear_attention import LinearAttention, MambaLinearAttention
from ssmlens.models.mamba import Mamba
from ssmlens.models.mamba2 import Mamba2
from ssmlens.models.mamba3 import Mamba3

_KIND_NAMES = {int: "an integer", bool: "true or false", dict: "an object", list: "a list"}
_MAX = 1 << 31
# Ranges of integers; the default is 1 to 2³¹.
_RANGES = {
    "d_intermediate": (0, _MAX),
    "d_model": (1, 1 << 20),
    "n_layer": (1, 10_000),
    "pad_vocab_size_multiple": (1, 1 << 20),
}

Mixers = Mapping[str, type[nn.Module]]

MIXER_OF_LAYER: Mixers = {"Mamba1": Mamba, "Mamba2": Mamba2, "Mamba3": Mamba3}
LINEAR_ATTENTION_OF_LAYER: Mixers = {
    "MambaLinearAttention": MambaLinearAttention,
    "LinearAttention": LinearAttention,
}
# The arguments that `build_mixer` passes to every mixer.
_OWN_ARGUMENTS = ("d_model", "embed_dim", "layer_idx", "device", "dtype")


@dataclasses.dataclass(frozen=True)
class MambaConfig:
    """The fields of mamba_ssm's config.json, with its defaults, and one more: `linear_attn_cfg`.

    Attributes:
        d_model: Width of the hidden states.
        d_intermediate: Width of a gated MLP after each mixer; 0 for none.
        n_layer: Number of blocks.
        vocab_size: Number of tokens, before padding to a multiple of `pad_vocab_size_multiple`.
        ssm_cfg: Arguments of the mixer; "layer" names its class, "Mamba1", "Mamba2" or "Mamba3".
        attn_layer_idx: Blocks with softmax attention instead of that mixer.
        attn_cfg: Arguments of that attention, see `attention.MHA`; "causal" must be true.
        linear_attn_cfg: Linear attention instead of that mixer (not in mamba_ssm): "layer_idx" lists its blocks,
            "layer" names its class, "MambaLinearAttention" (the default) or "LinearAttention", and the rest are that
            class's arguments (`linear_attention`). Empty: none.
        rms_norm: RMSNorm before each mixer; LayerNorm if false.
        residual_in_fp32: Keep the residual stream in float32.
        fused_add_norm: Normalise the residual sum before it is rounded to the weights' dtype.
        pad_vocab_size_multiple: See `vocab_size`.
        tie_embeddings: The output head is the embedding.

    Raises:
        UnsupportedModelError: An option is unknown, a required one is missing, or two contradict each other.
    """

    d_model: int = 2560
    d_intermediate: int = 0
    n_layer: int = 64
    vocab_size: int = 50277
    ssm_cfg: dict[str, Any] = dataclasses.field(default_factory=dict)
    attn_layer_idx: list[int] = dataclasses.field(default_factory=list)
    attn_cfg: dict[str, Any] = dataclasses.field(default_factory=dict)
    linear_attn_cfg: dict[str, Any] = dataclasses.field(default_factory=dict)
    rms_norm: bool = True
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True

    def __post_init__(self):
        self._check_numbers()
        _check_mixer("ssm_cfg", self.ssm_cfg, "Mamba1", MIXER_OF_LAYER)
        self._check_blocks("attn_layer_idx", self.attn_layer_idx)
        if self.attn_layer_idx:
            _check_arguments("attn_cfg", "MHA", MHA, self.attn_cfg)
            if self.attn_cfg.get("causal") is not True:
                raise UnsupportedModelError(
                    'attn_cfg lacks "causal": true, and mamba_ssm\'s MHA is not causal by default: '
                    "tokens would attend to the tokens that they predict; set it"
                )
        if self.linear_attn_cfg:
            self._check_linear_attention()

    def _check_numbers(self) -> None:
        for field in dataclasses.fields(self):
            if field.type is int:
                value, (least, most) = (
                    getattr(self, field.name),
                    _RANGES.get(field.name, (1, _MAX)),
                )
                if not least <= value <= most:
                    raise UnsupportedModelError(
                        f"{field.name} is {value}; it must be between {least} and {most}"
                    )
        for key in ("ssm_cfg", "attn_cfg", "linear_attn_cfg"):
            for name, value in getattr(self, key).items():
                if type(value) in (int, float) and not abs(value) <= _MAX and value != math.inf:
                    raise UnsupportedModelError(f"{key}'s {name} is {value}, beyond {_MAX}")

    def _check_linear_attention(self) -> None:
        arguments = dict(self.linear_attn_cfg)
        blocks = arguments.pop("layer_idx", None)
        if not blocks:
            raise UnsupportedModelError(
                "linear_attn_cfg has no blocks: set its layer_idx to a list of them"
            )
        self._check_blocks("linear_attn_cfg's layer_idx", blocks)
        both = sorted(set(blocks) & set(self.attn_layer_idx))
        if both:
            raise UnsupportedModelError(
                f"block {both[0]} is in both attn_layer_idx and linear_attn_cfg's layer_idx: "
                "it has one mixer"
            )
        _check_mixer(
            "linear_attn_cfg", arguments, "MambaLinearAttention", LINEAR_ATTENTION_OF_LAYER
        )

    def _check_blocks(self, key: str, blocks: Any) -> None:
        _check_list(key, blocks)
        for block in blocks:
            if not 0 <= block < self.n_layer:
                raise UnsupportedModelError(
                    f"{key} names block {block}, but n_layer is {self.n_layer}: 0..{self.n_layer - 1}"
                )
            if blocks.count(block) > 1:
                raise UnsupportedModelError(f"{key} names block {block} more than once")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MambaConfig":
        """Parse the content of a config.json.

        Raises:
            UnsupportedModelError: It has an unknown key, or a value of another type; the message names it.
        """
        kinds = {f.name: get_origin(f.type) or f.type for f in dataclasses.fields(cls)}
        unknown = sorted(values.keys() - kinds.keys())
        if unknown:
            raise UnsupportedModelError(
                f"this config.json has keys that MambaLM does not know: {_join(unknown)}"
            )
        for name, value in values.items():
            if type(value) is not kinds[name]:
                raise UnsupportedModelError(
                    f"{name} is {str(value)[:80]!r}; it must be {_KIND_NAMES[kinds[name]]}"
                )
        _check_list("attn_layer_idx", values.get("attn_layer_idx", []))
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json: mamba_ssm's keys, and `linear_attn_cfg` if there is linear attention."""
        values = dataclasses.asdict(self)
        if not self.linear_attn_cfg:
            del values["linear_attn_cfg"]
        return values

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: `vocab_size` rounded up."""
        multiple = self.pad_vocab_size_multiple
        return math.ceil(self.vocab_size / multiple) * multiple

    def build_mixer(self, layer_idx: int, **factory: Any) -> nn.Module:
        """Build the mixer of block `layer_idx`: softmax or linear attention if configured, else `ssm_cfg`'s mixer."""
        if layer_idx in self.attn_layer_idx:
            return MHA(self.d_model, layer_idx=layer_idx, **self.attn_cfg, **factory)
        linear = dict(self.linear_attn_cfg)
        if layer_idx in linear.pop("layer_idx", ()):
            mixer = LINEAR_ATTENTION_OF_LAYER[linear.pop("layer", "MambaLinearAttention")]
            return mixer(self.d_model, layer_idx=layer_idx, **linear, **factory)
        arguments = dict(self.ssm_cfg)
        mixer = MIXER_OF_LAYER[arguments.pop("layer", "Mamba1")]
        return mixer(self.d_model, layer_idx=layer_idx, **arguments, **factory)


def _check_list(key: str, blocks: object) -> None:
    if not isinstance(blocks, list) or any(type(block) is not int for block in blocks):
        raise UnsupportedModelError(
            f"{key} must be a list of block numbers, not {str(blocks)[:80]}"
        )


def _check_mixer(key: str, cfg: Mapping[str, Any], default: str, mixers: Mixers) -> None:
    """Raise UnsupportedModelError if the config.json's `key` names an unknown mixer or wrong arguments."""
    layer = cfg.get("layer", default)
    if not isinstance(layer, str) or layer not in mixers:
        raise UnsupportedModelError(
            f"{key} names the layer {str(layer)[:80]!r}; supported: {', '.join(mixers)}"
        )
    _check_arguments(key, layer, mixers[layer], cfg.keys() - {"layer"})


def _check_arguments(key: str, name: str, mixer: type[nn.Module], names: Collection[str]) -> None:
    """Raise UnsupportedModelError if a config.json's `key` has unknown arguments, or lacks required ones."""
    parameters = inspect.signature(mixer).parameters
    unknown = sorted(set(names) - (parameters.keys() - set(_OWN_ARGUMENTS)))
    if unknown:
        raise UnsupportedModelError(
            f"{key} has options that {name} does not take: {_join(unknown)}"
        )
    needed = [n for n, p in parameters.items() if p.default is p.empty and n not in _OWN_ARGUMENTS]
    missing = [n for n in needed if n not in names]
    if missing:
        raise UnsupportedModelError(f"{key} lacks what {name} needs: {', '.join(missing)}")


def _join(names: Collection[str], most: int = 8) -> str:
    """Join names with commas, shortened to fit in one line."""
    suffix = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name[:80] for name in [*names][:most]) + suffix
