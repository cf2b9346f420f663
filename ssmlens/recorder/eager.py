"""Compiled models run uncompiled for a while: what was compiled before a hook came never calls it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def eager() -> Iterator[None]:
    """Inside the `with` block everything under `torch.compile` runs as plain Python, with its hooks.

    `torch.compile(model)`, `model.compile()`, a compiled part of a model, or a compiled function that calls it. Nothing
    is compiled there either; afterwards what was compiled before is used again. Without a compiler loaded it costs
    nothing.
    """
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
