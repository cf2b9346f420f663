"""Run compiled models uncompiled: code that was compiled before a hook was added never calls the hook."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def eager() -> Iterator[None]:
    """Inside the `with` block everything under `torch.compile` runs as plain Python, with its hooks.

    This covers `torch.compile(model)`, `model.compile()`, a compiled part of a model, and a compiled function that
    calls it. Nothing is compiled inside the block. Afterwards the compiled code is used again. If no compiler is
    loaded, this costs nothing.
    """
    if "torch._dynamo" not in sys.modules:  # nothing has been compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
