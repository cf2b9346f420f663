"""`ssmlens rank-layers`."""

import dataclasses
from pathlib import Path

import tyro

from ssmlens.cli.command import Result
from ssmlens.cli.progress import progress
from ssmlens.errors import UsageError


@dataclasses.dataclass(frozen=True)
class RankLayersCommand:
    """Rank the layers of a capture, best first, by one score or by the mean rank of several.

    By default copy_score or induction_score where the prompts have targets, else the mean rank of mask_ones,
    bc_effective and diagonal_sharpness. Effects, where the capture has them, stand beside; by one of them the layer
    that matters most is first.

    Whether the order predicts good transplants is not decided: in one teacher that copies, what students reach has a
    rank correlation of .46 [.07, .84] with induction_score. ssmlens validate-ranking measures it for yours.
    """

    capture: tyro.conf.Positional[Path]
    """The capture, a .h5 file or a folder."""
    by: tuple[str, ...] = ()
    """Scores to order by; `ssmlens scores` explains them. The last row is what each score is by chance."""
    top: int | None = None
    """Show only this many layers, or heads."""
    heads: bool = False
    """Rank heads by their own maps: those of softmax attention, and of mixers with at most 256 heads a layer."""
    layers: tuple[int, ...] = ()
    """With --heads: whose heads. Default: of all layers."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Do it."""
        from ssmlens.scores import rank_heads, rank_layers
        from ssmlens.store import open_capture

        if self.layers and not self.heads:
            raise UsageError("--layers goes with --heads")
        by, layers = list(self.by) or None, list(self.layers) or None
        with open_capture(self.capture) as capture, progress("scoring") as tell:
            if self.heads:
                ranking = rank_heads(capture, by, layers, self.top, progress=tell)
            else:
                ranking = rank_layers(capture, by, self.top, progress=tell)
        return Result(ranking.to_dict(), str(ranking))


COMMAND = RankLayersCommand
