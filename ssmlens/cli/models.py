"""`ssmlens models`."""

import dataclasses

from ssmlens.cli.command import Result
from ssmlens.text_table import text_table


@dataclasses.dataclass(frozen=True)
class ModelsCommand:
    """List the models that come with ssmlens; `ssmlens capture --model` takes their names."""

    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """List the models."""
        from ssmlens.models.shipped import shipped_models

        models = shipped_models()
        rows = [("name", "generation", "layers", "init", "task", "characters right, by length")]
        for m in models:
            accuracy = "  ".join(f"{length}: {share:.3f}" for length, share in m.accuracy.items())
            rows.append((m.name, m.generation, str(m.layers), m.init, m.task, accuracy))
        data = [dataclasses.asdict(m) | {"folder": str(m.folder)} for m in models]
        return Result({"models": data}, text_table(rows, left=range(len(rows[0]))))


COMMAND = ModelsCommand
