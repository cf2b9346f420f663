"""Common code of flash-linear-attention's layers: padding, short convolutions, the output's norm and gate, models.

The library removes padding before a layer runs and inserts zeros after it. Adapters set padding to 0, which gives the
same result if padding is before or after a prompt. Masks with padding between a prompt's tokens are refused.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ssmlens.adapters.adapter import Adapter, MixerInput, arguments
from ssmlens.errors import UnsupportedModelError
from ssmlens.models import checkpoint, transformers_layout
from ssmlens.models.projections import Activation, TokenMask, convolve, zero_padding
from ssmlens.models.submodules import called
from ssmlens.scan.operator import Operator, scan_dtype
from ssmlens.scan.surroundings import Surroundings


@dataclasses.dataclass(frozen=True)
class Branch:
    """Queries, keys or values of all heads, head after head.

    Attributes:
        before: Output of the projection.
        values: After convolution and activation, in the scan's precision; 0 at padding.
        taps: Taps of the convolution, or None.
        bias: Bias of the convolution, or None.
    """

    before: Float[Tensor, "batch token channel"]
    values: Float[Tensor, "batch token channel"]
    taps: Float[Tensor, "channel tap"] | None = None
    bias: Float[Tensor, "channel"] | None = None

    def repeat(self, heads: int, times: int) -> "Branch":
        """Return a copy that repeats each of the `heads` heads `times` times."""
        width = self.before.shape[2] // heads
        channels = torch.arange(heads * width, device=self.before.device).unflatten(0, (heads, -1))
        order = channels.repeat_interleave(times, dim=0).flatten()
        return Branch(
            self.before[..., order],
            self.values[..., order],
            None if self.taps is None else self.taps[order],
            None if self.bias is None else self.bias[order],
        )


class FlaAdapter(Adapter):
    """Layers of `fla.layers`.

    Attributes:
        model: Name of the language model in `fla.models`.
        config: Name of its configuration there.
        tiny: Settings of `tiny_model` beside those of all these families.
    """

    model: str
    config: str
    tiny: ClassVar[Mapping[str, Any]]

    cache_argument = "past_key_values"
    tf32_kernels = True

    def refusal(self, mixer: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> str | None:
        """See `Adapter.refusal`."""
        reason = super().refusal(mixer, args, kwargs)
        mask = arguments(mixer, args, kwargs).get("attention_mask")
        if reason is None and mask is not None and _has_gap(mask):
            return "padding between a prompt's tokens is not recorded; put it before or after them"
        return reason

    def cached_by(self, mixer: Any, given: Mapping[str, Any]) -> str | None:
        """See `Adapter.cached_by`. The model's cache has the states of all layers that have run."""
        cache = given.get("past_key_values")
        has_run = (
            cache is not None and len(cache) > mixer.layer_idx and bool(cache[mixer.layer_idx])
        )
        return "past_key_values" if has_run else None

    def finish(
        self, mixer: Any, y: Float[Tensor, "batch token head headdim"], operands: Operator
    ) -> Float[Tensor, "batch token d_model"]:
        """See `Adapter.finish`: an RMS norm of each head's channels, the gate, o_proj. The kernels round once."""
        gate, name = operands.gate, self.norm_name(mixer)
        norm = mixer.get_submodule(name)
        y = y.to(mixer.o_proj.weight.dtype if gate is None else gate.dtype)
        fused = "Gated" in type(norm).__name__
        call = called(mixer, norm=name).get("norm")
        if call is not None:
            normed = call(y, gate.view_as(y)) if fused and gate is not None else call(y)
        else:
            normed = F.rms_norm(y.to(scan_dtype(y)), y.shape[3:], eps=norm.eps)
            normed = normed if norm.weight is None else normed * norm.weight.to(normed)
        if gate is not None and not fused:
            normed = normed.to(y.dtype) * self.gate_activation(mixer)(gate).view_as(y)
        elif gate is not None and call is None:
            normed = normed * self.gate_activation(mixer)(gate.to(normed.dtype)).view_as(y)
        return mixer.o_proj(normed.to(y.dtype).flatten(2))

    def gate_activation(self, mixer: Any) -> Activation:
        """The activation of the gate."""
        name = getattr(mixer.get_submodule(self.norm_name(mixer)), "activation", "swish")
        return torch.sigmoid if name == "sigmoid" else F.silu

    def norm_name(self, mixer: Any) -> str:
        """The name of the norm of each head's output."""
        return "o_norm"

    def around(self, mixer: Any, values: Branch, heads: int) -> Surroundings:
        """The surroundings of the mixing of these values, which have `heads` heads."""
        norm = mixer.get_submodule(self.norm_name(mixer))
        width = values.before.shape[2] // heads
        weight = values.values.new_ones(width) if norm.weight is None else norm.weight
        return Surroundings(
            u=None if values.taps is None else values.before,
            conv_weight=values.taps,
            conv_bias=values.bias,
            norm_weight=weight.repeat(heads),
            norm_eps=norm.eps,
            norm_groups=heads,
            norm_before_gate=True,
            gate_activation=self.gate_activation(mixer),
        )

    def load(self, folder: Path, config: Mapping[str, Any]) -> nn.Module:
        """See `Adapter.load`: transformers builds it, with the classes that flash-linear-attention registers.

        Raises:
            UnsupportedModelError: flash-linear-attention is not installed, or has no such model.
        """
        try:
            importlib.import_module("fla.models")
        except ModuleNotFoundError as error:
            raise UnsupportedModelError(
                f"{folder} is a {self.model_type}, which needs {error.name}: "
                "pip install flash-linear-attention"
            ) from None
        skeleton = transformers_layout.make_skeleton(dict(config), folder, str(folder))
        return transformers_layout.fill(skeleton, checkpoint.read_checkpoint(folder), torch.float32)

    def tiny_model(self) -> nn.Module:
        """See `Adapter.tiny_model`. Its kernels run token by token and do not multiply in TF32."""
        models = importlib.import_module("fla.models")
        sizes = {"vocab_size": 32, "hidden_size": 24, "intermediate_size": 16, "norm_eps": 1e-5}
        plain = dict.fromkeys(("fuse_norm", "fuse_swiglu", "fuse_cross_entropy"), False)
        config = getattr(models, self.config)(
            num_hidden_layers=3, attn_mode="fused_recurrent", **sizes, **plain, **self.tiny
        )
        return getattr(models, self.model)(config)


def branch(
    mixer: Any,
    name: str,
    hidden: Float[Tensor, "batch token d_model"],
    token_mask: TokenMask | None,
    activation: Activation | None = None,
) -> Branch:
    """Apply the layers of one name to a mixer's input: NAME_proj, then NAME_conv1d with its own activation.

    Args:
        mixer: The mixer.
        name: "q", "k" or "v".
        hidden: Its input, 0 at padding.
        token_mask: 1 at real tokens.
        activation: Follows the projection if there is no convolution.
    """
    before = getattr(mixer, f"{name}_proj")(hidden)
    wide = scan_dtype(before)
    conv = getattr(mixer, f"{name}_conv1d", None)
    if conv is None:
        values = before if activation is None else activation(before)
        return Branch(before, zero_padding(values, token_mask).to(wide))
    taps, bias = conv.weight.squeeze(1), conv.bias
    if (call := called(mixer, conv=f"{name}_conv1d").get("conv")) is not None:
        values = call(before)[0]
    else:
        values = convolve(before.to(wide), taps.to(wide), None if bias is None else bias.to(wide))
        values = (values if conv.activation is None else F.silu(values)).to(before.dtype)
    return Branch(before, zero_padding(values, token_mask).to(wide), taps, bias)


def convolution_views(mixer: Any, per_head: tuple[int, int]) -> dict[str, Tensor]:
    """Return the views of the convolutions of k, q and v; none if there are biases, which have no view."""
    if not hasattr(mixer, "v_conv1d") or mixer.v_conv1d.bias is not None:
        return {}
    q, k, v = (getattr(mixer, f"{name}_conv1d").weight.squeeze(1) for name in "qkv")
    return {"conv_B": k.unflatten(0, per_head), "conv_C": q.unflatten(0, per_head), "conv_x": v}


def zeroed_input(given: MixerInput) -> Float[Tensor, "batch token d_model"]:
    """The mixer's input, 0 at padding."""
    return zero_padding(given.hidden, given.token_mask)


def _has_gap(mask: Tensor) -> bool:
    """Whether some row has padding between real tokens."""
    real = mask.bool()
    begins = real[:, 1:] & ~real[:, :-1]
    return bool((begins.sum(1) + real[:, 0] > 1).any())
