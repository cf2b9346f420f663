"""A pytest plugin: Triton's tuning takes minutes less.

Tuning compiles each configuration of a kernel and times it. Mamba-3's five kernels have 216, which are compiled anew
for each dtype and size. The workers compile them in different orders, and find those of the others in Triton's cache:
in one order they would all compile the same one at the same time. Each is timed for 10 ms instead of 100.
"""

import functools
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

_WARM_UP, _TIMED = 2, 10  # milliseconds


def pytest_configure(config: pytest.Config) -> None:
    """Change how Triton tunes, if it is installed."""
    try:
        from triton.runtime.autotuner import (  # pyright: ignore[reportMissingImports]
            Autotuner,
        )
        from triton.testing import do_bench  # pyright: ignore[reportMissingImports]
    except ImportError:
        return
    tune, order = Autotuner.check_disk_cache, random.Random(os.environ.get("PYTEST_XDIST_WORKER"))
    time_briefly = functools.partial(do_bench, warmup=_WARM_UP, rep=_TIMED)

    def check_disk_cache(self: Any, key: Any, configs: list[Any], bench: Callable[[], Any]) -> Any:
        """As Triton's. `bench` reads `configs`; the result's name on disk depends on the whole list."""

        def in_another_order() -> None:
            kept = configs[:]
            order.shuffle(configs)
            try:
                bench()
            finally:
                configs[:] = kept

        return tune(self, key, configs, in_another_order)

    Autotuner.check_disk_cache = check_disk_cache
    Autotuner.do_bench = property(lambda self: self._do_bench or time_briefly)
