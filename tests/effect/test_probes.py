"""Probes: what they ask for is right, for tokenizers of characters, of words, and of bytes."""

import pytest

import ssmlens
from ssmlens.effect.probe import first_difference
from ssmlens.errors import UsageError


class Letters:
    """A token a character."""

    def encode(self, text):
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(map(chr, ids))


class Words:
    """A token a word with the space before it, after a token that starts every text."""

    def __init__(self):
        self.words = ["<s>"]

    def encode(self, text):
        ids = [0]
        for word in text.replace(" ", "\0 ").replace("\n", "\0\n").split("\0"):
            if word:
                if word not in self.words:
                    self.words.append(word)
                ids.append(self.words.index(word))
        return ids

    def decode(self, ids):
        return "".join(self.words[i] for i in ids)


class Model:
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer


@pytest.mark.parametrize("tokenizer", [Letters(), Words()], ids=["letters", "words"])
@pytest.mark.parametrize("name", ["retrieval", "ioi"])
def test_the_target_holds_the_answer_and_the_foil_does_not(name, tokenizer):
    model = Model(tokenizer)
    found = ssmlens.probe(name, model, count=5, seed=2)
    for row, text in enumerate(found.prompts.texts):
        tokens, target = found.prompts.tokens[row], found.prompts.target[row]
        assert [j >= 0 for j in target] == [False] * (len(tokens) - 1) + [True]
        (right,), (foil,) = found.right(row).tolist(), found.foils(row).tolist()
        assert right == tokens[target[-1]] != foil
        if name == "ioi":
            a, b = text.split("When ")[1].split(" went")[0].split(" and ")
            said = text.split(", ")[1].split(" gave")[0]
            assert said == b
            rest = text.rpartition(" to")[2]
            assert f" {a}".startswith(rest + tokenizer.decode([right]))
        else:
            *lines, asked = text.split("\n")
            pairs = dict(line.split(": ", 1) for line in lines)
            key, _, begun = asked.partition(":")
            assert f" {pairs[key]}".startswith(begun + tokenizer.decode([right]))
    assert found.corrupted.length == found.prompts.length
    assert found.corrupted.tokens != found.prompts.tokens


def test_seeds_and_counts():
    model = Model(Letters())
    one, other = (ssmlens.probe("retrieval", model, count=3, seed=s) for s in (0, 1))
    assert len(one.prompts) == 3
    assert one.prompts != other.prompts
    assert one == ssmlens.probe("retrieval", model, count=3, seed=0)


def test_the_twin_of_repeated_tokens_tells_nothing():
    model = ssmlens.load_model("copy-mamba1-default")
    found = ssmlens.probe("repeat", model, count=2, length=9)
    for tokens, twin in zip(found.prompts.tokens, found.corrupted.tokens, strict=True):
        assert tokens[:9] == tokens[9:] == twin[9:] != twin[:9]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("retrieval", {"length": 1}, "2 to"),
        ("ioi", {"length": 3}, "fixed length"),
        ("repeat", {"count": 0}, "at least one prompt"),
        ("other", {}, "unknown probe"),
    ],
)
def test_bad_options(name, options, said):
    with pytest.raises(UsageError, match=said):
        ssmlens.probe(name, Model(Letters()), **options)


def test_text_needs_a_tokenizer():
    with pytest.raises(UsageError, match="no tokenizer"):
        ssmlens.probe("ioi", Model(None))


def test_first_difference():
    assert first_difference([1, 2, 3], [1, 4]) == 1
    assert first_difference([1], [1, 2]) is None
