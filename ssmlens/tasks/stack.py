"""Stack-order copying: repeat a string backwards, the last letter first (paper section 2)."""

import dataclasses

import torch
from jaxtyping import Int
from torch import Tensor

from ssmlens.tasks.letters import StringTask
from ssmlens.tasks.task import tasks


@tasks.register("stack")
@dataclasses.dataclass(frozen=True)
class Stack(StringTask):
    """Rows `s | reversed(s) end` for random strings s; options: `LetterTask`.

        position   0 1 2 3 4 5 6   7
        token      b a c | c a b   end
        label      . . . c a b end .
        target     . . . 2 1 0 .   .

    `layout="jelassi"`: `$ s | reversed(s) .`, packed, as in `Copy`.
    """

    def order(
        self, string: Int[Tensor, "example letter"], length: Int[Tensor, "example 1"]
    ) -> Int[Tensor, "example letter"]:
        """See `StringTask.order`: from the last to the first."""
        return length - 1 - torch.arange(string.shape[1], device=string.device)
