"""`MambaLM`: the plain-torch twin of mamba_ssm's `MambaLMHeadModel`, on any device, no kernels."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from ssmlens.errors import UsageError
from ssmlens.models.generation import generate
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.norms import LayerNorm, RMSNorm
from ssmlens.models.projections import TokenMask


class CausalLMOutput(NamedTuple):
    """The output of `MambaLM`.

    Attributes:
        logits: Over the padded vocabulary.
        hidden_states: If requested, n_layer + 1 tensors [batch token d_model]: the residual stream after the embedding
            and after each block, the last one after the final norm. This is as in transformers' Llama; its Mamba omits
            the embedding and has the last block twice, before and after the norm.
    """

    logits: Float[Tensor, "batch token vocabulary"]
    hidden_states: tuple[Float[Tensor, "batch token d_model"], ...] | None = None


class GatedMLP(nn.Module):
    """fc2(y · SiLU(gate)) with (y, gate) = fc1 x, its width rounded up to a multiple of 128."""

    def __init__(self, d_model: int, d_intermediate: int, **factory: Any):
        super().__init__()
        width = math.ceil(d_intermediate / 128) * 128
        self.fc1 = nn.Linear(d_model, 2 * width, bias=False, **factory)
        self.fc2 = nn.Linear(width, d_model, bias=False, **factory)

    def forward(
        self, x: Float[Tensor, "batch token d_model"]
    ) -> Float[Tensor, "batch token d_model"]:
        """Each token by itself."""
        y, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(y * F.silu(gate))


class Block(nn.Module):
    """Add, norm, mix; then add, norm, MLP if there is one. The residual is passed on separately."""

    def __init__(self, config: MambaConfig, layer_idx: int, **factory: Any):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.norm = _norm(config, factory)
        self.mixer = config.build_mixer(layer_idx, **factory)
        if config.d_intermediate:
            self.norm2 = _norm(config, factory)
            self.mlp = GatedMLP(config.d_model, config.d_intermediate, **factory)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch token d_model"],
        residual: Float[Tensor, "batch token d_model"] | None,
        attention_mask: TokenMask | None = None,
    ) -> tuple[Float[Tensor, "batch token d_model"], Float[Tensor, "batch token d_model"]]:
        """Return the mixer's (or MLP's) output, not yet added, and the residual stream before it."""
        normed, residual = _add_norm(self.config, self.norm, hidden_states, residual)
        if attention_mask is None:
            hidden_states = self.mixer(normed)
        else:
            hidden_states = self.mixer(normed, attention_mask=attention_mask)
        if self.config.d_intermediate:
            normed, residual = _add_norm(self.config, self.norm2, hidden_states, residual)
            hidden_states = self.mlp(normed)
        return hidden_states, residual


class Backbone(nn.Module):
    """Embedding, blocks, final norm."""

    def __init__(self, config: MambaConfig, **factory: Any):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model, **factory)
        self.layers = nn.ModuleList(Block(config, i, **factory) for i in range(config.n_layer))
        self.norm_f = _norm(config, factory)

    def forward(
        self,
        input_ids: Int[Tensor, "batch token"],
        attention_mask: TokenMask | None = None,
        streams: list[Tensor] | None = None,
    ) -> Float[Tensor, "batch token d_model"]:
        """Hidden states after the final norm.

        Args:
            input_ids: The tokens.
            attention_mask: 1 at real tokens, 0 at padding.
            streams: A list to which the residual stream before each block and the last hidden states are appended.
        """
        hidden_states, residual = self.embedding(input_ids), None
        masked = {} if attention_mask is None else {"attention_mask": attention_mask}
        for layer in self.layers:
            if streams is not None:
                streams.append(hidden_states if residual is None else hidden_states + residual)
            hidden_states, residual = layer(hidden_states, residual, **masked)
        normed = _add_norm(self.config, self.norm_f, hidden_states, residual)[0]
        if streams is not None:
            streams.append(normed)
        return normed


class MambaLM(nn.Module):
    """A language model with the parameters, names and values of mamba_ssm's `MambaLMHeadModel`.

    Initialised as in mamba_ssm: embedding N(0, .02), biases of projections 0, out_proj and fc2 divided by the square
    root of `n_layer`, also with an MLP (`MixerModel` would count two residuals per block then, but `MambaLMHeadModel`
    initialises again and counts one). On device "meta" nothing is initialised: assign a state dict.

    Args:
        config: The architecture.
        device: Device of the parameters.
        dtype: Their dtype; some parameters of mixers are always float32.
    """

    def __init__(
        self,
        config: MambaConfig,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = {"device": device, "dtype": dtype}
        self.config = config
        self.backbone = Backbone(config, **factory)
        self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False, **factory)
        self._draw()
        self.tie_weights()

    def tie_weights(self) -> None:
        """Use the embedding as the output head if the config says so; call again after assigning weights."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def forward(
        self,
        input_ids: Int[Tensor, "batch token"],
        attention_mask: Shaped[Tensor, "row column"] | None = None,
        output_hidden_states: bool = False,
    ) -> CausalLMOutput:
        """Logits at every token.

        Args:
            input_ids: The tokens. Pad sequences of different length on the right, where a causal model needs no mask,
                or on either side with `attention_mask`.
            attention_mask: 1 at real tokens and 0 at padding, [batch token]. A row's logits are then the same as
                without padding; logits at padding are meaningless.
            output_hidden_states: Whether to return `hidden_states` too.

        Raises:
            UsageError: The mask's shape differs from the tokens', or a block has a mixer of another library.
        """
        if attention_mask is not None:
            self._check_mask(input_ids, attention_mask)
        streams: list[Tensor] | None = [] if output_hidden_states else None
        logits = self.lm_head(self.backbone(input_ids, attention_mask, streams))
        return CausalLMOutput(logits, None if streams is None else tuple(streams))

    def generate(
        self,
        input_ids: Int[Tensor, "batch token"],
        attention_mask: TokenMask | None = None,
        **options: Any,
    ) -> Int[Tensor, "batch longer"]:
        """Continue the tokens: see `ssmlens.models.generation.generate`, which takes `options`."""
        return generate(self, input_ids, attention_mask, **options)

    def _check_mask(self, input_ids: Tensor, attention_mask: Tensor) -> None:
        if attention_mask.shape != input_ids.shape:
            raise UsageError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, "
                f"input_ids {tuple(input_ids.shape)}: pass a 1 or 0 per token"
            )
        for index, block in enumerate(self.backbone.layers):
            module = type(block.mixer).__module__  # pyright: ignore[reportAttributeAccessIssue]
            if not module.startswith("ssmlens."):
                raise UsageError(
                    f"layer {index} is run by {module}, which takes no attention_mask; "
                    'pad on the right and leave it out, or load the model with backend="torch"'
                )

    @torch.no_grad()
    def _draw(self) -> None:
        nn.init.normal_(self.backbone.embedding.weight, std=0.02)
        for name, parameter in self.backbone.named_parameters():
            if name.endswith(("in_proj.bias", "out_proj.bias")):
                parameter.zero_()
            elif name.endswith(("out_proj.weight", "fc2.weight")):
                parameter.div_(math.sqrt(self.config.n_layer))


def _norm(config: MambaConfig, factory: dict[str, Any]) -> RMSNorm | LayerNorm:
    return (RMSNorm if config.rms_norm else LayerNorm)(config.d_model, eps=1e-5, **factory)


def _add_norm(
    config: MambaConfig,
    norm: nn.Module,
    hidden_states: Float[Tensor, "batch token d_model"],
    residual: Float[Tensor, "batch token d_model"] | None,
) -> tuple[Float[Tensor, "batch token d_model"], Float[Tensor, "batch token d_model"]]:
    """Compute hidden_states + residual and its norm, in mamba_ssm's dtypes; return the norm and the sum.

    mamba_ssm's fused kernel adds and normalises in float32; without it the sum is rounded first.
    """
    dtype = hidden_states.dtype
    wide = torch.promote_types(dtype, torch.float32)
    if config.fused_add_norm:
        hidden_states = hidden_states.to(wide)
    total = hidden_states if residual is None else hidden_states + residual
    normed = norm(total if config.fused_add_norm else total.to(dtype)).to(dtype)
    return normed, total.to(wide if config.residual_in_fp32 else dtype)
