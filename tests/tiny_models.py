"""A family's tiny model, where the packages that are installed have it."""

import importlib.metadata
import importlib.util

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError
from packaging.version import Version

from ssmlens.adapters.softmax import SOFTMAX

# The first transformers in which every tiny model is made as it is here.
COMPLETE = Version("5.23")


def tiny_model_of(adapter):
    """The adapter's tiny model; skips where its package or this form of its configuration is missing."""
    if adapter is SOFTMAX or not adapter.family.startswith("transformers"):
        return adapter.tiny_model()
    if importlib.util.find_spec(adapter.mixers[0].rsplit(".", 2)[0]) is None:
        pytest.skip("not in this version")
    try:
        return adapter.tiny_model()
    except StrictDataclassClassValidationError:
        if Version(importlib.metadata.version("transformers")) >= COMPLETE:
            raise
        pytest.skip("its configuration is another in this version")
