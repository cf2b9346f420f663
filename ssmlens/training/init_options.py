"""The part of a config for the start of the model, in which arms differ."""

import dataclasses
from typing import Any, Literal

from ssmlens.inits.init import inits
from ssmlens.options import option_of
from ssmlens.training.gather import options_of, with_options

_LONGEST_ARM = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class _InitOptions:
    """The start of the model; options that are left out take the init's defaults.

    Attributes:
        init: Name of the init; mamba-ssm is the library's default.
        init_from: Fine-tune this checkpoint (in mamba_ssm's layout) instead, with its own architecture.
        embeddings: For `init_from`: keep its embeddings, or draw new ones for the task's tokens.
        arm: Name under which runs are compared. Default: from the init and its options.
    """

    init: str = "mamba-ssm"
    init_from: str | None = None
    embeddings: Literal["keep", "redraw"] = "keep"
    arm: str = ""


InitOptions = with_options(_InitOptions, {name: inits[name] for name in inits})


def arm_name(options: Any) -> str:
    """Return `arm`, or a name from the init: "default", "mimetic A+BC c=4", "transplant 3", "shuffled 3", ..."""
    if options.arm:
        return options.arm
    if options.init_from:
        return "fine-tuned"
    if options.init not in inits:
        return options.init
    init: Any = inits[options.init]
    values = {field: getattr(options, name) for field, name in options_of(init).items()}
    values = {field: value for field, value in values.items() if value not in (None, ())}
    parts = [init.arm(options.init, values)]
    # Tuples first: parts of a layer, then layers.
    for field in sorted(values, key=lambda name: not isinstance(values[name], tuple)):
        in_arm = option_of(init.__dataclass_fields__[field]).in_arm
        if in_arm is not None and values[field] is not False:
            parts.append(in_arm(options_of(init)[field], values[field]))
    return " ".join(parts)[:_LONGEST_ARM]
