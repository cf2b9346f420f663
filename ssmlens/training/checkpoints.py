"""Checkpoints of a run: each a folder in mamba_ssm's layout plus the training state; only the last is kept, or all."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from ssmlens.errors import RunFileError
from ssmlens.files import place
from ssmlens.files.disk import one_line_errors
from ssmlens.files.new import ensure_folder, new_folder
from ssmlens.models.layouts import CONFIG_FILE
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.tokenizers import VOCABULARY_FILE
from ssmlens.training.trainee import Trainee

LAST = "last"
_WEIGHTS, _STATE = "model.safetensors", "training.pt"


def save(
    folder: Path, trainee: Trainee, progress: dict[str, Any], *, keep_all: bool = False
) -> Path:
    """Write `folder`/step-N, point `folder`/last to it, and remove older checkpoints. It is complete or absent.

    Args:
        folder: checkpoints/ of the run.
        trainee: The model and its optimiser.
        progress: Plain values that `load` returns.
        keep_all: Keep the older checkpoints.

    Raises:
        SsmlensError: The disk is full or cannot be written, or `folder` is a link.
    """
    ensure_folder(folder)
    path = folder / f"step-{trainee.step:06}"
    # mamba_ssm's own model has a config of the same fields.
    config = MambaConfig(**dataclasses.asdict(trainee.model.config)).to_dict()
    strings = trainee.task.token_strings
    # Clones: a head tied to the embedding is stored too, because mamba_ssm's own loader needs it.
    state = {n: t.detach().cpu().clone() for n, t in trainee.model.state_dict().items()}
    with new_folder(path) as checkpoint:
        checkpoint.write(CONFIG_FILE, json.dumps(config, indent=1).encode())
        if strings is not None:
            checkpoint.write(VOCABULARY_FILE, json.dumps(strings).encode())
        checkpoint.write(_WEIGHTS, safetensors_bytes(state))
        with checkpoint.file(_STATE) as file:
            state = {**trainee.state(), "progress": progress}
            torch.save(state, file)  # pyright: ignore[reportArgumentType]
    with one_line_errors(path):
        _point(folder, path)
        for old in [] if keep_all else folder.glob("step-*"):
            if old != path:
                place.remove(old)
    return path


def load(folder: Path, trainee: Trainee) -> dict[str, Any] | None:
    """Load the last checkpoint in `folder`; return the `progress` given to `save`, or None without a checkpoint.

    Raises:
        RunFileError: The checkpoint is damaged, or of another model.
    """
    last = folder / LAST
    if not last.exists():
        return None
    try:
        weights: dict[str, Tensor] = load_file(last / _WEIGHTS, device=str(trainee.device))
        # The optimiser moves its tensors to the device itself; its step counts stay on the CPU.
        state = torch.load(last / _STATE, map_location="cpu", weights_only=True)
        trainee.load(weights, state)
        progress = state["progress"]
        losses = [float(loss) for loss in progress["losses"]]
        return {"seconds": float(progress["seconds"]), "losses": losses}
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything
        message = str(error).strip().split("\n")[0] or type(error).__name__
        raise RunFileError(
            f"{last} cannot be resumed ({message[:300]}); remove it to start again"
        ) from None


def _point(folder: Path, path: Path) -> None:
    """Make `last` a link to this checkpoint, in one step."""
    new = place.own_name(folder / LAST)
    new.symlink_to(path.name)
    place.put(new, folder / LAST)
