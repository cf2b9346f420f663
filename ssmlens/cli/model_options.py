"""Options for the model that a command runs, shared by several commands."""

import dataclasses
from typing import Any, Literal


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model of a command, and its backend."""

    model: str = "copy-mamba1-mimetic"
    """A shipped model (see ssmlens models), a folder, or a hub id such as state-spaces/mamba-370m."""
    device: str = "auto"
    """cpu, cuda, cuda:1, ...; auto is cuda if available."""
    dtype: Literal["float32", "bfloat16", "float64"] = "float32"
    """Dtype of the model's weights."""
    backend: Literal["auto", "mamba-ssm", "transformers", "torch"] = "auto"
    """Library that runs the model. auto: mamba-ssm on cuda if installed, else the one that fits the model's files."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""


def load_requested(command: ModelOptions) -> Any:
    """Load the model that a command asks for."""
    import torch

    from ssmlens.adapters.load import load_model

    return load_model(
        command.model,
        device=command.device,
        dtype=getattr(torch, command.dtype),
        backend=command.backend,
        revision=command.revision,
    )
