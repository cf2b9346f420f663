"""A function of one's own, on anything that an edit can change, or on rows of M."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from ssmlens.edits.edit import Stage, register
from ssmlens.edits.value import Place, ValueEdit
from ssmlens.errors import UsageError

MATRIX = "matrix"


@register
@dataclasses.dataclass(frozen=True, kw_only=True)
class Apply(ValueEdit):
    """Put `what` through a function: `Apply(layer=3, what="B", function=lambda B: B.flip(1))`.

    Attributes:
        what: As for every edit of a value, or "matrix": rows of M.
        function: The value to its new value, of the same shape. Of "matrix": M [batch head query key] and the range of
            its queries to the new M; rows come in blocks, each with all keys of the prompt.
    """

    function: Callable[..., Any]
    kind: ClassVar[str] = "apply"

    @property
    def stage(self) -> Stage:
        """See `Edit.stage`."""
        return Stage.ENTRIES if self.what == MATRIX else super().stage

    @property
    def is_differentiable(self) -> bool:
        """See `ValueEdit.is_differentiable`: what a function holds is not known."""
        return True

    def check(self) -> None:
        """See `Edit.check`."""
        if not callable(self.function):
            raise UsageError(f"{self}: its function is {self.function!r}; give it from Python")
        others = [self.channels, self.states, self.taps, self.tokens]
        if self.what == MATRIX and any(chosen is not None for chosen in others):
            raise UsageError(f"{self}: a function of the matrix chooses its entries itself")

    def new(self, old: Tensor, place: Place) -> Tensor:
        """See `ValueEdit.new`."""
        return self._checked(self.function(old), old)

    def rows(self, M: Tensor, queries: range) -> Tensor:
        """The new rows of M [batch head query key]."""
        return self._checked(self.function(M, queries), M)

    def _checked(self, new: Any, old: Tensor) -> Tensor:
        if not isinstance(new, Tensor) or new.shape != old.shape:
            got = list(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise UsageError(f"{self}: its function made {got} of {list(old.shape)}")
        return new
