"""`ssmlens rank-layers`."""

import dataclasses
import inspect
from pathlib import Path

import tyro

from ssmlens.cli.command import Result
from ssmlens.cli.progress import progress
from ssmlens.errors import UsageError
from ssmlens.runs.transplant_evidence import TRANSPLANT_EVIDENCE


@dataclasses.dataclass(frozen=True)
class RankLayersCommand:
    """Rank the layers of a capture, best first, by one score or by the mean rank of several.

    Default: copy_score or induction_score if the prompts have targets, else the mean rank of mask_ones, bc_effective
    and diagonal_sharpness. The table also shows the effects in the capture; ranked by an effect, the layer that matters
    most comes first.
    """

    capture: tyro.conf.Positional[Path]
    """The capture, a .h5 file or a folder."""
    by: tuple[str, ...] = ()
    """Scores to order by; `ssmlens scores` explains them. The last row is what each score is by chance."""
    top: int | None = None
    """Show only this many layers (or heads)."""
    heads: bool = False
    """Rank heads by their own maps: heads of softmax attention, and of mixers with at most 256 heads per layer."""
    layers: tuple[int, ...] = ()
    """With --heads: rank the heads of these layers. Default: all layers."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Score the capture and return the ranking."""
        from ssmlens.scores import rank_heads, rank_layers
        from ssmlens.store import open_capture

        if self.layers and not self.heads:
            raise UsageError("--layers goes with --heads")
        names, layers = list(self.by) or None, list(self.layers) or None
        with open_capture(self.capture) as capture, progress("scoring") as tell:
            if self.heads:
                ranking = rank_heads(capture, names, layers, self.top, progress=tell)
            else:
                ranking = rank_layers(capture, names, self.top, progress=tell)
        return Result(ranking.to_dict(), str(ranking))


RankLayersCommand.__doc__ = (
    f"{inspect.cleandoc(RankLayersCommand.__doc__ or '')}\n\n{TRANSPLANT_EVIDENCE} "
    "ssmlens validate-ranking measures it for your teacher."
)
COMMAND = RankLayersCommand
