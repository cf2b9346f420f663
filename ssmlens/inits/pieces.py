"""The pieces of a block's weights: parts of one tensor that produce different operands are separate pieces."""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ssmlens.adapters.blocks import find_blocks
from ssmlens.adapters.find import MixerSite
from ssmlens.adapters.generations import Mamba1Adapter, Mamba2Adapter

MEMORY = ("A_log", "dt_bias", "W_dt", "dt_proj")
"""The views that define how long a state lasts: A, and the weights of Δ."""

# From a block and its mixer to some of their weights, or views of them, by name.
Chooser = Callable[[nn.Module, MixerSite], Mapping[str, Tensor]]


@dataclasses.dataclass(frozen=True)
class Pieces:
    """The piece that each entry of some weights belongs to.

    Attributes:
        numbers: For each weight, in its shape: the piece's number of each entry, 0 if no view names it. Entries of one
            weight with the same number are a piece.
        memory: The numbers of the views in `MEMORY`.
    """

    numbers: Mapping[str, Int[Tensor, "*entry"]]
    memory: frozenset[int]

    def is_memory(self, name: str) -> Tensor:
        """Return a mask of the entries of a weight that belong to `MEMORY`."""
        numbers = self.numbers[name]
        return torch.isin(numbers, numbers.new_tensor(sorted(self.memory)))

    def change(
        self, weights: Mapping[str, Tensor], new: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """Return the weights with each piece replaced by `new(piece)`; `new` maps a piece's flat values."""
        changed = {name: weight.clone() for name, weight in weights.items()}
        for name, weight in changed.items():
            pieces = self.numbers[name].to(weight.device)
            for number in pieces.unique().tolist():
                entries = pieces == number
                weight[entries] = new(weight[entries])
        return changed


@torch.no_grad()
def find_pieces(model: nn.Module, site: MixerSite, choose: Chooser) -> Pieces:
    """Find the pieces of the weights that `choose` selects from the site's block.

    Pieces are the adapter's views; the rows of in_proj for x and for the gate in Mamba-1 and Mamba-2; and the columns
    of A_log, one per state. The entries of a weight that no view names are one piece.
    """
    block = next(block.module for block in find_blocks(model) if block.layer == site.layer)
    path = next(name for name, module in block.named_modules() if module is site.module)
    # A copy whose entries are the numbers of their pieces: views of it have these numbers, too.
    marked = copy.deepcopy(block).to("cpu", torch.float64)
    for parameter in marked.parameters():
        parameter.zero_()
    marked_site = dataclasses.replace(site, module=marked.get_submodule(path))
    memory = set()
    for number, (name, view) in enumerate(named_pieces(marked_site), 1):
        view.fill_(number)
        if name in MEMORY:
            memory.add(number)
    return Pieces(
        {name: weight.long() for name, weight in choose(marked, marked_site).items()},
        frozenset(memory),
    )


def named_pieces(site: MixerSite) -> list[tuple[str, Tensor]]:
    """Return the named pieces of a mixer's weights, as views; a piece within another comes after it."""
    views = dict(site.adapter.weights(site.module).named())
    A_log = views.pop("A_log", None)
    named = [*_rows(site), *views.items()]
    return named + ([] if A_log is None else [("A_log", column) for column in A_log.unbind(1)])


def log_scale(site: MixerSite) -> float:
    """Measure the size of a mixer's weights: the mean, over its pieces without A_log and biases, of log RMS.

    NaN if a piece is 0 everywhere, or if no piece has a name.
    """
    weights = dict(site.module.named_parameters())
    of_out = {name: weight for name, weight in weights.items() if name == "out_proj.weight"}
    pieces = {**dict(named_pieces(site)), **of_out}
    matrices = [piece for name, piece in pieces.items() if piece.ndim > 1 and name != "D"]
    squares = torch.stack([piece.detach().double().square().mean() for piece in matrices])
    scale = float(squares.log().mean() / 2) if matrices else math.nan
    return scale if math.isfinite(scale) else math.nan


def _rows(site: MixerSite) -> list[tuple[str, Tensor]]:
    """Return the rows of in_proj, and entries of its bias, for x and for the gate."""
    adapter: Any = site.adapter
    if isinstance(adapter, Mamba1Adapter):
        weights = adapter.named_weights(site.module)
        x = slice(0, len(weights.in_proj_weight) // 2)
        gate = slice(x.stop, None)
    elif isinstance(adapter, Mamba2Adapter):
        weights = adapter.named_weights(site.module)
        beside = 2 * weights.ngroups * weights.d_state + len(weights.A_log)
        end = len(weights.in_proj_weight) - beside
        x = slice(end - weights.d_ssm, end)
        gate = slice(x.start - weights.d_ssm, x.start)
    else:
        return []
    tensors = {"": weights.in_proj_weight, " bias": weights.in_proj_bias}
    parts = {"x": x, "gate": gate}
    return [
        (part + kind, tensor[rows])
        for kind, tensor in tensors.items()
        if tensor is not None
        for part, rows in parts.items()
    ]
