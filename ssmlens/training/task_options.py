"""The part of a config that says what is learned."""

import dataclasses

from ssmlens.tasks.task import tasks
from ssmlens.training.gather import with_options


@dataclasses.dataclass(frozen=True, kw_only=True)
class _TaskOptions:
    """What is learned; options that are left out are the task's own.

    Attributes:
        task: What is learned, the name of a task.
        length: The task's length, at most: letters of a string, pairs of associative recall.
    """

    task: str = "copy"
    length: int = 20


TaskOptions = with_options(
    _TaskOptions, {name: tasks[name] for name in tasks}, elsewhere=("batch",)
)
