"""Run flash-linear-attention's own kernels on a CPU, unchanged, by Triton's interpreter in numpy. It is slow."""

import os


def prepare() -> bool:
    """Make autotuners use their first configuration, since there is no GPU to time them. Return whether kernels run.

    They run only if TRITON_INTERPRET=1 is set before Python starts.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return False
    from triton.runtime.autotuner import Autotuner  # pyright: ignore[reportMissingImports]

    Autotuner._bench = lambda *_, **__: [1.0, 1.0, 1.0]
    return True
