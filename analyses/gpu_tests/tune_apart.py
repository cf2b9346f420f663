"""A pytest plugin: the workers compile a Triton kernel's configurations in different orders.

Tuning compiles each configuration of a kernel and times it; Mamba-3's backward kernels have 189. Workers that begin
together would compile the same one at the same time. In different orders they compile different ones, and find those
of the others in Triton's cache on disk.
"""

import os
import random
from collections.abc import Callable
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Shuffle the configurations while a kernel is tuned, by the worker's name."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return
    try:
        from triton.runtime.autotuner import (  # pyright: ignore[reportMissingImports]
            Autotuner,
        )
    except ImportError:
        return
    tune, order = Autotuner.check_disk_cache, random.Random(worker)

    def check_disk_cache(self: Any, key: Any, configs: list[Any], bench: Callable[[], Any]) -> Any:
        """As Triton's. `bench` reads `configs`; the result's name on disk depends on their first order."""

        def shuffled() -> None:
            kept = configs[:]
            order.shuffle(configs)
            try:
                bench()
            finally:
                configs[:] = kept

        return tune(self, key, configs, shuffled)

    Autotuner.check_disk_cache = check_disk_cache
