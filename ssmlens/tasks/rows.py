"""Rows of tokens in the making: what stands where, what is asked where, and several examples packed into a row."""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

# Positions in a target that must look at nothing in particular.
NO_TARGET = -1
# Labels at positions without loss, as torch's cross entropy has it.
NO_LABEL = -100

Places = Int[Tensor, "example"] | Int[Tensor, "example entry"]


@dataclasses.dataclass(frozen=True)
class TaskBatch:
    """Token sequences of equal length, what the model must say, and where it must look for it.

    Attributes:
        tokens: Token ids.
        target: Position that holds what the model must say after each query; NO_TARGET where no earlier token does.
        labels: Token id that the logits AT this position must say (not shifted); NO_LABEL where there is no loss.
        fed_back: Whether each label is the row's next token, so that a model that runs freely reads its own answers.
    """

    tokens: Int[Tensor, "example token"]
    target: Int[Tensor, "example token"]
    labels: Int[Tensor, "example token"]
    fed_back: bool = True


@dataclasses.dataclass(frozen=True)
class Examples:
    """One example a row, padded on the right.

    Attributes:
        batch: Tokens, targets and labels.
        length: Tokens of each example.
    """

    batch: TaskBatch
    length: Int[Tensor, "example"]


class Rows:
    """Rows that are being written, all padding at first."""

    def __init__(self, count: int, width: int, pad: int, device: torch.device):
        def whole(value: int) -> Int[Tensor, "example token"]:
            return torch.full((count, width), value, dtype=torch.long, device=device)

        self._tokens, self._target, self._labels = whole(pad), whole(NO_TARGET), whole(NO_LABEL)

    def write(self, at: Places, tokens: Places | int, where: Tensor | None = None) -> None:
        """Put `tokens` at the columns `at` of each row, those entries only that `where` keeps."""
        self._tokens = put(self._tokens, at, tokens, where)

    def ask(
        self,
        at: Places,
        answer: Places | int,
        place: Places | int = NO_TARGET,
        where: Tensor | None = None,
    ) -> None:
        """Ask for `answer` at the columns `at`; it stands at `place`, if anywhere."""
        self._labels = put(self._labels, at, answer, where)
        self._target = put(self._target, at, place, where)

    def examples(self, length: Int[Tensor, "example"], fed_back: bool = True) -> Examples:
        """The rows as they are now, an example of `length` tokens in each."""
        return Examples(TaskBatch(self._tokens, self._target, self._labels, fed_back), length)


def put(
    rows: Int[Tensor, "row column"], at: Places, values: Places | int, where: Tensor | None = None
) -> Int[Tensor, "row column"]:
    """`rows` with `values` at the columns `at`, those entries only that `where` keeps.

    Columns of one row are different, and those that are kept are within the row.
    """
    at = at.unsqueeze(1) if at.ndim == 1 else at
    values = values if isinstance(values, Tensor) else at.new_full((1,), values)
    values = values.unsqueeze(1) if values.ndim == 1 else values
    keep = torch.ones_like(at, dtype=torch.bool) if where is None else where.expand_as(at)
    # What is not kept goes to a spare column.
    at = torch.where(keep, at, rows.shape[1])
    return F.pad(rows, (0, 1)).scatter(1, at, values.expand_as(at))[:, :-1]


def pack(examples: Examples, rows: int, context: int) -> TaskBatch:
    """Fill `rows` rows of `context` tokens, each with as many examples, one after another, nothing between them.

    The example that does not fit whole at a row's end is cut off there and asks nothing (Jelassi et al. 2024). Each
    row gets an equal share of the examples, in order; those beyond its end are dropped.
    """
    batch = examples.batch
    length = examples.length.view(rows, -1)
    start = length.cumsum(1) - length
    column = torch.arange(batch.tokens.shape[1], device=length.device)
    at = start[:, :, None] + column
    inside = (column < length[:, :, None]) & (at < context)
    whole: Bool[Tensor, "row example 1"] = (start + length <= context)[:, :, None]

    def packed(
        values: Int[Tensor, "example token"], empty: int, keep: Bool[Tensor, "row share token"]
    ) -> Int[Tensor, "row column"]:
        filled = torch.full((rows, context), empty, dtype=torch.long, device=length.device)
        return put(filled, at.flatten(1), values.reshape(rows, -1), keep.flatten(1))

    asked = inside & whole
    target = batch.target.view_as(at)
    return TaskBatch(
        packed(batch.tokens, 0, inside),
        packed((target + start[:, :, None]).flatten(0, 1), NO_TARGET, asked & (target >= 0)),
        packed(batch.labels, NO_LABEL, asked),
        batch.fed_back,
    )
