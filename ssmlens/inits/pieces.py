"""The pieces of a block's weights: what stands in one tensor and makes different things is told apart."""

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
"""The views that say how long a state is kept: A, and what makes Δ."""

# Of a block and a mixer in it: some of their weights, or views of them, by name.
Chooser = Callable[[nn.Module, MixerSite], Mapping[str, Tensor]]


@dataclasses.dataclass(frozen=True)
class Pieces:
    """Which piece each entry of some weights belongs to.

    Attributes:
        of: By weight, of its shape: a number, 0 where no view names the entry. Entries of one weight with one number
            are a piece.
        memory: The numbers of `MEMORY`.
    """

    of: Mapping[str, Int[Tensor, "*entry"]]
    memory: frozenset[int]

    def is_memory(self, name: str) -> Tensor:
        """Which entries of a weight are of `MEMORY`."""
        numbers = self.of[name].new_tensor(sorted(self.memory))
        return torch.isin(self.of[name], numbers)

    def change(
        self, weights: Mapping[str, Tensor], new: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """The weights with `new` of each piece in its place; `new` takes and gives a piece's values in a row."""
        changed = {name: weight.clone() for name, weight in weights.items()}
        for name, weight in changed.items():
            pieces = self.of[name].to(weight.device)
            for number in pieces.unique().tolist():
                here = pieces == number
                weight[here] = new(weight[here])
        return changed


@torch.no_grad()
def find_pieces(model: nn.Module, site: MixerSite, choose: Chooser) -> Pieces:
    """The pieces of the weights that `choose` takes of the site's block: the adapter's views.

    And x's and the gate's rows of in_proj in Mamba-1 and Mamba-2; A_log by its columns, a state each. What no view
    names is one piece a weight.
    """
    block = next(block.module for block in find_blocks(model) if block.layer == site.layer)
    path = next(name for name, module in block.named_modules() if module is site.module)
    # A copy whose entries are their pieces' numbers: whatever is a view of it has them.
    marked = copy.deepcopy(block).to("cpu", torch.float64)
    for parameter in marked.parameters():
        parameter.zero_()
    there = dataclasses.replace(site, module=marked.get_submodule(path))
    memory = set()
    for number, (name, view) in enumerate(named_pieces(there), 1):
        view.fill_(number)
        if name in MEMORY:
            memory.add(number)
    return Pieces(
        {name: weight.long() for name, weight in choose(marked, there).items()}, frozenset(memory)
    )


def named_pieces(site: MixerSite) -> list[tuple[str, Tensor]]:
    """The pieces of a mixer's weights that have names, as views of them; those within others come after them."""
    views = dict(site.adapter.weights(site.module).named())
    A_log = views.pop("A_log", None)
    named = [*_rows(site), *views.items()]
    return named + ([] if A_log is None else [("A_log", column) for column in A_log.unbind(1)])


def log_scale(site: MixerSite) -> float:
    """How large a mixer's weights are: the mean over its pieces, A_log and biases aside, of log root mean square.

    NaN where one is 0 everywhere, or where no piece has a name.
    """
    weights = dict(site.module.named_parameters())
    of_out = {name: weight for name, weight in weights.items() if name == "out_proj.weight"}
    pieces = {**dict(named_pieces(site)), **of_out}
    matrices = [piece for name, piece in pieces.items() if piece.ndim > 1 and name != "D"]
    squares = torch.stack([piece.detach().double().square().mean() for piece in matrices])
    scale = float(squares.log().mean() / 2) if matrices else math.nan
    return scale if math.isfinite(scale) else math.nan


def _rows(site: MixerSite) -> list[tuple[str, Tensor]]:
    """The rows of in_proj, and entries of its bias, that make x and the gate."""
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
    whole = {"": weights.in_proj_weight, " bias": weights.in_proj_bias}
    parts = {"x": x, "gate": gate}
    return [
        (part + kind, tensor[rows])
        for kind, tensor in whole.items()
        if tensor is not None
        for part, rows in parts.items()
    ]
