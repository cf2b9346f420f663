"""What the signals and weights of a layer are called: those of a selective scan, or of a delta rule."""

import dataclasses

from ssmlens.plot.selection import Drawable


@dataclasses.dataclass(frozen=True)
class Words:
    """The names of one kind of layer.

    Attributes:
        array: What is stored of how strongly tokens write.
        strength: Its symbol.
        lines: What is drawn along the prompt below it.
        mean: What half-lives are taken at the mean of.
        rate: The symbol of the rates of decay.
        write: The weights that make what is written, `W_B` in a file.
        read: The weights that make what is looked for, `W_C` in a file.
        convolved: What passes the convolution: what is mixed, what is written by, what is looked for.
        mixed_first: Whether the channels of what is mixed come first in the convolution's weight, or last.
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
            "beta": "W_β: what makes β",
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
    """What this layer's signals and weights are called."""
    return _DELTA_RULE if _DELTA_RULE.array in layer else _SCAN


def heading(title: str) -> str:
    """A title as it stands above a figure: with a capital, but for a symbol such as β, which would be another."""
    return title[0].upper() + title[1:] if title[0].isascii() else title
