"""Text to token ids and back: what `model.tokenizer` can do, and where a model's comes from."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ssmlens.errors import SsmlensError, UsageError

VOCABULARY_FILE = "vocabulary.json"
TOKENIZER_FILE = "tokenizer.json"


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
        """The tokenizer in a `tokenizer.json`."""
        from tokenizers import Tokenizer as Fast

        try:
            return cls(Fast.from_file(str(path)))
        except Exception as error:  # the library raises bare Exception
            raise SsmlensError(f"{path} is not a tokenizer: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, with the special tokens that the tokenizer adds."""
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


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a model's folder. Raises SsmlensError when there is none."""
    if (folder / VOCABULARY_FILE).is_file():
        return tokenizer_of(json.loads((folder / VOCABULARY_FILE).read_text(encoding="utf-8")))
    if (folder / TOKENIZER_FILE).is_file():
        return FastTokenizer.read(folder / TOKENIZER_FILE)
    raise SsmlensError(f"{folder} has no {TOKENIZER_FILE}")
