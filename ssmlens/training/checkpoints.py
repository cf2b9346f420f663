"""Checkpoints of a run: a folder in mamba_ssm's layout each, with what it takes to go on; the last is kept, or all."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssmlens.models.layouts import CONFIG_FILE
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.models.tokenizers import VOCABULARY_FILE
from ssmlens.store.disk import rename, sync_folder, told_in_one_line
from ssmlens.training.trainee import Trainee

LAST = "last"
_WEIGHTS, _STATE = "model.safetensors", "training.pt"


def save(
    folder: Path, trainee: Trainee, progress: dict[str, Any], *, keep_all: bool = False
) -> Path:
    """Write `folder`/step-N, point `folder`/last to it, and remove those before. Whole, or not there.

    Args:
        folder: checkpoints/ of the run.
        trainee: The model and its optimiser.
        progress: Plain values that `load` gives back.
        keep_all: Leave those before where they are.
    """
    path = folder / f"step-{trainee.step:06}"
    partial = path.with_name(path.name + ".partial")
    with told_in_one_line(path, 0):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        # mamba_ssm's own model has a config of the same fields.
        config = MambaConfig(**dataclasses.asdict(trainee.model.config)).to_dict()
        (partial / CONFIG_FILE).write_text(json.dumps(config, indent=1))
        strings = trainee.task.token_strings
        if strings is not None:
            (partial / VOCABULARY_FILE).write_text(json.dumps(strings))
        # Clones: a head that is the embedding is stored as well, as mamba_ssm's own loader wants it.
        state = trainee.model.state_dict()
        save_file({name: t.detach().cpu().clone() for name, t in state.items()}, partial / _WEIGHTS)
        torch.save({**trainee.state(), "progress": progress}, partial / _STATE)
        for file in partial.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        sync_folder(partial)
        if path.exists():
            shutil.rmtree(path)
        rename(partial, path)
        _point(folder, path)
        for old in [] if keep_all else folder.glob("step-*"):
            if old != path:
                shutil.rmtree(old)
    return path


def load(folder: Path, trainee: Trainee) -> dict[str, Any] | None:
    """Take up the last checkpoint in `folder`; returns what `save` was given, or None where there is none."""
    last = folder / LAST
    if not last.exists():
        return None
    weights: dict[str, Tensor] = load_file(last / _WEIGHTS, device=str(trainee.device))
    # The optimiser brings what belongs there to the device itself; its step counts stay.
    state = torch.load(last / _STATE, map_location="cpu", weights_only=True)
    trainee.load(weights, state)
    return state["progress"]


def _point(folder: Path, path: Path) -> None:
    """Make `last` a link to this checkpoint, in one move."""
    new = folder / f"{LAST}.partial"
    new.unlink(missing_ok=True)
    new.symlink_to(path.name)
    rename(new, folder / LAST)
