"""Names of a layer's signals and weights, for a selective scan or a delta rule."""

import dataclasses

from ssmlens.plot.selection import Drawable


@dataclasses.dataclass(frozen=True)
class Words:
    """The names of one kind of layer.

    Attributes:
        array: Stored array of the write strength of tokens.
        strength: Symbol of the write strength.
        lines: Name of the lines below it.
        mean: The quantity whose mean sets the half-lives.
        rate: Symbol of the rates of decay.
        write: The weights of keys, `W_B` in a file.
        read: The weights of queries, `W_C` in a file.
        convolved: The convolved signals: values, keys, queries.
        mixed_first: Whether the channels of the values come first in the convolution's weight, or last.
    """

    array: str
    strength: str
    lines: str
    mean: str
    rate: str
    write: str
    read: str
    convolved: tuple[str, str, str]
    mixed_first: bool

    @property
    def signals(self) -> dict[str, str]:
        """Titles of the figures of signals, by name."""
        return {
            "steps": f"{self.strength} by token and head",
            "norms": f"{self.lines} by token",
            "half-lives": f"half-lives at the mean {self.mean}",
            "rates": f"rates of decay {self.rate}",
        }

    @property
    def weights(self) -> dict[str, str]:
        """Titles of the figures of weights, by name."""
        inputs, states = f"{self.read}ᵀ {self.write}", f"{self.write} {self.read}ᵀ"
        return {
            "input-product": inputs,
            "state-product": states,
            "input-entries": f"entries of {inputs}",
            "state-entries": f"entries of {states}",
            "kernels": "kernels of the convolution",
            "taps": "energy of the kernels by tap",
            "beta": "W_β: weights of β",
        }


_SCAN = Words(
    array="delta",
    strength="Δ",
    lines="length of B and C",
    mean="Δ",
    rate="|A|",
    write="W_B",
    read="W_C",
    convolved=("x", "B", "C"),
    mixed_first=True,
)
_DELTA_RULE = Words(
    array="beta",
    strength="β",
    lines="decay α",
    mean="log α",
    rate="−log α",
    write="W_k",
    read="W_q",
    convolved=("v", "k", "q"),
    mixed_first=False,
)


def words(layer: Drawable) -> Words:
    """Return the names of this layer's signals and weights."""
    return _DELTA_RULE if _DELTA_RULE.array in layer else _SCAN


def heading(title: str) -> str:
    """Capitalise a title, except a leading symbol such as β, which would change."""
    return title[0].upper() + title[1:] if title[0].isascii() else title
