"""The mixers by name: plain-torch twins of mamba_ssm's, one file each."""

from ssmlens.errors import UsageError
from ssmlens.models.mamba import Mamba
from ssmlens.models.mamba2 import Mamba2

MIXERS: dict[str, type[Mamba] | type[Mamba2]] = {"Mamba": Mamba, "Mamba2": Mamba2}


def build_mixer(name: str, **arguments: object) -> Mamba | Mamba2:
    """A mixer by its class's name in mamba_ssm, "Mamba" or "Mamba2", given its arguments."""
    if name not in MIXERS:
        raise UsageError(f"unknown mixer {name!r}; choose from: {', '.join(MIXERS)}")
    return MIXERS[name](**arguments)  # type: ignore[arg-type]
