"""Copying: repeat a string after a separator (paper eq. 10)."""

import dataclasses

import torch
from jaxtyping import Int
from torch import Tensor

from ssmlens.tasks.letters import StringTask
from ssmlens.tasks.task import tasks


@tasks.register("copy")
@dataclasses.dataclass(frozen=True)
class Copy(StringTask):
    """Rows `s | s end` for random strings s, in the layout of the shipped models; options: `LetterTask`.

        position   0 1 2 3 4 5 6   7
        token      b a c | b a c   end
        label      . . . b a c end .
        target     . . . 0 1 2 .   .

    The query at the separator predicts s[0], the query at s[0] predicts s[1], ...: each target is as many positions
    back as s has letters. `layout="jelassi"`: `$ s | s .`, one position later, packed into rows of 220 tokens:

        token      $ b a c | b a c .  $ e d | e d .  $ ...
        label      . . . . b a c . .  . . . e d . .  . ...   (the end has a label; the truncated example has none)
    """

    def order(
        self, string: Int[Tensor, "example letter"], length: Int[Tensor, "example 1"]
    ) -> Int[Tensor, "example letter"]:
        """See `StringTask.order`: the order of the string."""
        return torch.arange(string.shape[1], device=string.device).expand_as(string)
