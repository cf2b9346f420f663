"""Vocabularies of letters, and tokenizer.json."""

import pytest

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.models.tokenizers import FastTokenizer, Vocabulary, read_tokenizer


@pytest.fixture
def letters():
    return Vocabulary(["·pad", "|", "end", "a", "b"])


def test_letters_round_trip(letters):
    assert letters.encode("ab|ba") == [3, 4, 1, 4, 3]
    assert letters.decode([3, 4, 1, 4, 3]) == "ab|ba"
    assert letters.decode([3, 1, 3, 2]) == "a|a<end>"
    assert letters.encode("") == []
    assert letters.decode([]) == ""


def test_which_ids_are_letters(letters):
    assert letters.letters == range(3, 5)
    assert Vocabulary(["a", "b", "begin", "|", "end", "·pad"]).letters == range(2)
    assert len(Vocabulary(["·pad", "|", "end"]).letters) == 0


def test_letters_show_every_id(letters):
    assert letters.token_strings([0, 2, 4, 7]) == ["·pad", "end", "b", "<7>"]


def test_what_is_no_letter_is_named(letters):
    with pytest.raises(UsageError, match=r"'X' is not a token of this model; it reads \|ab"):
        letters.encode("abX")


def byte_level_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    vocabulary["Ġa"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_tokenizer_json(tmp_path):
    byte_level_tokenizer().save(str(tmp_path / "tokenizer.json"))
    tokenizer = read_tokenizer(tmp_path)
    assert isinstance(tokenizer, FastTokenizer)
    ids = tokenizer.encode("b a é")
    assert tokenizer.decode(ids) == "b a é"
    # a merged token, a space, and the two bytes of é, which alone are not text
    assert tokenizer.token_strings(ids) == ["b", " a", " ", "Ã", "©"]
    assert tokenizer.token_strings([10_000]) == ["<10000>"]


def test_vocabulary_comes_before_tokenizer_json(tmp_path):
    byte_level_tokenizer().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "vocabulary.json").write_text('["|", "a"]', encoding="utf-8")
    assert isinstance(read_tokenizer(tmp_path), Vocabulary)


def test_a_folder_without_tokenizer_says_so(tmp_path):
    with pytest.raises(SsmlensError, match=r"has no tokenizer\.json"):
        read_tokenizer(tmp_path)


def test_a_broken_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(SsmlensError, match=r"tokenizer\.json is not a tokenizer"):
        read_tokenizer(tmp_path)
