"""Let flash-linear-attention's own kernels run on a CPU: Triton's interpreter takes each as it is, in numpy, slowly."""

import os


def prepare() -> bool:
    """Make autotuners take their first configuration, since there is no GPU to time on. Whether kernels run so here.

    TRITON_INTERPRET=1 must be set before Python starts.
    """
    if os.environ.get("TRITON_INTERPRET") != "1":
        return False
    from triton.runtime.autotuner import Autotuner  # pyright: ignore[reportMissingImports]

    Autotuner._bench = lambda *_, **__: [1.0, 1.0, 1.0]
    return True
