"""`ssmlens scores`."""

import dataclasses

from ssmlens.cli.command import Result


@dataclasses.dataclass(frozen=True)
class ScoresCommand:
    """Explain every score that `ssmlens rank-layers --by` takes: how it is computed, its range, its value by chance."""

    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Do it."""
        from ssmlens.scores.glossary import glossary

        entries = glossary()
        blocks = [
            f"{entry.name}\n  {entry.formula}\n  range: {entry.range}\n  chance: {entry.chance}"
            for entry in entries
        ]
        return Result({"scores": [entry._asdict() for entry in entries]}, "\n\n".join(blocks))


COMMAND = ScoresCommand
