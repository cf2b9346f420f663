"""The layouts of a model's folder, distinguished by config.json."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ssmlens.errors import UnsupportedModelError, UsageError
from ssmlens.files.plain_json import read_object

CONFIG_FILE = "config.json"
Layout = Literal["mamba_ssm", "transformers", "family"]
_MAX_BYTES = 1 << 24
_MAX_PARTS = 10_000
# Keys that count parts of a model. A large count costs time and memory before any weight is read.
_COUNTS = re.compile(r"(layer|expert|block|head)s?$|^(layer|expert|block|head)s?_|group")


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json. Raises UsageError if it is missing, not a JSON object, or counts too many parts."""
    path = folder / CONFIG_FILE
    try:
        # Mamba-2's time_step_limit contains Infinity.
        config = read_object(path, _MAX_BYTES, links=True, finite=False, refused=UsageError)
    except FileNotFoundError:
        raise UsageError(f"{folder} is not a model's folder: it has no {CONFIG_FILE}") from None
    for key, count in _counts(config):
        if count > _MAX_PARTS:
            raise UsageError(f"{path} is refused: {key} is {count}, more than {_MAX_PARTS}")
    return config


def _counts(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the counts of a model's parts in the config, inner configs included."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _counts(value)
        elif type(value) is int and _COUNTS.search(key):
            yield key, value


def layout_of(config: dict[str, Any], name: str) -> Layout:
    """The layout of a config.json: mamba_ssm's has d_model and n_layer, transformers' has model_type."""
    if "model_type" in config:
        return "transformers"
    if {"d_model", "n_layer"} <= config.keys():
        return "mamba_ssm"
    raise UnsupportedModelError(
        f"{name}: {CONFIG_FILE} is neither in mamba_ssm's layout (d_model, n_layer, ssm_cfg) "
        "nor in transformers' (model_type)"
    )
