"""The part of a config for the task."""

import dataclasses

from ssmlens.tasks.task import tasks
from ssmlens.training.gather import with_options


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TaskOptions:
    """The task; options that are left out take the task's defaults.

    Attributes:
        task: Name of the task.
        length: The task's longest length: letters of a string, or pairs of associative recall.
    """

    task: str = "copy"
    length: int = 20


TaskOptions = with_options(
    _TaskOptions, {name: tasks[name] for name in tasks}, elsewhere=("batch",)
)
