"""Models in mamba_ssm's layout: build an empty MambaLM (or mamba_ssm's model), load its weights, save a model."""

import importlib.util
import json
from typing import Any

import torch
from torch import Tensor, nn

from ssmlens.errors import SsmlensError, UnsupportedModelError
from ssmlens.models import backends, checkpoint
from ssmlens.models.layouts import CONFIG_FILE
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.mamba_lm import MambaLM

WEIGHTS_FILE = "model.safetensors"
HEAD, EMBEDDING = "lm_head.weight", "backbone.embedding.weight"


def why_no_kernels(config: dict[str, Any]) -> str | None:
    """Why mamba_ssm cannot build the model of this config.json, or None.

    Its `create_block` knows Mamba1 and Mamba2; its attention imports the rotary embedding from flash_attn.
    """
    layer = _inner(config, "ssm_cfg").get("layer", "Mamba1")
    if layer not in ("Mamba1", "Mamba2"):
        return f"its language model has no {layer} layers"
    if config.get("linear_attn_cfg"):
        return "its language model has no linear attention"
    rotary = config.get("attn_layer_idx") and _inner(config, "attn_cfg").get("rotary_emb_dim", 0)
    if rotary and importlib.util.find_spec("flash_attn") is None:
        return "its rotary embedding needs flash_attn, which is not installed"
    return None


def _inner(config: dict[str, Any], key: str) -> dict[str, Any]:
    inner = config.get(key)
    return inner if isinstance(inner, dict) else {}  # `MambaConfig` checks its type


def make_skeleton(config: dict[str, Any], backend: str, dtype: torch.dtype) -> nn.Module:
    """Build the model of `config` on the meta device: without weights, at no cost.

    Raises:
        UnsupportedModelError: `config` has an unknown layer or an unknown option.
    """
    parsed = MambaConfig.from_dict(config)
    if backend == backends.TORCH:
        model_class, model_config = MambaLM, parsed
    else:
        mamba_ssm = backends.import_mamba_ssm()
        model_class = mamba_ssm.MambaLMHeadModel
        model_config = mamba_ssm.MambaConfig(**parsed.to_dict())
    try:
        return model_class(model_config, device="meta", dtype=dtype)
    except SsmlensError:
        raise
    except Exception as error:  # numbers that fit no model: a mixer may raise anything
        reason = str(error).strip().split("\n")[0][:300] or type(error).__name__
        raise UnsupportedModelError(f"config.json does not describe a model ({reason})") from None


def untie(skeleton: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop the checkpoint's head if it is tied to the embedding: files may store it or not.

    Raises:
        SsmlensError: Head and embedding should be the same tensor and are not.
    """
    if not (skeleton.config.tie_embeddings and HEAD in state and EMBEDDING in state):
        return state
    if not checkpoint.same_bytes(state[HEAD], state[EMBEDDING]):
        raise SsmlensError(
            f"config.json ties {HEAD} to {EMBEDDING}, but the checkpoint has two different tensors; "
            'set "tie_embeddings": false in config.json if that is intended'
        )
    return {name: tensor for name, tensor in state.items() if name != HEAD}


def fill(skeleton: Any, state: dict[str, Tensor]) -> nn.Module:
    """Assign the (untied) checkpoint's tensors to the parameters of `skeleton`, in its dtypes.

    Raises:
        SsmlensError: Tensors are missing, unexpected, or of another shape; it names them.
    """
    expected = skeleton.state_dict()
    if skeleton.config.tie_embeddings:
        del expected[HEAD]
    checkpoint.check_names_and_shapes(expected, state)
    cast = {name: tensor.to(expected[name].dtype) for name, tensor in state.items()}
    skeleton.load_state_dict(cast, strict=False, assign=True)
    skeleton.tie_weights()
    return skeleton


def files_of(model: Any) -> dict[str, bytes]:
    """config.json and model.safetensors of a MambaLM, or of mamba_ssm's own model, by name.

    A tied head is stored too: mamba_ssm's `load_state_dict` needs every name.
    """
    from safetensors.torch import save

    config = MambaConfig(**vars(model.config)).to_dict()  # mamba_ssm's has the same fields
    # Copies: the format takes no tensors that share memory, as head and embedding do.
    state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    return {CONFIG_FILE: json.dumps(config, indent=1).encode(), WEIGHTS_FILE: save(state)}
