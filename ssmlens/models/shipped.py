"""The models and prompts shipped with ssmlens: their folders, tasks and accuracy."""

import dataclasses
import json
from pathlib import Path
from typing import Any


def data_folder() -> Path:
    """The folder of the shipped models and prompts: in the installed package, or in the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_data"
    return installed if installed.is_dir() else package.parent / "data"


@dataclasses.dataclass(frozen=True)
class ShippedModel:
    """One model shipped with ssmlens.

    Attributes:
        name: What `load_model` takes.
        task: What it was trained to do.
        generation: "Mamba-1" or "Mamba-2".
        init: Its initialisation.
        accuracy: Share of characters it gets right, by length of the string.
        layers: Number of blocks.
        bytes: Size of its weights on disk.
        folder: Its folder.
    """

    name: str
    task: str
    generation: str
    init: str
    accuracy: dict[int, float]
    layers: int
    bytes: int
    folder: Path


def shipped_models() -> list[ShippedModel]:
    """The shipped models, sorted by name."""
    return [_describe(path.parent) for path in sorted(data_folder().glob("models/*/config.json"))]


def shipped_names() -> list[str]:
    """The names of the shipped models."""
    return [model.name for model in shipped_models()]


def _describe(folder: Path) -> ShippedModel:
    config = _read(folder / "config.json")
    training = _read(folder / "training.json")
    accuracy = training["accuracy_char_string_by_length"]
    return ShippedModel(
        name=folder.name,
        task=training["task"],
        generation="Mamba-2" if config["ssm_cfg"].get("layer") == "Mamba2" else "Mamba-1",
        init=training["init"],
        accuracy={int(length): characters for length, (characters, _) in accuracy.items()},
        layers=config["n_layer"],
        bytes=(folder / "model.safetensors").stat().st_size,
        folder=folder,
    )


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
