"""The part of a config that says how the model starts: what arms differ in."""

import dataclasses
from typing import Any, Literal

from ssmlens.inits.init import inits
from ssmlens.options import option_of
from ssmlens.training.gather import options_of, with_options

_LONGEST_ARM = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class _InitOptions:
    """How the model starts; options that are left out are the init's own.

    Attributes:
        init: How the model starts, the name of an init; mamba-ssm is the library's default.
        init_from: Fine-tune this checkpoint (mamba_ssm's layout) instead; the architecture is its own.
        embeddings: Of `init_from`: keep its embeddings, or draw new ones for the task's tokens.
        arm: Name under which runs are compared. Default: after what the model starts as.
    """

    init: str = "mamba-ssm"
    init_from: str | None = None
    embeddings: Literal["keep", "redraw"] = "keep"
    arm: str = ""


InitOptions = with_options(_InitOptions, {name: inits[name] for name in inits})


def arm_name(options: Any) -> str:
    """`arm`, or what the model starts as: "default", "mimetic A+BC c=4", "transplant 3", "shuffled 3", ..."""
    if options.arm:
        return options.arm
    if options.init_from:
        return "fine-tuned"
    if options.init not in inits:
        return options.init
    init: Any = inits[options.init]
    given = {field: getattr(options, name) for field, name in options_of(init).items()}
    given = {field: value for field, value in given.items() if value not in (None, ())}
    parts = [init.arm(options.init, given)]
    # Tuples first: which parts of a layer, and which layers.
    for field in sorted(given, key=lambda name: not isinstance(given[name], tuple)):
        in_arm = option_of(init.__dataclass_fields__[field]).in_arm
        if in_arm is not None and given[field] is not False:
            parts.append(in_arm(options_of(init)[field], given[field]))
    return " ".join(parts)[:_LONGEST_ARM]
