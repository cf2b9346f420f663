"""`ssmlens rank-layers`."""

import dataclasses
from pathlib import Path

import tyro

from ssmlens.cli.command import Result
from ssmlens.cli.progress import progress


@dataclasses.dataclass(frozen=True)
class RankLayersCommand:
    """Rank the layers of a capture, best first, by one score or by the mean rank of several.

    By default copy_score or induction_score where the prompts have targets, else the mean rank of mask_ones,
    bc_effective and diagonal_sharpness.
    """

    capture: tyro.conf.Positional[Path]
    """The capture, a .h5 file or a folder."""
    by: tuple[str, ...] = ()
    """Scores to order by."""
    top: int | None = None
    """Show only this many layers."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Do it."""
        from ssmlens.scores import rank_layers
        from ssmlens.store import open_capture

        with open_capture(self.capture) as capture, progress("scoring") as tell:
            ranking = rank_layers(capture, by=list(self.by) or None, top=self.top, progress=tell)
        return Result(ranking.to_dict(), str(ranking))


COMMAND = RankLayersCommand
