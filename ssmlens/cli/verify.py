"""`ssmlens verify`."""

import dataclasses
from pathlib import Path

import tyro

from ssmlens.cli.command import Result
from ssmlens.cli.progress import progress


@dataclasses.dataclass(frozen=True)
class VerifyCommand:
    """Check a capture: its bytes, its numbers, its maps against its operands. The exit code is 1 if a check fails."""

    capture: tyro.conf.Positional[Path]
    """The capture, a .h5 file or a folder."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Check the capture and list its problems."""
        from ssmlens.store import verify

        with progress("verifying") as tell:
            problems = verify(self.capture, progress=tell)
        text = "\n".join(problems) if problems else f"{self.capture} is sound"
        data = {"path": str(self.capture), "sound": not problems, "problems": problems}
        return Result(data, text, exit_code=1 if problems else 0)


COMMAND = VerifyCommand
