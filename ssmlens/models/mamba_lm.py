"""`MambaLM`: the plain-torch twin of mamba_ssm's `MambaLMHeadModel`, on any device, no kernels."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.norms import LayerNorm, RMSNorm


class CausalLMOutput(NamedTuple):
    """What `MambaLM` returns: `logits` over the padded vocabulary."""

    logits: Float[Tensor, "batch token vocabulary"]


class GatedMLP(nn.Module):
    """fc2(y · SiLU(gate)) with (y, gate) = fc1 x, its width rounded up to a multiple of 128."""

    def __init__(self, d_model: int, d_intermediate: int, **made: Any):
        super().__init__()
        width = math.ceil(d_intermediate / 128) * 128
        self.fc1 = nn.Linear(d_model, 2 * width, bias=False, **made)
        self.fc2 = nn.Linear(width, d_model, bias=False, **made)

    def forward(
        self, x: Float[Tensor, "batch token d_model"]
    ) -> Float[Tensor, "batch token d_model"]:
        """Each token by itself."""
        y, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(y * F.silu(gate))


class Block(nn.Module):
    """Add, norm, mix; then add, norm, MLP where there is one. The residual is handed on beside."""

    def __init__(self, config: MambaConfig, layer_idx: int, **made: Any):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.norm = _norm(config, made)
        self.mixer = config.build_mixer(layer_idx, **made)
        if config.d_intermediate:
            self.norm2 = _norm(config, made)
            self.mlp = GatedMLP(config.d_model, config.d_intermediate, **made)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch token d_model"],
        residual: Float[Tensor, "batch token d_model"] | None,
    ) -> tuple[Float[Tensor, "batch token d_model"], Float[Tensor, "batch token d_model"]]:
        """The mixer's (or MLP's) output, not yet added, and the residual stream before it."""
        normed, residual = _add_norm(self.config, self.norm, hidden_states, residual)
        hidden_states = self.mixer(normed)
        if self.config.d_intermediate:
            normed, residual = _add_norm(self.config, self.norm2, hidden_states, residual)
            hidden_states = self.mlp(normed)
        return hidden_states, residual


class Backbone(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(self, config: MambaConfig, **made: Any):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model, **made)
        self.layers = nn.ModuleList(Block(config, i, **made) for i in range(config.n_layer))
        self.norm_f = _norm(config, made)

    def forward(
        self, input_ids: Int[Tensor, "batch token"]
    ) -> Float[Tensor, "batch token d_model"]:
        """Hidden states after the final norm."""
        hidden_states, residual = self.embedding(input_ids), None
        for layer in self.layers:
            hidden_states, residual = layer(hidden_states, residual)
        return _add_norm(self.config, self.norm_f, hidden_states, residual)[0]


class MambaLM(nn.Module):
    """A language model with the parameters, names and values of mamba_ssm's `MambaLMHeadModel`.

    Drawn as mamba_ssm draws it: embedding N(0, .02), biases of projections 0, out_proj and fc2
    smaller by the square root of `n_layer`, with an MLP too (`MixerModel` alone would count two
    residuals a block there, but `MambaLMHeadModel` redraws its weights and counts one). On device
    "meta" nothing is drawn: assign a state dict.

    Args:
        config: The architecture.
        device: Where the parameters are made.
        dtype: Their dtype; some of the mixers' are float32 always.
    """

    def __init__(
        self,
        config: MambaConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        made = {"device": device, "dtype": dtype}
        self.config = config
        self.backbone = Backbone(config, **made)
        self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False, **made)
        self._draw()
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make the head the embedding, where the configuration says so; redo after assigning."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def forward(self, input_ids: Int[Tensor, "batch token"]) -> CausalLMOutput:
        """Logits at every token. Sequences of different length are padded on the right."""
        return CausalLMOutput(self.lm_head(self.backbone(input_ids)))

    @torch.no_grad()
    def _draw(self) -> None:
        nn.init.normal_(self.backbone.embedding.weight, std=0.02)
        for name, parameter in self.backbone.named_parameters():
            if name.endswith(("in_proj.bias", "out_proj.bias")):
                parameter.zero_()
            elif name.endswith(("out_proj.weight", "fc2.weight")):
                parameter.div_(math.sqrt(self.config.n_layer))


def _norm(config: MambaConfig, made: dict[str, Any]) -> RMSNorm | LayerNorm:
    return (RMSNorm if config.rms_norm else LayerNorm)(config.d_model, eps=1e-5, **made)


def _add_norm(
    config: MambaConfig,
    norm: nn.Module,
    hidden_states: Float[Tensor, "batch token d_model"],
    residual: Float[Tensor, "batch token d_model"] | None,
) -> tuple[Float[Tensor, "batch token d_model"], Float[Tensor, "batch token d_model"]]:
    """The norm of hidden_states + residual, and that sum, in the dtypes that mamba_ssm gives them.

    mamba_ssm's fused kernel adds and normalises in float32; without it the sum is rounded first.
    """
    dtype = hidden_states.dtype
    wide = torch.promote_types(dtype, torch.float32)
    if config.fused_add_norm:
        hidden_states = hidden_states.to(wide)
    total = hidden_states if residual is None else hidden_states + residual
    normed = norm(total if config.fused_add_norm else total.to(dtype)).to(dtype)
    return normed, total.to(wide if config.residual_in_fp32 else dtype)
