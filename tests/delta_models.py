"""The delta-rule families, and their small models in folders as people save them: weights, settings, tokenizer."""

from ssmlens.adapters.adapter import adapters
from ssmlens.adapters.delta_shared import DeltaAdapter

FAMILIES = sorted(
    {a.family for a in map(adapters.__getitem__, adapters) if isinstance(a, DeltaAdapter)}
)


def save_tokenizer(folder):
    """A tokenizer of words: "a" is 0, "z" 25."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = {chr(ord("a") + n): n for n in range(26)}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
