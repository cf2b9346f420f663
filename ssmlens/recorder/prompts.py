"""Prompts: token sequences with kinds, texts and targets, from text, files, tasks or tensors."""

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
from ssmlens.names import REPEAT
from ssmlens.tasks.bytes import Bytes
from ssmlens.tasks.letters import LetterTask
from ssmlens.tasks.recall import Recall
from ssmlens.tasks.repeat import PRINTABLE, Repeat
from ssmlens.tasks.sort import Sort
from ssmlens.tasks.task import NO_TARGET, Task, TaskBatch, tasks

_BYTES = 256
# Limits of a file of prompts in bytes, and of a line in characters: more tokens than any map can have.
_MOST_BYTES, _LONGEST_LINE = 1 << 26, 1 << 22
# Limit of the tokens in all examples of a task.
_MOST_TOKENS = 1 << 24
# Tasks that use no letter twice, with the letters per unit of length (recall: a key and a value).
_LETTERS_PER_UNIT: dict[type[Task], int] = {Sort: 1, Recall: 2}


@dataclasses.dataclass(frozen=True, init=False)
class Prompts:
    """Prompts, each with its own length.

        Prompts([[3, 1, 4], [1, 5]])
        Prompts(ids, target=[[-1, -1, 0, 1]])
        Prompts.repeated(ids), Prompts.of_task("copy", model)

    Tokens are a tensor [prompt token], lists of ids, or one list of ids. The other arguments have one value per prompt;
    `kinds` may be one word for all prompts.

    Attributes:
        tokens: Token ids of each prompt.
        kinds: Kind of each prompt: "text", "tokens", or the name of its task.
        texts: Each prompt as text; "" if there is none.
        target: For each prompt the position that each query must look at (NO_TARGET: none), or None.
    """

    tokens: tuple[tuple[int, ...], ...]
    kinds: tuple[str, ...]
    texts: tuple[str, ...]
    target: tuple[tuple[int, ...] | None, ...]

    def __init__(
        self,
        tokens: Iterable[Any] | Tensor,
        kinds: str | Sequence[str] = "tokens",
        texts: Sequence[str] | None = None,
        target: Iterable[Any] | Tensor | None = None,
    ):
        """Raises UsageError if there is no prompt, one is empty, or an argument does not fit the tokens."""
        rows = _rows(tokens)
        fields = {
            "kinds": [kinds] * len(rows) if isinstance(kinds, str) else kinds,
            "texts": [""] * len(rows) if texts is None else texts,
            "target": [None] * len(rows) if target is None else map(_target, target),
        }
        object.__setattr__(self, "tokens", rows)
        for name, values in fields.items():
            object.__setattr__(self, name, tuple(values))
        self._check()

    @classmethod
    def repeated(cls, tokens: Iterable[Any] | Tensor, times: int = 2) -> "Prompts":
        """Repeat each sequence, with the targets of induction.

        In repetitions of n tokens, the target of the query at position i ≥ n is i − n + 1: the token that followed the
        query's token in the previous repetition. The last query has none, because no token follows it.

        Args:
            tokens: Each sequence once, as `Prompts` takes them.
            times: Number of copies of each sequence.

        Raises:
            UsageError: `times` is less than 2, or a sequence has fewer than two tokens.
        """
        sequences = cls(tokens).tokens
        if times < 2:
            raise UsageError(f"`times` must be 2 or more, not {times}")
        for number, row in enumerate(sequences):
            if len(row) < 2:
                raise UsageError(f"prompt {number}: a sequence to repeat needs two tokens or more")
        target = [_induction_target(len(row), times) for row in sequences]
        return cls([row * times for row in sequences], REPEAT, target=target)

    @classmethod
    def of_task(cls, name: str, model: Any, *, seed: int = 0, **options: Any) -> "Prompts":
        """Examples of a task, drawn from the model's own vocabulary, with their targets.

            Prompts.of_task("copy", model, length=12, count=4)

        Args:
            name: A registered task: copy, repeat, …
            model: The model that will run them.
            seed: Seed of the examples.
            **options: The task's own options.

        Raises:
            UsageError: There is no such task, an option is impossible, or the model's tokens do not suit it.
        """
        known = [field.name for field in dataclasses.fields(tasks[name])]
        for option in options:
            if option not in known:
                raise UsageError(
                    f"the task {name} has no option `{option}`; it has {', '.join(known)}"
                )
        return from_named_task(name, model, options, seed)

    def _check(self) -> None:
        if not self.tokens:
            raise UsageError("there is no prompt; give at least one")
        for name in ("kinds", "texts", "target"):
            if len(getattr(self, name)) != len(self.tokens):
                raise UsageError(
                    f"`{name}` has {len(getattr(self, name))} entries for {len(self.tokens)} prompts: give one each"
                )
        for number, (tokens, text) in enumerate(zip(self.tokens, self.texts, strict=True)):
            if not tokens:
                raise UsageError(f"prompt {number} ({text!r}) is empty; give it at least one token")
        for number, (tokens, target) in enumerate(zip(self.tokens, self.target, strict=True)):
            if target is not None and not _is_target(target, len(tokens)):
                raise UsageError(
                    f"prompt {number}: its target must have for each of its {len(tokens)} tokens "
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
        """The targets as one tensor [prompt token]; None if no prompt has any."""
        if all(target is None for target in self.target):
            return None
        return _padded([target or () for target in self.target], NO_TARGET, max(self.length))

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raise UsageError if a token id is outside the model's vocabulary."""
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
    return Prompts(rows)


def from_texts(texts: Sequence[str], tokenizer: Tokenizer | None, why_none: str = "") -> Prompts:
    """Prompts from text.

    Raises:
        UsageError: There is none, one is empty, or the model has no tokenizer.
    """
    if tokenizer is None:
        reason = f" ({why_none})" if why_none else ""
        raise UsageError(f"this model has no tokenizer{reason}; pass token ids instead of text")
    return Prompts([tokenizer.encode(text) for text in texts], "text", texts)


def texts_for(model: Any, texts: Sequence[str]) -> Prompts:
    """Prompts from text for a model, by its tokenizer. Raises UsageError as `from_texts`."""
    return from_texts(texts, *tokenizer_of(model))


def file_for(model: Any, path: Path) -> Prompts:
    """Prompts from a file for a model, by its tokenizer. Raises UsageError as `from_file`."""
    return from_file(path, *tokenizer_of(model))


def prompts_for(model: Any, given: Any) -> Prompts:
    """Prompts from what Python callers pass: `Prompts`, a text, texts, or token ids.

    Raises:
        UsageError: As `from_texts` and `from_tokens`.
    """
    if isinstance(given, Prompts):
        return given
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Tensor) and given and all(isinstance(one, str) for one in given):
        return texts_for(model, list(given))
    return from_tokens(given)


def tokenizer_of(model: Any) -> tuple[Any, str]:
    """A model's tokenizer, or None, and why it has none."""
    problem = getattr(getattr(model, "source", None), "tokenizer_problem", None)
    return getattr(model, "tokenizer", None), problem or ""


def from_task(name: str, task: Task, seed: int = 0, tokenizer: Tokenizer | None = None) -> Prompts:
    """The examples of a task, with their targets, without padding."""
    batch: TaskBatch = task.build(seed)
    length = _unpadded(task, batch)
    tokens, target = (
        tuple(tuple(row[:n].tolist()) for row, n in zip(rows, length, strict=True))
        for rows in (batch.tokens, batch.target)
    )
    texts = None if tokenizer is None else [tokenizer.decode(row) for row in tokens]
    return Prompts(tokens, name, texts, target)


def from_named_task(name: str, model: Any, options: dict[str, Any], seed: int = 0) -> Prompts:
    """The examples of the task called `name`, drawn from the model's own vocabulary.

    Args:
        name: A registered task.
        model: The model that will run them.
        options: Options of the task by field name, such as length and count, to replace its defaults.
        seed: Seed of the examples.

    Raises:
        UsageError: There is no such task, its options are impossible, or the model's tokens do not suit it.
    """
    tokenizer = getattr(model, "tokenizer", None)
    letters = tokenizer.letters if isinstance(tokenizer, Vocabulary) else range(0)
    kind = tasks[name]
    of_model: dict[str, Any]
    if kind is Repeat:
        ids = letters or _ids_to_repeat(vocabulary_size(model))
        of_model = {"first_token": ids.start, "vocab_size": ids.stop}
    elif kind is Bytes:
        if letters or vocabulary_size(model) < _BYTES:
            raise UsageError(
                f"`task` {name} is for models whose tokens are bytes; use `task` repeat"
            )
        of_model = {}
    else:
        of_model = _letter_options(name, kind, letters, options.get("length"))
    task = kind(**options | of_model)
    tokens = options.get("length", 1) * options.get("count", 1)
    if tokens > _MOST_TOKENS:
        raise UsageError(f"`length` times `count` is {tokens}, more than {_MOST_TOKENS} tokens")
    return from_task(name, task, seed, tokenizer)


def _ids_to_repeat(size: int) -> range:
    """The ids that repeats use in a vocabulary of this size: of bytes the printable ones, else all."""
    return PRINTABLE if size == _BYTES else range(size)


def _letter_options(
    name: str, kind: type[Task], letters: range, length: int | None
) -> dict[str, Any]:
    """The task options for a model with these letters, in the layout that it was trained on."""
    marks_first = letters.start > 0
    if not letters or not (marks_first or issubclass(kind, LetterTask)):
        raise UsageError(
            f"`task` {name} is for models whose tokens are letters, like the shipped models; use `task` repeat"
        )
    options: dict[str, Any] = {"letters": len(letters)}
    if not marks_first:
        options |= {"layout": "jelassi", "packing": False}
    if kind in _LETTERS_PER_UNIT:
        longest = len(letters) // _LETTERS_PER_UNIT[kind]
        if length is not None and length > longest:
            raise UsageError(
                f"`task` {name} uses no letter twice: with this model's {len(letters)}, `length` is at most {longest}"
            )
        options["length"] = min(kind.length, longest) if length is None else length
    return options


def vocabulary_size(model: nn.Module) -> int:
    """Number of token ids that the model embeds. Raises UsageError if it has no token embedding."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            return module.num_embeddings
    raise UsageError(f"{type(model).__name__} has no token embedding; capture runs language models")


def from_file(path: Path, tokenizer: Tokenizer | None, why_none: str = "") -> Prompts:
    """Prompts from a file, one per line, without blank lines: .txt, or .jsonl with {"text": …} or {"tokens": […]}.

    A line of .jsonl may also have a "target": for each token the position it must look at, −1 or null for none.

    Raises:
        UsageError: The file does not exist, contains no prompt, or a line is wrong.
    """
    if path.suffix not in (".txt", ".jsonl"):
        raise UsageError(f"{path}: prompts are read from .txt (one per line) or .jsonl")
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
        raise UsageError(f"{path} contains no prompt; write one per line")
    rows = ([row for part in parts for row in getattr(part, f.name)] for f in _FIELDS)
    return Prompts(*map(tuple, rows))


def default_prompts(model: Any) -> Prompts:
    """The default prompts of a capture.

    For a shipped model, whose tokens are letters: the copy task. For any other: a shipped passage of text, if the model
    has a tokenizer, and four random sequences, each repeated once, which show induction.
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
        case {"text": str(text), **rest} if rest.keys() <= {"target"}:
            prompts = from_texts([text], tokenizer, why_none)
        case {"tokens": list(tokens), **rest} if rest.keys() <= {"target"}:
            prompts = from_tokens([tokens])
        case _:
            raise UsageError(
                'a line is {"text": "…"} or {"tokens": [1, 2, …]}, with or without "target": [-1, 0, …]'
            )
    return Prompts(prompts.tokens, prompts.kinds, prompts.texts, [rest.get("target")])


def _rows(tokens: Iterable[Any] | Tensor) -> tuple[tuple[int, ...], ...]:
    """Token ids, one row per prompt. Raises UsageError for anything else."""
    if isinstance(tokens, Tensor):
        if tokens.is_floating_point() or tokens.ndim not in (1, 2):
            raise UsageError(
                f"token ids are an integer tensor [prompt token]; this one is {tokens.dtype}, "
                f"shape {tuple(tokens.shape)}"
            )
        tokens = tokens.tolist()
    rows: list[Any] = list(tokens)
    if rows and isinstance(rows[0], Integral):
        rows = [rows]
    return tuple(tuple(_token_id(number, id) for id in row) for number, row in enumerate(rows))


def _target(given: Any) -> tuple[Any, ...] | None:
    """The target of one prompt, not checked yet; None in it means no target."""
    if given is None:
        return None
    if isinstance(given, Tensor):
        given = given.tolist()
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise UsageError(f"a target is a list of positions, not {given!r}")
    return tuple(NO_TARGET if position is None else position for position in given)


def _induction_target(tokens: int, times: int) -> list[int]:
    """For each query of a repeated sequence, the position after its token in the previous repetition."""
    with_target = range(tokens, times * tokens - 1)
    return [q - tokens + 1 if q in with_target else NO_TARGET for q in range(times * tokens)]


def _token_id(number: int, token: Any) -> int:
    if isinstance(token, bool) or not isinstance(token, Integral):
        raise UsageError(f"prompt {number}: {token!r} is not a token id")
    return int(token)


def _is_target(target: Sequence[Any], tokens: int) -> bool:
    positions = [t for t in target if isinstance(t, Integral) and not isinstance(t, bool)]
    return len(positions) == len(target) == tokens and all(
        NO_TARGET <= t <= q for q, t in enumerate(target)
    )


def _unpadded(task: Task, batch: TaskBatch) -> list[int]:
    """Number of tokens of each row without padding: rows of letter tasks differ in length."""
    count, width = batch.tokens.shape
    if not isinstance(task, LetterTask):
        return [width] * count
    ends = (batch.tokens != task.alphabet.pad).flip(1).int().argmax(1)
    return (width - ends).tolist()


def _padded(rows: Sequence[Sequence[int]], pad: int, width: int | None = None) -> Tensor:
    width = max(map(len, rows)) if width is None else width
    padded = [[*row, *[pad] * (width - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long)
