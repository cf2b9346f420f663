"""`load_model`: from a shipped name, a folder or a hub id to a model that is ready to run."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ssmlens.adapters.adapter import Adapter, adapters
from ssmlens.adapters.find import adapter_of, token_mixers
from ssmlens.errors import SsmlensError, UnsupportedModelError
from ssmlens.models import checkpoint, mamba_ssm_layout, transformers_layout
from ssmlens.models.backends import choose_backend
from ssmlens.models.device import find_device
from ssmlens.models.layouts import Layout, layout_of, read_config
from ssmlens.models.sources import find_source


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """Where a loaded model comes from; `model.source`.

    Attributes:
        name: The name passed to `load_model`.
        digest: sha256 of the weights as stored, before any conversion of dtype.
        backend: The code that runs it: "torch" (MambaLM, or a family's own modules), "mamba-ssm" or "transformers".
        layout: Layout of its folder: "mamba_ssm", "transformers", or "family" if an adapter builds the model.
        revision: The hub commit; None for a folder and for shipped models.
        tokenizer_problem: Why `model.tokenizer` is None; None if there is a tokenizer.
    """

    name: str
    digest: str
    backend: str
    layout: Layout
    revision: str | None = None
    tokenizer_problem: str | None = None


def load_model(
    name: str | os.PathLike[str],
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    backend: str = "auto",
    revision: str | None = None,
) -> nn.Module:
    """Load a language model whose mixers ssmlens reads, by shipped name, folder or hub id (owner/name).

    Reads the layouts of mamba_ssm and transformers. The first runs in MambaLM, or in mamba_ssm on CUDA if it is
    installed. Hybrids of transformers run with eager attention, which returns its maps. Of a model of images and text,
    the text model is loaded if transformers has one. If an adapter has the folder's `model_type`
    (`Adapter.model_type`), that adapter reads the folder. Nothing in a checkpoint is ever executed.
    The model is in eval mode. It has `.tokenizer` (a `models.tokenizers.Tokenizer`, or None) and `.source`
    (`ModelSource`).

    Args:
        name: A shipped model (`ssmlens models`), else a folder with config.json and weights, else
            a hub id.
        device: Where to put it; "auto" is CUDA if there is a GPU.
        dtype: Dtype of its weights, except for those that mamba_ssm keeps in float32.
        backend: auto, mamba-ssm, transformers or torch; see `backends.choose_backend`.
        revision: Branch, tag or commit of a hub id.

    Raises:
        UsageError: There is no such model, or the options do not fit it.
        UnsupportedModelError: No adapter reads any of its mixers, or it has options that ssmlens does not know.
        SsmlensError: The hub cannot be reached, or the checkpoint is damaged or does not fit.
    """
    name = os.fspath(name)
    target = find_device(device)
    source = find_source(name, revision)
    config = read_config(source.folder)
    family = _family_of(config)
    layout: Layout = layout_of(config, name) if family is None else "family"
    kernel_problem = mamba_ssm_layout.why_no_kernels(config) if layout == "mamba_ssm" else None
    chosen = choose_backend(backend, layout, target, kernel_problem)

    skeleton: Any  # built before the weights are downloaded, since it may be refused
    if layout == "mamba_ssm":
        skeleton = mamba_ssm_layout.make_skeleton(config, chosen, dtype)
        source.fetch_weights()
        state = mamba_ssm_layout.untie(skeleton, checkpoint.read_checkpoint(source.folder))
        model: Any = mamba_ssm_layout.fill(skeleton, state)
    elif family is not None:
        source.fetch_weights()
        model = family.load(source.folder, config)
        _require_mixers(model, name)
        model, state = model.to(dtype), model.state_dict()
    else:
        skeleton = transformers_layout.make_skeleton(config, source.folder, name)
        _require_mixers(skeleton, name)
        source.fetch_weights()
        state = checkpoint.read_checkpoint(source.folder)
        model = transformers_layout.fill(skeleton, state, dtype)

    problem = None
    try:
        model.tokenizer = getattr(model, "tokenizer", None) or source.tokenizer()
    except SsmlensError as error:
        model.tokenizer, problem = None, str(error)
    model.source = ModelSource(
        name, checkpoint.digest(state), chosen, layout, source.commit, problem
    )
    return model.to(target).eval()


def _family_of(config: Mapping[str, Any]) -> Adapter | None:
    """The adapter that builds models of this model_type itself, or None."""
    kind = config.get("model_type")
    return next(
        (a for a in map(adapters.__getitem__, adapters) if kind and a.model_type == kind), None
    )


def _require_mixers(skeleton: nn.Module, name: str) -> None:
    if any(adapter_of(module) is not None for module in skeleton.modules()):
        return
    mixers = ", ".join(token_mixers(skeleton)) or "of no class that ssmlens can name"
    raise UnsupportedModelError(
        f"{name} is a {type(skeleton).__name__}: its token mixers are {mixers}, which ssmlens does "
        f"not read; {transformers_layout.SUPPORTED}"
    )
