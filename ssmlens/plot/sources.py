"""The interface of a capture for the report; `ssmlens.store` provides it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ssmlens.scores.reading import CaptureLike
from ssmlens.store.layer_like import LayerLike
from ssmlens.store.verdict import Verdict


@runtime_checkable
class ReportLayer(LayerLike, Protocol):
    """A layer that scores can read, with its verdict."""

    @property
    def maps(self) -> Sequence[str]:
        """Its maps, out of `names.MAPS`."""
        ...

    @property
    def verdict(self) -> Verdict:
        """The verdict on its maps."""
        ...


@runtime_checkable
class ReportSource(CaptureLike, Protocol):
    """A capture that scores can read, with its facts."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Model, revision, digest of the weights, backend, dtype, tolerances and the like."""
        ...

    @property
    def prompt_texts(self) -> Sequence[str]:
        """The prompts as text."""
        ...

    @property
    def block_kinds(self) -> Sequence[str]:
        """The kind of each block of the model (`names.BLOCK_KINDS`), captured or not."""
        ...

    @property
    def digest(self) -> str:
        """Digest of the capture's content."""
        ...

    @property
    def schema_version(self) -> int:
        """Schema version of its file."""
        ...

    def layer(self, index: int, /) -> ReportLayer:
        """Return the layer with this number."""
        ...

    def token_strings(self, prompt: int, /) -> Sequence[str]:
        """Return the prompt's tokens as text."""
        ...
