"""Text as bytes, with strings said twice among it: what a small language model learns to copy from."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from ssmlens.errors import UsageError
from ssmlens.options import option
from ssmlens.tasks.draws import Draws, Seed
from ssmlens.tasks.metrics import masked_loss
from ssmlens.tasks.repeat import PRINTABLE, Repeat
from ssmlens.tasks.rows import NO_TARGET, Examples, TaskBatch
from ssmlens.tasks.task import Task, tasks

_BETWEEN = b"\n\n"
# Of a longest string of 128 letters, those of 64, 32 and 16 as well.
_HALVINGS = 4
# Whole works are held out until this share of the bytes is; none is that would go above the second.
_ENOUGH, _MOST = 0.02, 0.04


@tasks.register("bytes")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bytes(Task):
    """Rows of `context` bytes from a folder of text; in a share of them random printable strings, each said twice.

        of text      token   t h e _ m o d e l
                     label   h e _ m o d e l _
                     target  . . . . . . . . .
        of strings   token   x 7 # x 7 # k ) p k ) p
                     label   7 # x 7 # k ) p k ) p .
                     target  . . . 1 2 . . . . 4 5 .    (strings of three letters)

    Every byte but a row's first is asked for; targets, and so `accuracy`, are of the second time of a string alone,
    from its second letter on. Strings of one row are as long as each other, and rows take turns between `longest`
    letters, a half, a quarter and an eighth. A row of text begins anywhere in the text.

    An exam at length n is a `Repeat` of n printable letters. Beside it stand `bits`, a byte, on text that is held out:
    whole works, an entry of the folder each (a file, or a folder with all that is in it). Works are taken in the order
    of the sha256 of their names until 2 % of the bytes are held out, those left aside that would make it more than 4 %;
    where all would, the smallest. Files that are no UTF-8 are passed over; two line ends stand between files.

    Attributes:
        text: A folder of text.
        repeats: Share of the rows in which strings are said twice.
        length: Letters of the longest strings that are said twice; a multiple of 8.
        context: Bytes of a row.
    """

    text: str = option()
    repeats: float | int = 0.3
    length: int = option(128, name="longest")
    context: int = 1024

    exam_lengths = (64, 128)

    def __post_init__(self):
        self._require(0 <= self.repeats <= 1, "`repeats`", "in 0..1", self.repeats)
        self._require(self.min_length is None, "`min_length`", "left out", self.min_length)
        self._require(not self.packing, "`packing`", "left out", self.packing)
        eighth = 2 ** (_HALVINGS - 1)
        whole = self.length > eighth and self.length % eighth == 0
        self._require(whole, "`longest`", f"a multiple of {eighth} above it", self.length)
        twice = 2 * self.length
        self._require(
            self.context >= twice,
            "`context`",
            f"of at least {twice}, twice `longest`",
            self.context,
        )
        super().__post_init__()

    @property
    def vocab_size(self) -> int:
        """See `Task.vocab_size`: the bytes."""
        return 256

    @property
    def token_strings(self) -> list[str]:
        """See `Task.token_strings`: printable ASCII as it is, other bytes as <0a>."""
        return [chr(i) if i in PRINTABLE else f"<{i:02x}>" for i in range(256)]

    def row_tokens(self, length: int) -> int:
        """See `Task.row_tokens`: the same for all."""
        return self.context

    def at_length(self, length: int) -> Task:
        """See `Task.at_length`: a string of so many printable letters a row, said twice."""
        return Repeat(length, self.count, vocab_size=PRINTABLE.stop, first_token=PRINTABLE.start)

    def prepare(self, device: torch.device) -> None:
        """See `Task.prepare`: the text.

        Raises:
            UsageError: There is no such folder, no text in it, one work alone, or less text than a row takes.
        """
        self._texts(device)

    def examples(self, draws: Draws, length: Int[Tensor, "example"]) -> Examples:
        """See `Task.examples`; the lengths say how many rows alone."""
        count = len(length)
        strings = round(self.repeats * count)
        text = self._windows(draws, self._texts(draws.device).training, count - strings)
        said, target = self._strings(draws, strings)
        tokens = torch.cat([text, said])
        nowhere = torch.full_like(text[:, 1:], NO_TARGET)
        batch = TaskBatch(tokens[:, :-1], torch.cat([nowhere, target]), tokens[:, 1:])
        return Examples(batch, torch.full_like(length, self.context))

    def measure_more(
        self, model: Callable[[Tensor], Any], seed: Seed, device: torch.device
    ) -> dict[str, float]:
        """See `Task.measure_more`: "bits", a byte of held-out text; `count` rows of it."""
        held_out = self._windows(Draws(seed, device), self._texts(device).held_out, self.count)
        out = model(held_out[:, :-1])
        logits: Float[Tensor, "example token vocabulary"] = getattr(out, "logits", out)
        return {"bits": float(masked_loss(logits, held_out[:, 1:])) / math.log(2)}

    def _texts(self, device: torch.device) -> "Texts":
        texts = _on_device(self.text, str(device))
        if len(texts.training) <= self.context or len(texts.held_out) <= self.context:
            least = min(len(texts.training), len(texts.held_out))
            raise UsageError(
                f"`text` {self.text} has {least} bytes to train on or to hold out: a row takes "
                f"{self.context + 1}; give more text, or a shorter `context`"
            )
        return texts

    def _windows(
        self, draws: Draws, text: UInt8[Tensor, "byte"], rows: int
    ) -> Int[Tensor, "{rows} place"]:
        """Pieces of a text, of one byte more than a row has."""
        start = draws.integers(len(text) - self.context, (rows,))
        return text[start[:, None] + torch.arange(self.context + 1, device=text.device)].long()

    def _strings(
        self, draws: Draws, rows: int
    ) -> tuple[Int[Tensor, "{rows} place"], Int[Tensor, "{rows} token"]]:
        """Rows of strings said twice, of one byte more than a row has, and the targets of their tokens."""
        device = draws.device
        k = torch.arange(rows, device=device)[:, None]
        letters = torch.full_like(k, self.length) >> (_HALVINGS - 1 - k % _HALVINGS)
        place = torch.arange(self.context + 1, device=device)
        first = place // (2 * letters) * (2 * letters) + place % letters
        drawn = PRINTABLE.start + draws.integers(len(PRINTABLE), (rows, self.context + 1))
        said = drawn.gather(1, first)
        asked = first[:, 1:]
        again = (place[1:] % (2 * letters) >= letters) & (place[1:] % letters > 0)
        return said, asked.masked_fill(~again, NO_TARGET)


@dataclasses.dataclass(frozen=True)
class Texts:
    """The bytes of a folder's text.

    Attributes:
        training: Of the works that rows are drawn from.
        held_out: Of those that are held out.
        works: Bytes of each work by its name, in both.
        kept_back: The names of those that are held out.
    """

    training: UInt8[Tensor, "byte"]
    held_out: UInt8[Tensor, "held_out_byte"]
    works: Mapping[str, int]
    kept_back: Sequence[str]


def read_texts(folder: Path) -> Texts:
    """The text in a folder, whole works held out; see `Bytes`.

    Raises:
        UsageError: There is no such folder, no text in it, or one work alone, of which none can be held out.
    """
    if not folder.is_dir():
        raise UsageError(f"`text` {folder}: there is no such folder")
    works = {entry.name: text for entry in sorted(folder.iterdir()) if (text := _read_work(entry))}
    if len(works) < 2:
        told = "one work alone, and none can be held out" if works else "no text"
        raise UsageError(f"`text` {folder} has {told}; give a folder of at least two UTF-8 files")
    sizes = {name: len(text) for name, text in works.items()}
    kept_back = choose_held_out(sizes)
    rest = [name for name in works if name not in kept_back]
    return Texts(
        _joined([works[name] for name in rest]),
        _joined([works[name] for name in kept_back]),
        sizes,
        kept_back,
    )


def choose_held_out(sizes: Mapping[str, int]) -> list[str]:
    """The works to hold out, of these sizes in bytes; see `Bytes`."""
    total, taken, chosen = sum(sizes.values()), 0, []
    for name in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if taken < _ENOUGH * total and taken + sizes[name] <= _MOST * total:
            chosen.append(name)
            taken += sizes[name]
    return sorted(chosen) or [min(sizes, key=lambda name: (sizes[name], name))]


def _read_work(entry: Path) -> bytes:
    files = sorted(entry.rglob("*")) if entry.is_dir() else [entry]
    return _BETWEEN.join(text for file in files if file.is_file() and (text := _read(file)))


def _read(file: Path) -> bytes:
    """The bytes of a file of text; none of another."""
    try:
        content = file.read_bytes()
        content.decode("utf-8")
    except UnicodeDecodeError:
        return b""
    except OSError as error:
        raise UsageError(f"`text`: cannot read {file}: {error.strerror}") from None
    return content


def _joined(texts: Sequence[bytes]) -> UInt8[Tensor, "byte"]:
    return torch.frombuffer(bytearray(_BETWEEN.join(texts)), dtype=torch.uint8)


@functools.lru_cache(maxsize=2)
def _on_device(folder: str, device: str) -> Texts:
    """A folder's text, read once a process and device."""
    texts = read_texts(Path(folder))
    where = torch.device(device)
    return dataclasses.replace(
        texts, training=texts.training.to(where), held_out=texts.held_out.to(where)
    )
