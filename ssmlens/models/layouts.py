"""The two layouts of a model's folder, told apart by config.json."""

import json
from pathlib import Path
from typing import Any, Literal

from ssmlens.errors import UnsupportedModelError, UsageError

CONFIG_FILE = "config.json"
Layout = Literal["mamba_ssm", "transformers"]


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json. Raises UsageError when there is none, or it is no JSON object."""
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder} is not a model's folder: it has no {CONFIG_FILE}") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise UsageError(f"{path} is not a JSON object")
    return config


def layout_of(config: dict[str, Any], name: str) -> Layout:
    """mamba_ssm's config.json has d_model and n_layer, transformers' has model_type."""
    if "model_type" in config:
        return "transformers"
    if {"d_model", "n_layer"} <= config.keys():
        return "mamba_ssm"
    raise UnsupportedModelError(
        f"{name}: {CONFIG_FILE} is neither in mamba_ssm's layout (d_model, n_layer, ssm_cfg) "
        "nor in transformers' (model_type)"
    )
