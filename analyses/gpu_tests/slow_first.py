"""A pytest plugin: every worker begins with some of the tests that took longest last time, by results.json.

Those tune Triton kernels for minutes. If they came last, one worker would still run after the others have finished.
"""

import json
import os

import pytest

from analyses.gpu_tests.run import RESULTS


@pytest.hookimpl(trylast=True)  # after tests without the lane's markers have been removed
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests. pytest-xdist gives each worker as many of them, in this order."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    seconds: dict[str, float] = json.loads(RESULTS.read_text(encoding="utf-8"))["slowest_tests"]
    slow = sorted(
        (item for item in items if item.nodeid in seconds),
        key=lambda item: -seconds[item.nodeid],
    )
    others = [item for item in items if item.nodeid not in seconds]
    ends = [len(items) * (k + 1) // workers for k in range(workers)]
    ordered: list[pytest.Item] = []
    for k, end in enumerate(ends):
        ordered += slow[k::workers]
        count = max(0, end - len(ordered))
        ordered += others[:count]
        others = others[count:]
    items[:] = ordered + others
