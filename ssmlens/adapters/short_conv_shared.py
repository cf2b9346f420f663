"""Common code of the LFM families: a gated short convolution (`scan.operators.gated_convolution`)."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from ssmlens import names
from ssmlens.adapters.adapter import MixerInput
from ssmlens.adapters.transformers_shared import TransformersAdapter
from ssmlens.adapters.weight_views import WeightViews
from ssmlens.models.projections import zero_padding
from ssmlens.scan.operator import scan_dtype
from ssmlens.scan.operators.gated_convolution import GatedConvolution
from ssmlens.scan.surroundings import Surroundings


class ShortConvAdapter(TransformersAdapter):
    """Mixers with the parameter names of transformers' Lfm2ShortConv: out_proj(C · (conv(B · x) + b)).

    Padding is zeroed before in_proj. If in_proj has a bias, B and x of padding are not 0, and later tokens read them.
    """

    block_kind = names.CONVOLUTION
    cache_argument = "past_key_values"

    def project(self, mixer: Any, given: MixerInput) -> GatedConvolution:
        """See `Adapter.project`. The rows of in_proj are those of B, C and x, in this order."""
        projected = mixer.in_proj(zero_padding(given.hidden, given.token_mask))
        B, C, x = projected.to(scan_dtype(projected)).unsqueeze(3).chunk(3, dim=2)
        taps, bias = mixer.conv.weight.squeeze(1).to(x), mixer.conv.bias
        return GatedConvolution(
            B=B,
            C=C,
            taps=taps,
            bias=None if bias is None else bias.to(x),
            x=x,
            surroundings=Surroundings(),
        )

    def finish(
        self, mixer: Any, y: Float[Tensor, "batch token head headdim"], operands: Any
    ) -> Float[Tensor, "batch token d_model"]:
        """See `Adapter.finish`."""
        y = y if operands.offset is None else y + operands.offset
        return mixer.out_proj(y.flatten(2).to(mixer.out_proj.weight.dtype))

    def weights(self, mixer: Any) -> WeightViews:
        """See `Adapter.weights`. B and C are gates of single channels, not vectors to compare: no views."""
        return WeightViews(conv=mixer.conv.weight.squeeze(1), conv_bias=mixer.conv.bias)
