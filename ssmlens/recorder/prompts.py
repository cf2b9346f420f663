"""Prompts: token sequences with what is known of them, from text, files, tasks or the user's own tensors."""

import dataclasses
from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ssmlens.errors import UsageError
from ssmlens.files.plain_json import loads, read_bytes
from ssmlens.models.shipped import data_folder
from ssmlens.models.tokenizers import Tokenizer, Vocabulary
from ssmlens.tasks.letters import LetterTask
from ssmlens.tasks.recall import Recall
from ssmlens.tasks.repeat import Repeat
from ssmlens.tasks.sort import Sort
from ssmlens.tasks.task import NO_TARGET, Task, TaskBatch, tasks

# Bytes of a file of prompts, and characters of a prompt in it: more tokens than any map can be made of.
_MOST_BYTES, _LONGEST_LINE = 1 << 26, 1 << 22
# Tokens of the examples of a task.
_MOST_TOKENS = 1 << 24
# Tasks that take no letter twice, and how many letters each unit of their length takes: a key is one of two.
_DIFFERENT: dict[type[Task], int] = {Sort: 1, Recall: 2}


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts, each with its own length.

    Attributes:
        tokens: Token ids of each prompt.
        kinds: What each is: "text", "tokens", or the name of its task.
        texts: Each prompt as text, "" where there is none.
        target: For each prompt the position each query must look at (NO_TARGET: none), or None.
    """

    tokens: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]
    texts: tuple[str, ...]
    target: tuple[tuple[int, ...] | None, ...]

    def __post_init__(self):
        if not self.tokens:
            raise UsageError("there is no prompt; give at least one")
        for number, (tokens, text) in enumerate(zip(self.tokens, self.texts, strict=True)):
            if not tokens:
                raise UsageError(f"prompt {number} ({text!r}) is empty; give it at least one token")
        for number, (tokens, target) in enumerate(zip(self.tokens, self.target, strict=True)):
            if target is not None and not _is_target(target, len(tokens)):
                raise UsageError(
                    f"prompt {number}: its target must say for each of its {len(tokens)} tokens "
                    f"an earlier position, its own, or {NO_TARGET} for none"
                )

    def __len__(self) -> int:
        return len(self.tokens)

    def __add__(self, other: "Prompts") -> "Prompts":
        return Prompts(
            self.tokens + other.tokens,
            self.kinds + other.kinds,
            self.texts + other.texts,
            self.target + other.target,
        )

    @property
    def length(self) -> list[int]:
        """Tokens of each prompt."""
        return [len(tokens) for tokens in self.tokens]

    def padded(self, pad: int = 0) -> Tensor:
        """The token ids as one tensor [prompt token], padded on the right."""
        return _padded(self.tokens, pad)

    def padded_target(self) -> Tensor | None:
        """The targets as one tensor [prompt token]; None where no prompt has any."""
        if all(target is None for target in self.target):
            return None
        return _padded([target or () for target in self.target], NO_TARGET, max(self.length))

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise UsageError if a token id is not one of the model's."""
        for number, tokens in enumerate(self.tokens):
            for token in tokens:
                if not 0 <= token < vocab_size:
                    raise UsageError(
                        f"prompt {number}: token id {token} is out of range: "
                        f"the model has 0..{vocab_size - 1}"
                    )


_FIELDS = dataclasses.fields(Prompts)


def from_tokens(rows: Iterable[Any] | Tensor) -> Prompts:
    """Prompts from token ids: a tensor [prompt token], lists of ids, or one sequence.

    Raises:
        UsageError: There is none, one is empty, or something is not a token id.
    """
    if isinstance(rows, Tensor):
        if rows.is_floating_point() or rows.ndim not in (1, 2):
            raise UsageError(
                f"token ids are an integer tensor [prompt token]; this one is {rows.dtype}, "
                f"shape {tuple(rows.shape)}"
            )
        rows = rows.tolist()
    whole: list[Any] = list(rows)
    if whole and isinstance(whole[0], Integral):
        whole = [whole]
    tokens = tuple(
        tuple(_token_id(number, token) for token in row) for number, row in enumerate(whole)
    )
    return Prompts(tokens, ("tokens",) * len(tokens), ("",) * len(tokens), (None,) * len(tokens))


def from_texts(texts: Sequence[str], tokenizer: Tokenizer | None, why_none: str = "") -> Prompts:
    """Prompts from text.

    Raises:
        UsageError: There is none, one is empty, or the model has no tokenizer.
    """
    if tokenizer is None:
        reason = f" ({why_none})" if why_none else ""
        raise UsageError(f"this model has no tokenizer{reason}; pass token ids instead of text")
    tokens = tuple(tuple(tokenizer.encode(text)) for text in texts)
    return Prompts(tokens, ("text",) * len(tokens), tuple(texts), (None,) * len(tokens))


def from_task(name: str, task: Task, seed: int = 0, tokenizer: Tokenizer | None = None) -> Prompts:
    """The examples of a task, with their targets, and without the padding of those that are shorter than others."""
    batch: TaskBatch = task.build(seed)
    length = _unpadded(task, batch)
    tokens, target = (
        tuple(tuple(row[:n].tolist()) for row, n in zip(rows, length, strict=True))
        for rows in (batch.tokens, batch.target)
    )
    texts = tuple("" if tokenizer is None else tokenizer.decode(row) for row in tokens)
    return Prompts(tokens, (name,) * len(tokens), texts, target)


def from_named_task(name: str, model: Any, options: dict[str, Any], seed: int = 0) -> Prompts:
    """The examples of the task called `name`, drawn from the model's own vocabulary.

    Args:
        name: A registered task.
        model: The model they are for.
        options: The task's length and count, where they are not its own.
        seed: Which examples.

    Raises:
        UsageError: There is no such task, its options are impossible, or the model's tokens do not suit it.
    """
    tokenizer = getattr(model, "tokenizer", None)
    letters = tokenizer.letters if isinstance(tokenizer, Vocabulary) else range(0)
    kind = tasks[name]
    if kind is Repeat:
        ids = letters or range(vocabulary_size(model))
        own: dict[str, Any] = {"first_token": ids.start, "vocab_size": ids.stop}
    else:
        own = _on_letters(name, kind, letters, options.get("length"))
    task = kind(**options | own)
    asked = options.get("length", 1) * options.get("count", 1)
    if asked > _MOST_TOKENS:
        raise UsageError(f"`length` times `count` is {asked}, more than {_MOST_TOKENS} tokens")
    return from_task(name, task, seed, tokenizer)


def _on_letters(name: str, kind: type[Task], letters: range, length: int | None) -> dict[str, Any]:
    """The options with which a task's rows are made of these letters, laid out as the model knows them."""
    marks_first = letters.start > 0
    if not letters or not (marks_first or issubclass(kind, LetterTask)):
        raise UsageError(
            f"`task` {name} is for models whose tokens are letters, as the shipped ones'; use `task` repeat"
        )
    own: dict[str, Any] = {"letters": len(letters)}
    if not marks_first:
        own |= {"layout": "jelassi", "packing": False}
    if kind in _DIFFERENT:
        longest = len(letters) // _DIFFERENT[kind]
        if length is not None and length > longest:
            raise UsageError(
                f"`task` {name} takes no letter twice: of this model's {len(letters)}, `length` is at most {longest}"
            )
        own["length"] = min(kind.length, longest) if length is None else length
    return own


def vocabulary_size(model: nn.Module) -> int:
    """Number of token ids the model embeds. Raises UsageError where it embeds none."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            return module.num_embeddings
    raise UsageError(f"{type(model).__name__} has no token embedding; capture runs language models")


def from_file(path: Path, tokenizer: Tokenizer | None, why_none: str = "") -> Prompts:
    """Prompts from a file, blank lines aside: .txt, a prompt a line; .jsonl, {"text": …} or {"tokens": […]} a line.

    Raises:
        UsageError: The file is not there, holds no prompt, or a line of it is wrong.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise UsageError(f"{path}: prompts are read from .txt (a prompt a line) or .jsonl")
    try:
        text = read_bytes(path, _MOST_BYTES, links=True, refused=UsageError)
        lines = text.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except FileNotFoundError:
        raise UsageError(f"cannot read {path}: No such file or directory") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    parts: list[Prompts] = []
    for number, line in enumerate(lines, 1):
        try:
            if len(line) > _LONGEST_LINE:
                raise UsageError(f"it has {len(line)} characters, more than {_LONGEST_LINE}")
            if line.strip() and path.suffix == ".txt":
                parts.append(from_texts([line], tokenizer, why_none))
            elif line.strip():
                parts.append(_from_json(line, tokenizer, why_none))
        except UsageError as error:
            raise UsageError(f"{path}, line {number}: {error}") from None
    if not parts:
        raise UsageError(f"{path} holds no prompt; write one a line")
    rows = ([row for part in parts for row in getattr(part, f.name)] for f in _FIELDS)
    return Prompts(*map(tuple, rows))


def default_prompts(model: Any) -> Prompts:
    """What is captured where nobody chose.

    For a shipped model (its tokens are letters), the copy task; for any other, a shipped passage of text, if it has a
    tokenizer, and four random sequences said twice, on which induction shows.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if isinstance(tokenizer, Vocabulary):
        return from_named_task("copy", model, {})
    repeated = from_named_task("repeat", model, {})
    if tokenizer is None:
        return repeated
    passage = (data_folder() / "prompts" / "passage.txt").read_text(encoding="utf-8").strip()
    return from_texts([passage], tokenizer) + repeated


def _from_json(line: str, tokenizer: Tokenizer | None, why_none: str) -> Prompts:
    try:
        given = loads(line.encode())
    except ValueError as error:
        raise UsageError(str(error)) from None
    match given:
        case {"text": str(text), **rest} if not rest:
            return from_texts([text], tokenizer, why_none)
        case {"tokens": list(tokens), **rest} if not rest:
            return from_tokens([tokens])
    raise UsageError('a line is {"text": "…"} or {"tokens": [1, 2, …]}')


def _token_id(number: int, token: Any) -> int:
    if isinstance(token, bool) or not isinstance(token, Integral):
        raise UsageError(f"prompt {number}: {token!r} is not a token id")
    return int(token)


def _is_target(target: Sequence[int], tokens: int) -> bool:
    return len(target) == tokens and all(NO_TARGET <= t <= q for q, t in enumerate(target))


def _unpadded(task: Task, batch: TaskBatch) -> list[int]:
    """Tokens of each row up to its last that is no padding: a task of letters has rows of different length."""
    count, width = batch.tokens.shape
    if not isinstance(task, LetterTask):
        return [width] * count
    ends = (batch.tokens != task.alphabet.pad).flip(1).int().argmax(1)
    return (width - ends).tolist()


def _padded(rows: Sequence[Sequence[int]], pad: int, width: int | None = None) -> Tensor:
    width = max(map(len, rows)) if width is None else width
    padded = [[*row, *[pad] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long)
