"""Plain-torch twin of mamba_ssm's `Mamba2Simple`: Mamba-2 with fewer options and other defaults."""

import torch

from ssmlens.errors import UsageError
from ssmlens.models.mamba2 import Mamba2
from ssmlens.models.parameters import Number, Range


class Mamba2Simple(Mamba2):
    """Mamba-2 mixer as `Mamba2Simple` in mamba_ssm: hidden states in, hidden states out, `[batch token d_model]`.

    Its arguments are those of `Mamba2`; `activation` is SiLU under either of its names.

    Raises:
        UsageError: `learnable_init_states` is set: a scan that starts from a nonzero state is not M x.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        d_conv: int = 4,
        conv_init: Number | None = None,
        expand: int = 2,
        headdim: int = 128,
        ngroups: int = 1,
        A_init_range: Range = (1, 16),
        dt_min: Number = 0.001,
        dt_max: Number = 0.1,
        dt_init_floor: Number = 1e-4,
        dt_limit: Range = (0.0, float("inf")),
        learnable_init_states: bool = False,
        activation: str = "swish",
        bias: bool = False,
        conv_bias: bool = True,
        chunk_size: int = 256,
        use_mem_eff_path: bool = True,
        layer_idx: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        if learnable_init_states:
            raise UsageError(
                "Mamba2Simple with learnable_init_states starts its scan from a learned state; "
                "only scans from a zero state are hidden attention"
            )
        if activation not in ("silu", "swish"):
            raise UsageError(
                f"Mamba2Simple's activation must be 'silu' or 'swish', not {activation!r}"
            )
        super().__init__(
            d_model,
            d_state=d_state,
            d_conv=d_conv,
            conv_init=conv_init,
            expand=expand,
            headdim=headdim,
            ngroups=ngroups,
            A_init_range=A_init_range,
            dt_min=dt_min,
            dt_max=dt_max,
            dt_init_floor=dt_init_floor,
            dt_limit=dt_limit,
            bias=bias,
            conv_bias=conv_bias,
            chunk_size=chunk_size,
            use_mem_eff_path=use_mem_eff_path,
            layer_idx=layer_idx,
            device=device,
            dtype=dtype,
        )
