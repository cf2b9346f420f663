"""Stands in for flash-linear-attention where that is not installed: some of its layers and models in plain torch.

Written from what its layers compute (fla 0.6.0), with their names, weights and order; a step is the last token of a
forward over all that came before. `tests/adapters/test_fla.py` holds it against the real layers where those are there.
"""

__version__ = "0"  # too old for transformers, which would call its kernels
