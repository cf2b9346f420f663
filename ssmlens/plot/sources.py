"""What the report asks of a capture; `ssmlens.store` provides it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from ssmlens.scores.reading import CaptureLike
from ssmlens.store.layer_like import LayerLike
from ssmlens.store.verdict import Verdict


@runtime_checkable
class ReportLayer(LayerLike, Protocol):
    """A layer that scores can read, with whether it may be believed."""

    @property
    def maps(self) -> Sequence[str]:
        """Which of `names.MAPS` it has."""
        ...

    @property
    def verdict(self) -> Verdict:
        """May its maps be believed."""
        ...


@runtime_checkable
class ReportSource(CaptureLike, Protocol):
    """A capture that scores can read, with what a reader wants to know of it."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Model, revision, digest of the weights, backend, dtype, tolerances and the like."""
        ...

    @property
    def prompt_texts(self) -> Sequence[str]:
        """The prompts as they were given."""
        ...

    @property
    def block_kinds(self) -> Sequence[str]:
        """What each block of the model is (`names.BLOCK_KINDS`), captured or not."""
        ...

    @property
    def digest(self) -> str:
        """Digest of the capture's content."""
        ...

    @property
    def schema_version(self) -> int:
        """Version of the schema that it was written in."""
        ...

    def layer(self, index: int, /) -> ReportLayer:
        """The layer of this block index."""
        ...

    def token_strings(self, prompt: int, /) -> Sequence[str]:
        """The prompt's tokens as text."""
        ...
