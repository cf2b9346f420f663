"""Text to token ids and back: what `model.tokenizer` can do, and where a model's comes from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.files.plain_json import read_bytes, read_json

VOCABULARY_FILE = "vocabulary.json"
TOKENIZER_FILE = "tokenizer.json"
_MOST_BYTES = 1 << 28


@runtime_checkable
class Tokenizer(Protocol):
    """What a model's tokenizer can do."""

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`."""
        ...

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token by itself, as an axis shows it."""
        ...


class Vocabulary:
    """Tokens that are letters: a character is a token. For the shipped models (`vocabulary.json`).

    Args:
        tokens: The string of every token, by id. Tokens of more than one character cannot be typed.
    """

    def __init__(self, tokens: Sequence[str]):
        self._strings = dict(enumerate(tokens))
        self._ids = {string: i for i, string in enumerate(tokens) if len(string) == 1}

    @property
    def letters(self) -> range:
        """The ids of its letters, which follow one another; empty where it has none."""
        ids = [i for string, i in self._ids.items() if string.isalpha()]
        return range(min(ids), max(ids) + 1) if ids else range(0)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Raises UsageError at a character that is no token."""
        unknown = sorted(set(text) - self._ids.keys())
        if unknown:
            raise UsageError(
                f"{unknown[0]!r} is not a token of this model; it reads {''.join(self._ids)}"
            )
        return [self._ids[character] for character in text]

    def decode(self, ids: Sequence[int]) -> str:
        """The tokens' strings in a row; one that cannot be typed stands in angle brackets."""
        strings = self.token_strings(ids)
        return "".join(s if len(s) == 1 or s.startswith("<") else f"<{s}>" for s in strings)

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token's string; ids that only pad the embedding are shown as <id>."""
        return [self._strings.get(i, f"<{i}>") for i in map(int, ids)]


class ByteTokenizer:
    """Tokens that are the bytes of UTF-8, 256 of them."""

    def encode(self, text: str) -> list[int]:
        """The bytes of `text`."""
        return list(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are none stand as replacement characters."""
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
        """The tokenizer in a `tokenizer.json`, which neither pads nor cuts. Raises SsmlensError where it is none."""
        from tokenizers import Tokenizer as Fast

        text = read_bytes(path, _MOST_BYTES, links=True, refused=SsmlensError)
        with _told(f"{path} is not a tokenizer", SsmlensError):
            tokenizer = Fast.from_buffer(text)
            tokenizer.no_padding()
            tokenizer.no_truncation()
        return cls(tokenizer)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with the special tokens that the tokenizer adds. Raises UsageError where it has none."""
        with _told("this model's tokenizer cannot read the text", UsageError):
            return self._tokenizer.encode(text).ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens included."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Each token's text; a token that is part of a character as the vocabulary spells it."""
        return [self._token_string(int(i)) for i in ids]

    def _token_string(self, i: int) -> str:
        raw = self._tokenizer.id_to_token(i)
        if raw is None:
            return f"<{i}>"
        text = self.decode([i])
        return raw if not text or "\N{REPLACEMENT CHARACTER}" in text else text


def tokenizer_of(strings: Sequence[str]) -> Vocabulary | ByteTokenizer:
    """What reads tokens of these strings: bytes, where they are called what `ByteTokenizer` calls them."""
    tokenizer = ByteTokenizer()
    is_bytes = list(strings) == tokenizer.token_strings(range(256))
    return tokenizer if is_bytes else Vocabulary(strings)


@contextmanager
def _told(what: str, kind: type[SsmlensError]) -> Iterator[None]:
    """Turn what the tokenizers library raises, bare Exceptions and panics of Rust's, into one line."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise kind(f"{what}: {str(error).strip()[:500]}") from None


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a model's folder. Raises SsmlensError when there is none."""
    if (folder / VOCABULARY_FILE).is_file():
        return tokenizer_of(_vocabulary(folder / VOCABULARY_FILE))
    if (folder / TOKENIZER_FILE).is_file():
        return FastTokenizer.read(folder / TOKENIZER_FILE)
    raise SsmlensError(f"{folder} has no {TOKENIZER_FILE}")


def _vocabulary(path: Path) -> list[str]:
    """The strings in a vocabulary's file. Raises SsmlensError where it holds something else."""
    tokens = read_json(path, _MOST_BYTES, links=True, refused=SsmlensError)
    if not isinstance(tokens, list) or not all(isinstance(it, str) and it for it in tokens):
        raise SsmlensError(f"{path} is not a vocabulary: a list of strings, none of them empty")
    return tokens
