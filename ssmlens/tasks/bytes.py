"""Text as bytes, mixed with rows of repeated strings: a small language model learns to copy from it."""

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
# Number of string lengths: for a longest string of 128 letters also 64, 32 and 16.
_HALVINGS = 4
# Works are held out until this share of the bytes is; a work that would go above the second share is not.
_ENOUGH, _MOST = 0.02, 0.04


@tasks.register("bytes")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Bytes(Task):
    """Rows of `context` bytes from a folder of text; a share of rows has random printable strings, each repeated.

        of text      token   t h e _ m o d e l
                     label   h e _ m o d e l _
                     target  . . . . . . . . .
        of strings   token   x 7 # x 7 # k ) p k ) p
                     label   7 # x 7 # k ) p k ) p .
                     target  . . . 1 2 . . . . 4 5 .    (strings of three letters)

    Every byte except a row's first has a label. Only the repetition of a string has targets (and so `accuracy`), from
    its second letter on. All strings of a row have the same length; rows alternate between `longest` letters, a half, a
    quarter and an eighth. A row of text starts anywhere in the text.

    An exam at length n is a `Repeat` of n printable letters. A second measure is `bits`, per byte, on held-out text:
    complete works, where each entry of the folder (a file, or a folder with its contents) is a work. Works are held out
    in the order of the sha256 of their names until they have 2 % of the bytes, without works that would make it more
    than 4 %; if all would, the smallest is held out. Files that are not UTF-8 are skipped; two line ends separate
    files.

    Attributes:
        text: A folder of text.
        repeats: Share of the rows with repeated strings.
        length: Letters of the longest repeated strings; a multiple of 8.
        context: Bytes per row.
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
        is_multiple = self.length > eighth and self.length % eighth == 0
        self._require(is_multiple, "`longest`", f"a multiple of {eighth} above it", self.length)
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
        """See `Task.row_tokens`: the same for all lengths."""
        return self.context

    def at_length(self, length: int) -> Task:
        """See `Task.at_length`: one repeated string of this many printable letters per row."""
        return Repeat(length, self.count, vocab_size=PRINTABLE.stop, first_token=PRINTABLE.start)

    def prepare(self, device: torch.device) -> None:
        """See `Task.prepare`: read the text.

        Raises:
            UsageError: The folder does not exist, has no text or only one work, or less text than a row needs.
        """
        self._texts(device)

    def examples(self, draws: Draws, length: Int[Tensor, "example"]) -> Examples:
        """See `Task.examples`; the lengths only give the number of rows."""
        count = len(length)
        strings = round(self.repeats * count)
        text = self._windows(draws, self._texts(draws.device).training, count - strings)
        repeated, target = self._strings(draws, strings)
        tokens = torch.cat([text, repeated])
        nowhere = torch.full_like(text[:, 1:], NO_TARGET)
        batch = TaskBatch(tokens[:, :-1], torch.cat([nowhere, target]), tokens[:, 1:])
        return Examples(batch, torch.full_like(length, self.context))

    def measure_more(
        self, model: Callable[[Tensor], Any], seed: Seed, device: torch.device
    ) -> dict[str, float]:
        """See `Task.measure_more`: "bits" per byte of held-out text, over `count` rows."""
        held_out = self._windows(Draws(seed, device), self._texts(device).held_out, self.count)
        out = model(held_out[:, :-1])
        logits: Float[Tensor, "example token vocabulary"] = getattr(out, "logits", out)
        return {"bits": float(masked_loss(logits, held_out[:, 1:])) / math.log(2)}

    def _texts(self, device: torch.device) -> "Texts":
        texts = _on_device(self.text, str(device))
        if len(texts.training) <= self.context or len(texts.held_out) <= self.context:
            least = min(len(texts.training), len(texts.held_out))
            raise UsageError(
                f"`text` {self.text} has {least} bytes to train on or to hold out: a row needs "
                f"{self.context + 1}; give more text, or a shorter `context`"
            )
        return texts

    def _windows(
        self, draws: Draws, text: UInt8[Tensor, "byte"], rows: int
    ) -> Int[Tensor, "{rows} place"]:
        """Draw pieces of a text, one byte longer than a row."""
        start = draws.integers(len(text) - self.context, (rows,))
        return text[start[:, None] + torch.arange(self.context + 1, device=text.device)].long()

    def _strings(
        self, draws: Draws, rows: int
    ) -> tuple[Int[Tensor, "{rows} place"], Int[Tensor, "{rows} token"]]:
        """Draw rows of repeated strings, one byte longer than a row, and the targets of their tokens."""
        device = draws.device
        k = torch.arange(rows, device=device)[:, None]
        letters = torch.full_like(k, self.length) >> (_HALVINGS - 1 - k % _HALVINGS)
        place = torch.arange(self.context + 1, device=device)
        first = place // (2 * letters) * (2 * letters) + place % letters
        drawn = PRINTABLE.start + draws.integers(len(PRINTABLE), (rows, self.context + 1))
        repeated = drawn.gather(1, first)
        first_letters = first[:, 1:]
        is_second = (place[1:] % (2 * letters) >= letters) & (place[1:] % letters > 0)
        return repeated, first_letters.masked_fill(~is_second, NO_TARGET)


@dataclasses.dataclass(frozen=True)
class Texts:
    """The bytes of a folder's text.

    Attributes:
        training: Bytes of the works for training.
        held_out: Bytes of the held-out works.
        works: Size in bytes of each work, by name.
        kept_back: Names of the held-out works.
    """

    training: UInt8[Tensor, "byte"]
    held_out: UInt8[Tensor, "held_out_byte"]
    works: Mapping[str, int]
    kept_back: Sequence[str]


def read_texts(folder: Path) -> Texts:
    """Read the text of a folder and hold out some works; see `Bytes`.

    Raises:
        UsageError: The folder does not exist, or has no text or only one work.
    """
    if not folder.is_dir():
        raise UsageError(f"`text` {folder}: there is no such folder")
    works = {entry.name: text for entry in sorted(folder.iterdir()) if (text := _read_work(entry))}
    if len(works) < 2:
        problem = "only one work, and none can be held out" if works else "no text"
        raise UsageError(
            f"`text` {folder} has {problem}; give a folder of at least two UTF-8 files"
        )
    sizes = {name: len(text) for name, text in works.items()}
    kept_back = choose_held_out(sizes)
    training = [name for name in works if name not in kept_back]
    return Texts(
        _joined([works[name] for name in training]),
        _joined([works[name] for name in kept_back]),
        sizes,
        kept_back,
    )


def choose_held_out(sizes: Mapping[str, int]) -> list[str]:
    """Choose the works to hold out from their sizes in bytes; see `Bytes`."""
    total, held_bytes, held_works = sum(sizes.values()), 0, []
    for name in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if held_bytes < _ENOUGH * total and held_bytes + sizes[name] <= _MOST * total:
            held_works.append(name)
            held_bytes += sizes[name]
    return sorted(held_works) or [min(sizes, key=lambda name: (sizes[name], name))]


def _read_work(entry: Path) -> bytes:
    files = sorted(entry.rglob("*")) if entry.is_dir() else [entry]
    return _BETWEEN.join(text for file in files if file.is_file() and (text := _read(file)))


def _read(file: Path) -> bytes:
    """Read the bytes of a text file; return none for other files."""
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
    """Read a folder's text, once per process and device."""
    texts = read_texts(Path(folder))
    where = torch.device(device)
    return dataclasses.replace(
        texts, training=texts.training.to(where), held_out=texts.held_out.to(where)
    )
