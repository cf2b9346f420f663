"""Turn a config into a plan for training; a bad config is refused here, with an error that names the field."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from ssmlens.errors import UsageError
from ssmlens.inits.init import Init, inits
from ssmlens.models.mamba_config import MambaConfig
from ssmlens.options import option_of
from ssmlens.registry import Registry
from ssmlens.tasks.task import Task, tasks
from ssmlens.training.architecture import model_config
from ssmlens.training.config import PARTS, TrainConfig, check_types
from ssmlens.training.evaluation import check_evaluation
from ssmlens.training.gather import options_of
from ssmlens.training.optimiser import check_optimiser
from ssmlens.training.training_options import check_training


@dataclasses.dataclass(frozen=True)
class Plan:
    """The objects that a config defines; `check` makes it.

    Attributes:
        config: The config.
        task: The task; its rows are a training batch.
        exams: The task at each length of evaluation, one example per row.
        init: The init; None keeps the weights as mamba_ssm draws them, or as the checkpoint has them.
        architecture: The model's architecture; None: the checkpoint's.
    """

    config: TrainConfig
    task: Task
    exams: Mapping[int, Task]
    init: Init | None
    architecture: MambaConfig | None

    def exam(self, length: int, count: int) -> Task:
        """Return the task with `count` examples of exactly this length."""
        task = self.exams[length] if length in self.exams else self.task.at_length(length)
        return dataclasses.replace(task, count=count)


def check(config: TrainConfig) -> Plan:
    """Check a config and return its plan; does not look for the teacher or the checkpoint.

    Raises:
        UsageError: The config cannot be trained; one line that names the field.
    """
    _check_fields(config)
    check_training(config)
    check_optimiser(config)
    check_evaluation(config, config.steps)
    task = _make(config, "task", tasks)
    exams = {length: _exam(task, length) for length in config.lengths}
    init = _make(config, "init", inits)
    init = None if config.init == "mamba-ssm" else init
    if config.init_from and init is not None:
        raise UsageError("`init_from` does not go with `init`: a checkpoint is not fresh")
    architecture = None if config.init_from else model_config(config, task.vocab_size)
    return Plan(config, task, exams, init, architecture)


def _check_fields(config: TrainConfig) -> None:
    """Raise UsageError if a value does not have its field's type, or is below the field's least value."""
    fields = dataclasses.fields(TrainConfig)
    check_types({field.name: getattr(config, field.name) for field in fields})
    for field in fields:
        least, value = option_of(field).least, getattr(config, field.name)
        if least is not None and value is not None and not value >= least:
            raise UsageError(f"`{field.name}` is at least {least}, not {value}")


def _exam(task: Task, length: int) -> Task:
    try:
        return task.at_length(length)
    except UsageError as error:
        raise UsageError(f"`eval_lengths` {length}: {error}") from None


def _make(config: TrainConfig, part: str, registry: Registry[Any]) -> Any:
    """Build the config's task or init with its options; options of other entries are refused."""
    selected = getattr(config, part)
    try:
        entry = registry[selected]
    except UsageError as error:
        raise UsageError(f"`{part}`: {error}") from None
    names = options_of(entry)
    for name in _of_entries(registry) - set(names.values()):
        if getattr(config, name) != getattr(PARTS[part], name):
            raise UsageError(f"`{name}` does not go with `{part}` {selected}")
    values = {theirs: getattr(config, ours) for theirs, ours in names.items()}
    options = {name: value for name, value in values.items() if value not in (None, ())}
    for field in dataclasses.fields(entry):
        if _is_needed(field) and field.name not in options:
            raise UsageError(f"`{part}` {selected} needs `{names[field.name]}`")
    try:
        return entry(**options)
    except UsageError as error:
        named = re.compile(rf"\b({'|'.join(names) or '$'})(?= must)")
        raise UsageError(named.sub(lambda m: f"`{names[m[0]]}`", str(error))) from None


def _of_entries(registry: Registry[Any]) -> set[str]:
    return {name for entry in registry for name in options_of(registry[entry]).values()}


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING
