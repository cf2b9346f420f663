"""Models in mamba_ssm's layout: an empty MambaLM (or mamba_ssm's own model), then its weights."""

from typing import Any

import torch
from torch import Tensor, nn

from ssmlens.errors import SsmlensError
from ssmlens.models import backends, checkpoint
from ssmlens.models.mamba_lm import MambaConfig, MambaLM

HEAD, EMBEDDING = "lm_head.weight", "backbone.embedding.weight"


def make_skeleton(config: dict[str, Any], backend: str, dtype: torch.dtype) -> nn.Module:
    """The model that `config` describes, on the meta device: without weights, at no cost.

    Raises:
        UnsupportedModelError: `config` asks for attention, an unknown layer or an unknown option.
    """
    parsed = MambaConfig.from_dict(config)
    if backend == backends.TORCH:
        return MambaLM(parsed, device="meta", dtype=dtype)
    mamba_ssm = backends.import_mamba_ssm()
    return mamba_ssm.MambaLMHeadModel(mamba_ssm.MambaConfig(**config), device="meta", dtype=dtype)


def untie(skeleton: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The checkpoint without its head where the head is the embedding: files may store it or not.

    Raises:
        SsmlensError: They should be the same tensor and are not.
    """
    if not (skeleton.config.tie_embeddings and HEAD in state and EMBEDDING in state):
        return state
    if not checkpoint.same_bytes(state[HEAD], state[EMBEDDING]):
        raise SsmlensError(
            f"config.json ties {HEAD} to {EMBEDDING}, but the checkpoint has two different ones; "
            'set "tie_embeddings": false in config.json if that is meant'
        )
    return {name: tensor for name, tensor in state.items() if name != HEAD}


def fill(skeleton: Any, state: dict[str, Tensor]) -> nn.Module:
    """Make the (untied) checkpoint's tensors the parameters of `skeleton`, in the dtypes it has.

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
