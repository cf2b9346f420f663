"""What is trained: a config in parts, each declared by what it configures, with one flat set of fields."""

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ssmlens.errors import UsageError
from ssmlens.options import option_of
from ssmlens.tasks.task import tasks
from ssmlens.training.architecture import ModelOptions
from ssmlens.training.evaluation import EvaluationOptions
from ssmlens.training.init_options import InitOptions, arm_name
from ssmlens.training.optimiser import OptimiserOptions
from ssmlens.training.task_options import TaskOptions
from ssmlens.training.training_options import TrainingOptions

PARTS: dict[str, Any] = {
    "task": TaskOptions,
    "model": ModelOptions,
    "init": InitOptions,
    "optimiser": OptimiserOptions,
    "evaluation": EvaluationOptions,
    "training": TrainingOptions,
}
"""The parts of a config by name. What a part says of an option is in the `Attributes` of its class or its entries'."""

START = "start"
"""In config.json beside the fields: the names of those that say how the model starts."""

# Fields of the first config files, which are always written: the names of their folders depend on them.
_FIRST = frozenset(
    {
        *("task", "length", "min_length", "letters", "layout", "packing", "context", "n", "answer"),
        *("cue", "power", "vocab_size", "first_token", "mixer", "d_model", "n_layer", "d_state"),
        *("d_conv", "expand", "headdim", "ngroups", "d_intermediate", "attention_layers"),
        *("attention_heads", "linear_attention_layers", "linear_attention"),
        *("linear_attention_state", "init", "init_layers", "components", "c", "a_rule"),
        *(
            "w_delta_scale",
            "bc_mix",
            "bc_rescale",
            "conv_scope",
            "keep_conv_bias",
            "std",
            "teacher",
        ),
        *("teacher_layer", "scope", "shuffled", "init_from", "embeddings", "arm", "seed", "steps"),
        *("batch", "learning_rate", "warmup", "schedule", "clip", "weight_decay", "decay_ssm"),
        *("precision", "eval_lengths", "eval_every", "eval_count", "free_running", "capture_at"),
    }
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig(
    TrainingOptions, EvaluationOptions, OptimiserOptions, InitOptions, ModelOptions, TaskOptions
):
    """A training run: task, model, how it starts, how it learns and what is measured.

    >>> TrainConfig(task="copy", length=50, init="mimetic", learning_rate=3e-3)

    The fields are those of its parts, see `PARTS`: an option that a task or an init declares is a field here. Options
    of a task, mixer or init that are left out are its own. `training.plan.check` says whether it can be trained.
    """

    @property
    def arm_name(self) -> str:
        """See `init_options.arm_name`: under which runs are compared."""
        return arm_name(self)

    @property
    def name(self) -> str:
        """A name for its run's folder: task, arm, learning rate and seed, such as copy-mimetic-lr0.003-seed0."""
        arm = re.sub(r"[^\w.+=-]+", "-", self.arm_name)
        return f"{self.task}-{arm}-lr{self.learning_rate:g}-seed{self.seed}"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths that accuracy is measured at; by default the task's own, or that of training and twice that."""
        own = tasks[self.task].exam_lengths if self.task in tasks else None
        return self.eval_lengths or own or (self.length, 2 * self.length)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, `arm` spelt out: what config.json holds, the same for the same training.

        Options that are younger than the first files are left out where they have their default, so that a config
        says the same, and has the same digest, as before there was such an option.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if _first_name(field) in _FIRST or value != field.default:
                values[field.name] = _plain(value, "float" in str(field.type))
        return values | {"arm": self.arm_name}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The config of `to_dict`, or of a config.json, whose list `start` is left aside.

        Raises:
            UsageError: There is no such field, or its value is of another type.
        """
        renamed = {_first_name(field): field.name for field in dataclasses.fields(cls)}
        values = {renamed.get(name, name): it for name, it in values.items() if name != START}
        fields = list(renamed.values())
        for name in values:
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UsageError(f"a training config has no {name}{hint}")
        held: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        check_types(held, cls)
        return cls(**held)

    @classmethod
    def read(cls, file: Path) -> "TrainConfig":
        """The config in a JSON file of its fields, such as a run's config.json.

        Raises:
            UsageError: The file cannot be read, or is no such file.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{file} cannot be read: {error}") from None
        if not isinstance(values, dict):
            raise UsageError(f"{file} is no training config: it must be {{field: value, ...}}")
        return cls.from_dict(values)

    def digest(self) -> str:
        """sha256 of `to_dict`, under the fields' first names: the identity that names its folder in a sweep."""
        first = {field.name: _first_name(field) for field in dataclasses.fields(self)}
        values = {first[name]: value for name, value in self.to_dict().items()}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _first_name(field: dataclasses.Field[Any]) -> str:
    """What the first files that had this field called it."""
    return option_of(field).was or field.name


def part_of(part: type) -> frozenset[str]:
    """The fields of a part."""
    return frozenset(field.name for field in dataclasses.fields(part))


STARTS = part_of(InitOptions)
"""Fields that say what a model starts as: what arms differ in."""


def check_types(values: Mapping[str, Any], config: type = TrainConfig) -> None:
    """Raise UsageError, which names the flag, where the value of a config's field is not of its type."""
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    kinds, every = get_type_hints(config), CollectionCheckStrategy.ALL_ITEMS
    for name, value in values.items():
        try:
            check_type(value, kinds[name], collection_check_strategy=every)
        except TypeCheckError:
            raise UsageError(f"`{name}` is {_told(kinds[name])}, not {value!r}") from None


def _told(kind: Any) -> str:
    """A type, as a reader knows it."""
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _plain(value: Any, floats: bool) -> Any:
    """A value for JSON; what may be a float is one, so that 1 and 1.0 are the same."""
    if isinstance(value, tuple):
        return [_plain(part, floats) for part in value]
    return float(value) if floats and value is not None else value
