"""From a config to what will be trained; everything that cannot be is refused here, by its flag."""

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
    """What a config comes to: made once by `check`, and trained as it is.

    Attributes:
        config: The config.
        task: The task, its rows a training batch.
        exams: The task at every length that is measured, one example a row.
        init: How the model starts; None where it stays as mamba_ssm draws it, or as the checkpoint has it.
        architecture: Of the model; None where it is the checkpoint's.
    """

    config: TrainConfig
    task: Task
    exams: Mapping[int, Task]
    init: Init | None
    architecture: MambaConfig | None

    def exam(self, length: int, count: int) -> Task:
        """The task that draws so many examples of exactly this length."""
        task = self.exams[length] if length in self.exams else self.task.at_length(length)
        return dataclasses.replace(task, count=count)


def check(config: TrainConfig) -> Plan:
    """The plan of a config; a teacher or a checkpoint is not looked for.

    Raises:
        UsageError: The config cannot be trained; one line, which names the flag.
    """
    _check_fields(config)
    check_training(config)
    check_optimiser(config)
    check_evaluation(config, config.steps)
    task = _make(config, "task", tasks)
    exams = {length: _exam(task, length) for length in config.lengths}
    init = _make(config, "init", inits)
    given = None if config.init == "mamba-ssm" else init
    if config.init_from and given is not None:
        raise UsageError("`init_from` goes without `init`: a checkpoint is not fresh")
    architecture = None if config.init_from else model_config(config, task.vocab_size)
    return Plan(config, task, exams, given, architecture)


def _check_fields(config: TrainConfig) -> None:
    """Raise UsageError where a value is not of its field's type, or below the least that the field takes."""
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
    """The config's task or init with the options that it gives; those of another are refused."""
    chosen = getattr(config, part)
    try:
        entry = registry[chosen]
    except UsageError as error:
        raise UsageError(f"`{part}`: {error}") from None
    own = options_of(entry)
    for name in _of_entries(registry) - set(own.values()):
        if getattr(config, name) != getattr(PARTS[part], name):
            raise UsageError(f"`{name}` does not go with `{part}` {chosen}")
    values = {theirs: getattr(config, ours) for theirs, ours in own.items()}
    options = {name: value for name, value in values.items() if value not in (None, ())}
    for field in dataclasses.fields(entry):
        if _is_needed(field) and field.name not in options:
            raise UsageError(f"`{part}` {chosen} needs `{own[field.name]}`")
    try:
        return entry(**options)
    except UsageError as error:
        named = re.compile(rf"\b({'|'.join(own) or '$'})(?= must)")
        raise UsageError(named.sub(lambda m: f"`{own[m[0]]}`", str(error))) from None


def _of_entries(registry: Registry[Any]) -> set[str]:
    return {name for entry in registry for name in options_of(registry[entry]).values()}


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING
