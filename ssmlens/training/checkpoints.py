"""Checkpoints of a run: each a folder in mamba_ssm's layout plus the training state; only the last is kept, or all."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ssmlens.errors import RunFileError
from ssmlens.files import place
from ssmlens.files.disk import one_line_errors
from ssmlens.files.new import ensure_folder, new_folder
from ssmlens.models.mamba_ssm_layout import WEIGHTS_FILE, files_of
from ssmlens.models.tokenizers import VOCABULARY_FILE
from ssmlens.training.trainee import Trainee

LAST = "last"
_STATE = "training.pt"


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
    files = files_of(trainee.model)
    if trainee.task.token_strings is not None:
        files[VOCABULARY_FILE] = json.dumps(trainee.task.token_strings).encode()
    with new_folder(path) as checkpoint:
        for name, data in files.items():
            checkpoint.write(name, data)
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
        weights: dict[str, Tensor] = load_file(last / WEIGHTS_FILE, device=str(trainee.device))
        # The optimiser brings what belongs there to the device itself; its step counts stay.
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
