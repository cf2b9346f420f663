"""Text to token ids and back: the tokenizers of models, and reading them from files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.files.plain_json import read_bytes, read_json

VOCABULARY_FILE = "vocabulary.json"
TOKENIZER_FILE = "tokenizer.json"
_MAX_BYTES = 1 << 28


@runtime_checkable
class Tokenizer(Protocol):
    """The interface of a model's tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        ...

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token as text, for labels of an axis."""
        ...


class Vocabulary:
    """Tokens that are single characters, as in the shipped models (`vocabulary.json`).

    Args:
        tokens: The string of every token, by id. Tokens of more than one character cannot be encoded.
    """

    def __init__(self, tokens: Sequence[str]):
        self._strings = dict(enumerate(tokens))
        self._ids = {string: i for i, string in enumerate(tokens) if len(string) == 1}

    @property
    def letters(self) -> range:
        """The ids of its letters, which are consecutive; empty if it has none."""
        ids = [i for string, i in self._ids.items() if string.isalpha()]
        return range(min(ids), max(ids) + 1) if ids else range(0)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Raises UsageError if a character is not a token."""
        unknown = sorted(set(text) - self._ids.keys())
        if unknown:
            raise UsageError(
                f"{unknown[0]!r} is not a token of this model; it reads {''.join(self._ids)}"
            )
        return [self._ids[character] for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        """Join the tokens' strings; those of several characters are put in angle brackets."""
        strings = self.token_strings(ids)
        return "".join(s if len(s) == 1 or s.startswith("<") else f"<{s}>" for s in strings)

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token's string; ids that only pad the embedding become <id>."""
        return [self._strings.get(i, f"<{i}>") for i in map(int, ids)]


class ByteTokenizer:
    """Tokens that are the 256 bytes of UTF-8."""

    def encode(self, text: str) -> list[int]:
        """The bytes of `text`."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; invalid bytes become replacement characters."""
        return bytes(map(int, ids)).decode(errors="replace")

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Printable ASCII as it is, other bytes as <0a>."""
        return [chr(i) if 32 <= i < 127 else f"<{i:02x}>" for i in map(int, ids)]


class FastTokenizer:
    """A `tokenizer.json`, read by the tokenizers library."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    @classmethod
    def read(cls, path: Path) -> "FastTokenizer":
        """Read a `tokenizer.json`; disable padding and truncation. Raises SsmlensError if it is not a tokenizer."""
        from tokenizers import Tokenizer as Fast

        text = read_bytes(path, _MAX_BYTES, links=True, refused=SsmlensError)
        with _reporting_failure(f"{path} is not a tokenizer", SsmlensError):
            tokenizer = Fast.from_buffer(text)
            tokenizer.no_padding()
            tokenizer.no_truncation()
        return cls(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with the tokenizer's special tokens. Raises UsageError if it cannot encode the text."""
        with _reporting_failure("this model's tokenizer cannot read the text", UsageError):
            return self._tokenizer.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token's text; for a token that is part of a character, its entry in the vocabulary."""
        return [self._token_string(int(i)) for i in ids]

    def _token_string(self, i: int) -> str:
        raw = self._tokenizer.id_to_token(i)
        if raw is None:
            return f"<{i}>"
        text = self.decode([i])
        return raw if not text or "\N{REPLACEMENT CHARACTER}" in text else text


def tokenizer_of(strings: Sequence[str]) -> Vocabulary | ByteTokenizer:
    """The tokenizer for tokens of these strings: a `ByteTokenizer` if they are its strings, else a `Vocabulary`."""
    tokenizer = ByteTokenizer()
    is_bytes = list(strings) == tokenizer.token_strings(range(256))
    return tokenizer if is_bytes else Vocabulary(strings)


@contextmanager
def _reporting_failure(message: str, kind: type[SsmlensError]) -> Iterator[None]:
    """Turn errors of the tokenizers library (bare Exceptions, Rust panics) into one error of `kind`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise kind(f"{message}: {str(error).strip()[:500]}") from None


def read_tokenizer(folder: Path) -> Tokenizer:
    """Read the tokenizer in a model's folder. Raises SsmlensError if there is none."""
    if (folder / VOCABULARY_FILE).is_file():
        return tokenizer_of(_vocabulary(folder / VOCABULARY_FILE))
    if (folder / TOKENIZER_FILE).is_file():
        return FastTokenizer.read(folder / TOKENIZER_FILE)
    raise SsmlensError(f"{folder} has no {TOKENIZER_FILE}")


def _vocabulary(path: Path) -> list[str]:
    """Read the strings of a vocabulary file. Raises SsmlensError if it is not a vocabulary."""
    tokens = read_json(path, _MAX_BYTES, links=True, refused=SsmlensError)
    if not isinstance(tokens, list) or not all(isinstance(t, str) and t for t in tokens):
        raise SsmlensError(f"{path} is not a vocabulary: it must be a list of non-empty strings")
    return tokens
