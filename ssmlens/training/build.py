"""From a config to its task, its model and how it starts; everything that cannot be is refused here, by its flag."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ssmlens.adapters.load import load_model
from ssmlens.errors import UsageError
from ssmlens.inits.init import Init, inits
from ssmlens.models import backends, mamba_ssm_layout
from ssmlens.models.kernel_mixers import use_kernels
from ssmlens.models.mamba_lm import MambaLM
from ssmlens.models.short_mamba import use_short_scan
from ssmlens.registry import Registry
from ssmlens.tasks.task import Task, tasks
from ssmlens.training.architecture import MIXER_OPTIONS, model_config
from ssmlens.training.config import TrainConfig, check_types, flag

# Fields of tasks and inits that have other names in a config, or that it sets itself.
_OF_TASK = {"count": "batch"}
_OF_INIT = {"layers": "init_layers", "student_layers": "init_layers", "layer": "teacher_layer"}
_NO_OPTIONS = {"force"}
_LEAST = {"steps": 1, "batch": 1, "n_layer": 1, "d_model": 1, "eval_every": 1, "eval_count": 1}
_NOT_NEGATIVE = ("seed", "warmup", "clip", "weight_decay", "d_intermediate")
_SEEDS = 2**31


def check(config: TrainConfig) -> None:
    """Raise UsageError, in one line that names the flag, if the config cannot be trained.

    Builds the task at every length that is measured, and an empty model; a teacher or a checkpoint is not looked for.
    """
    check_types(
        {field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)}
    )
    bounds = dict.fromkeys(MIXER_OPTIONS, 1) | dict.fromkeys(_NOT_NEGATIVE, 0) | _LEAST
    for name, least in bounds.items():
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise UsageError(f"{flag(name)} is at least {least}, not {value}")
    if config.seed >= _SEEDS:
        raise UsageError(f"--seed is below 2^31, not {config.seed}")
    if not 0 < config.learning_rate < float("inf"):
        raise UsageError(f"--learning-rate is positive, not {config.learning_rate:g}")
    for step in config.capture_at:
        if not 0 <= step <= config.steps:
            raise UsageError(f"--capture-at {step} is no step of this run: 0..{config.steps}")
    task = build_task(config)
    for length in config.lengths:
        exam(task, length)
    init = build_init(config)
    if config.init_from and init is not None:
        raise UsageError("--init-from goes without --init: a checkpoint is not fresh")
    if not config.init_from:
        MambaLM(model_config(config, task), device="meta")


def build_task(config: TrainConfig) -> Task:
    """The task, its rows a training batch."""
    return _make(config, "task", tasks, _OF_TASK)


def exam(task: Task, length: int) -> Task:
    """The task at exactly this length, one example a row."""
    try:
        return task.at_length(length)
    except UsageError as error:
        raise UsageError(f"--eval-lengths {length}: {error}") from None


def build_init(config: TrainConfig) -> Init | None:
    """How the model starts; None where it stays as mamba_ssm draws it (or as the checkpoint has it)."""
    init = _make(config, "init", inits, _OF_INIT)
    return None if config.init == "mamba-ssm" else init


def build_model(config: TrainConfig, task: Task, device: torch.device) -> nn.Module:
    """The model at its start, the same on every device.

    On CUDA, where mamba_ssm is installed, its own model; or `MambaLM` with its mixers, where its model knows no such
    blocks (Mamba3, linear attention); its Mamba-1 trains on short sequences by `use_short_scan`. Elsewhere `MambaLM`.

    Raises:
        UsageError: The init refuses it, or the checkpoint does not suit the task.
    """
    model = _checkpoint(config, task) if config.init_from else _fresh(config, task)
    if not backends.has_kernels(device):
        return model.to(device)
    architecture = model.config.to_dict()
    if mamba_ssm_layout.why_no_kernels(architecture) is not None:
        return use_short_scan(use_kernels(model).to(device))
    dtype = model.lm_head.weight.dtype
    fused = mamba_ssm_layout.make_skeleton(architecture, backends.MAMBA_SSM, dtype)
    state = mamba_ssm_layout.untie(fused, model.state_dict())
    return use_short_scan(mamba_ssm_layout.fill(fused, state).to(device))


def _fresh(config: TrainConfig, task: Task) -> MambaLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = MambaLM(model_config(config, task))
    init = build_init(config)
    if init is not None:
        init.apply_(model, config.seed)
    return model


def _checkpoint(config: TrainConfig, task: Task) -> MambaLM:
    """The checkpoint as it is, or with embeddings drawn anew, N(0, .02), for the task's tokens."""
    model = load_model(config.init_from or "", backend=backends.TORCH)
    if not isinstance(model, MambaLM):
        raise UsageError(f"--init-from {config.init_from} is not in mamba_ssm's layout")
    if config.embeddings == "redraw":
        kept = {k: v for k, v in model.state_dict().items() if not k.endswith(_EMBEDDINGS)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            model = MambaLM(dataclasses.replace(model.config, vocab_size=task.vocab_size))
        model.load_state_dict(kept, strict=False)
    elif model.config.padded_vocab_size < task.vocab_size:
        raise UsageError(
            f"--init-from {config.init_from} knows {model.config.padded_vocab_size} tokens, the "
            f"{config.task} task has {task.vocab_size}; draw new ones with --embeddings redraw"
        )
    return model.train()


_EMBEDDINGS = ("embedding.weight", "lm_head.weight")


def _make(config: TrainConfig, kind: str, registry: Registry[Any], names: Mapping[str, str]) -> Any:
    """The config's task or init with the options that it gives; those of another are refused."""
    chosen = getattr(config, kind)
    try:
        made = registry[chosen]
    except UsageError as error:
        raise UsageError(f"{flag(kind)}: {error}") from None
    own = _options(made, names)
    for other in registry:
        for name in _options(registry[other], names).values():
            if name not in own.values() and getattr(config, name) != getattr(TrainConfig, name):
                raise UsageError(f"{flag(name)} does not go with {flag(kind)} {chosen}")
    values = {theirs: getattr(config, ours) for theirs, ours in own.items()}
    options = {name: value for name, value in values.items() if value not in (None, ())}
    for field in dataclasses.fields(made):
        if field.default is dataclasses.MISSING and field.name not in options:
            raise UsageError(f"{flag(kind)} {chosen} needs {flag(own[field.name])}")
    try:
        return made(**options)
    except UsageError as error:
        named = re.compile(rf"\b({'|'.join(own)})(?= must)")
        raise UsageError(named.sub(lambda m: flag(own[m[0]]), str(error))) from None


def _options(kind: type, names: Mapping[str, str]) -> dict[str, str]:
    """Fields of a task or init, and the fields of a config that set them."""
    fields = [field.name for field in dataclasses.fields(kind)]
    return {name: names.get(name, name) for name in fields if name not in _NO_OPTIONS}
