"""Apply your own function to any value that an edit can change, or to rows of M."""

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
    """Apply a function to `what`: `Apply(layer=3, what="B", function=lambda B: B.flip(1))`.

    Attributes:
        what: As for every edit of a value, or "matrix": rows of M.
        function: Takes the value and returns the new one, of the same shape. For "matrix" it takes some rows of M,
            [batch head query key] with all keys of the prompt, and the range of their queries, and returns the new
            rows. It is called once for each block of rows.
    """

    function: Callable[..., Any]
    kind: ClassVar[str] = "apply"

    @property
    def stage(self) -> Stage:
        """See `Edit.stage`."""
        return Stage.ENTRIES if self.what == MATRIX else super().stage

    @property
    def is_differentiable(self) -> bool:
        """See `ValueEdit.is_differentiable`. A function may use tensors that require gradients."""
        return True

    def check(self) -> None:
        """See `Edit.check`."""
        if not callable(self.function):
            raise UsageError(f"{self}: function is {self.function!r}; pass one from Python")
        others = [self.channels, self.states, self.taps, self.tokens]
        if self.what == MATRIX and any(chosen is not None for chosen in others):
            raise UsageError(f"{self}: for the matrix, select entries inside the function")

    def new(self, old: Tensor, place: Place) -> Tensor:
        """See `ValueEdit.new`."""
        return self._checked(self.function(old), old)

    def rows(self, M: Tensor, queries: range) -> Tensor:
        """The new rows of M [batch head query key]."""
        return self._checked(self.function(M, queries), M)

    def _checked(self, new: Any, old: Tensor) -> Tensor:
        if not isinstance(new, Tensor) or new.shape != old.shape:
            result = list(new.shape) if isinstance(new, Tensor) else type(new).__name__
            raise UsageError(f"{self}: its function returned {result} for {list(old.shape)}")
        return new
