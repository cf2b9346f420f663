"""What flash-linear-attention's layers hand to their kernels, and what that makes of M: nothing here is ssmlens's.

The kernels' functions are replaced where a layer's module has them, so that each call's arguments are kept; operands
follow from these by the kernels' documentation, M from the operands by the recurrence in float64, token by token.
"""

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OPS = {
    "fla.layers.gated_deltanet": ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"),
    "fla.layers.delta_net": ("chunk_delta_rule", "fused_recurrent_delta_rule"),
    "fla.layers.kda": ("chunk_kda", "fused_recurrent_kda"),
    "fla.layers.gla": ("chunk_gla", "fused_recurrent_gla", "fused_chunk_gla"),
}


@contextlib.contextmanager
def kept_calls() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Every kernel call inside, by name, with its arguments."""
    calls: list[tuple[str, dict[str, Any]]] = []
    before = []
    for path, ops in OPS.items():
        module = importlib.import_module(path)
        for name in ops:
            op = getattr(module, name)
            before.append((module, name, op))

            def keep(*_, name=name, op=op, **arguments):
                calls.append((name, arguments))
                return op(**arguments)

            setattr(module, name, keep)
    try:
        yield calls
    finally:
        for module, name, op in before:
            setattr(module, name, op)


def operands_of(name: str, call: Mapping[str, Any]) -> dict[str, Tensor]:
    """q (with its scale), k, v, beta (of a delta rule) and log_decay in float64, each [token head ...], of row 0 on.

    Rows of a batch follow each other, as packed ones do.
    """
    given = {k: v.double() for k, v in call.items() if isinstance(v, Tensor) and k != "cu_seqlens"}
    q, k, v = (given[part].flatten(0, 1) for part in "qkv")
    if call.get("use_qk_l2norm_in_kernel"):
        q, k = (x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt() for x in (q, k))
    found = {"q": q * k.shape[-1] ** -0.5, "k": k, "v": v}
    if "gla" in name:
        decay = given["gk"] if "gk" in given else given["g"]
        return found | {"log_decay": decay.flatten(0, 1)}
    beta = given["beta"].flatten(0, 1)
    if call.get("use_beta_sigmoid_in_kernel"):
        beta = beta.sigmoid() * (2 if call.get("allow_neg_eigval") else 1)
    if "g" not in given:
        return found | {"beta": beta, "log_decay": torch.zeros_like(beta)[..., None]}
    step, rate = given["g"].flatten(0, 1), given["A_log"].exp()
    step = step[..., None] if step.ndim == 2 else step
    step = step + given["dt_bias"].view(len(rate), -1)
    if call.get("lower_bound") is None:
        decay = -rate[:, None] * F.softplus(step)
    else:
        decay = call["lower_bound"] * (rate[:, None] * step).sigmoid()
    return found | {"beta": beta, "log_decay": decay}


def matrix_of(operands: Mapping[str, Tensor], head: int, rows: slice) -> Tensor:
    """M [query key] of a head on some consecutive rows, by the recurrence on the unit vectors."""
    wide = operands["v"].shape[1] // operands["k"].shape[1]
    q, k = (operands[part][rows, head // wide] for part in "qk")
    decay = operands["log_decay"][rows, head].exp()
    tokens = len(q)
    beta = operands["beta"][rows, head] if "beta" in operands else None
    unit = torch.eye(tokens, dtype=q.dtype, device=q.device)
    S, M = q.new_zeros(q.shape[1], tokens), torch.zeros_like(unit)
    for t in range(tokens):
        S = S * decay[t][:, None]
        new = unit[t] if beta is None else beta[t] * (unit[t] - k[t] @ S)
        S = S + torch.outer(k[t], new)
        M[t] = q[t] @ S
    return M
