"""Build rows of tokens with labels and targets, and pack several examples into a row."""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

# Target of a query that has no particular key.
NO_TARGET = -1
# Label of a position without loss, as in torch's cross entropy.
NO_LABEL = -100

Places = Int[Tensor, "example"] | Int[Tensor, "example entry"]


@dataclasses.dataclass(frozen=True)
class TaskBatch:
    """Token sequences of equal length, with their labels (the right answers) and targets (where to find them).

    Attributes:
        tokens: Token ids.
        target: For each query, the position of the token that it must predict; NO_TARGET if no earlier token has it.
        labels: Token id that the logits AT this position must predict (not shifted); NO_LABEL where there is no loss.
        fed_back: Whether each label is the row's next token, so that a free-running model reads its own answers.
    """

    tokens: Int[Tensor, "example token"]
    target: Int[Tensor, "example token"]
    labels: Int[Tensor, "example token"]
    fed_back: bool = True


@dataclasses.dataclass(frozen=True)
class Examples:
    """One example per row, padded on the right.

    Attributes:
        batch: Tokens, targets and labels.
        length: Tokens of each example.
    """

    batch: TaskBatch
    length: Int[Tensor, "example"]


class Rows:
    """Rows to write to, all padding at first."""

    def __init__(self, count: int, width: int, pad: int, device: torch.device):
        def filled(value: int) -> Int[Tensor, "example token"]:
            return torch.full((count, width), value, dtype=torch.long, device=device)

        self._tokens, self._target, self._labels = filled(pad), filled(NO_TARGET), filled(NO_LABEL)

    def write(self, at: Places, tokens: Places | int, where: Tensor | None = None) -> None:
        """Put `tokens` at the columns `at` of each row, only in entries where `where` is true."""
        self._tokens = put(self._tokens, at, tokens, where)

    def ask(
        self,
        at: Places,
        answer: Places | int,
        place: Places | int = NO_TARGET,
        where: Tensor | None = None,
    ) -> None:
        """Set the label `answer` and the target `place` at the columns `at`."""
        self._labels = put(self._labels, at, answer, where)
        self._target = put(self._target, at, place, where)

    def examples(self, length: Int[Tensor, "example"], fed_back: bool = True) -> Examples:
        """Return the rows as they are now, each with an example of `length` tokens."""
        return Examples(TaskBatch(self._tokens, self._target, self._labels, fed_back), length)


def put(
    rows: Int[Tensor, "row column"], at: Places, values: Places | int, where: Tensor | None = None
) -> Int[Tensor, "row column"]:
    """Return `rows` with `values` at the columns `at`, only in entries where `where` is true.

    The columns of a row are different, and within the row where `where` is true.
    """
    at = at.unsqueeze(1) if at.ndim == 1 else at
    values = values if isinstance(values, Tensor) else at.new_full((1,), values)
    values = values.unsqueeze(1) if values.ndim == 1 else values
    keep = torch.ones_like(at, dtype=torch.bool) if where is None else where.expand_as(at)
    # Other entries go to a spare column.
    at = torch.where(keep, at, rows.shape[1])
    return F.pad(rows, (0, 1)).scatter(1, at, values.expand_as(at))[:, :-1]


def pack(examples: Examples, rows: int, context: int) -> TaskBatch:
    """Fill `rows` rows of `context` tokens, each with equally many examples, one after another without gaps.

    An example that does not fit completely at a row's end is truncated and has no labels (Jelassi et al. 2024). Each
    row gets an equal share of the examples, in order; examples beyond its end are dropped.
    """
    batch = examples.batch
    length = examples.length.view(rows, -1)
    start = length.cumsum(1) - length
    column = torch.arange(batch.tokens.shape[1], device=length.device)
    at = start[:, :, None] + column
    inside = (column < length[:, :, None]) & (at < context)
    fits: Bool[Tensor, "row example 1"] = (start + length <= context)[:, :, None]

    def packed(
        values: Int[Tensor, "example token"], empty: int, keep: Bool[Tensor, "row share token"]
    ) -> Int[Tensor, "row column"]:
        filled = torch.full((rows, context), empty, dtype=torch.long, device=length.device)
        return put(filled, at.flatten(1), values.reshape(rows, -1), keep.flatten(1))

    has_label = inside & fits
    target = batch.target.view_as(at)
    return TaskBatch(
        packed(batch.tokens, 0, inside),
        packed((target + start[:, :, None]).flatten(0, 1), NO_TARGET, has_label & (target >= 0)),
        packed(batch.labels, NO_LABEL, has_label),
        batch.fed_back,
    )
