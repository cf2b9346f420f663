"""Say a string from its second letter on, and then its first one."""

import dataclasses

import torch

from ssmlens.tasks.letters import StringTask
from ssmlens.tasks.task import tasks


@tasks.register("rotate")
@dataclasses.dataclass(frozen=True)
class Rotate(StringTask):
    def order(self, string, length):
        return (torch.arange(string.shape[1], device=string.device) + 1) % length
