"""The layouts of a model's folder, told apart by config.json."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from ssmlens.errors import UnsupportedModelError, UsageError
from ssmlens.files.plain_json import read_object

CONFIG_FILE = "config.json"
Layout = Literal["mamba_ssm", "transformers", "family"]
_MOST_BYTES = 1 << 24
_MOST_PARTS = 10_000
# Of what a model is built part by part, so that a number is time and memory before any weight is read.
_COUNTS = re.compile(r"(layer|expert|block|head)s?$|^(layer|expert|block|head)s?_|group")


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json. Raises UsageError when there is none, or it is no JSON object of a model's size."""
    path = folder / CONFIG_FILE
    try:
        # Mamba-2's time_step_limit ends at Infinity.
        config = read_object(path, _MOST_BYTES, links=True, finite=False, refused=UsageError)
    except FileNotFoundError:
        raise UsageError(f"{folder} is not a model's folder: it has no {CONFIG_FILE}") from None
    for key, count in _counts(config):
        if count > _MOST_PARTS:
            raise UsageError(f"{path} is refused: {key} is {count}, more than {_MOST_PARTS}")
    return config


def _counts(config: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Every integer of the config, of its inner configs too, that says how many parts of a kind a model has."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _counts(value)
        elif type(value) is int and _COUNTS.search(key):
            yield key, value


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
