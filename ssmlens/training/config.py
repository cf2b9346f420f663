"""The config of a training run: in parts, each declared beside the code that it configures; its fields are flat."""

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ssmlens.errors import UsageError
from ssmlens.files.plain_json import read_object
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
"""The parts of a config by name. `Attributes` of the part's class, or of its entries' classes, document its options."""

_MOST_BYTES = 1 << 20
START = "start"
"""Key in config.json: the names of the fields that define how the model starts."""

# Fields of the first config files. They are always written: the names of run folders depend on them.
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
    """A training run: task, model, init, optimiser, evaluation and training.

    >>> TrainConfig(task="copy", length=50, init="mimetic", learning_rate=3e-3)

    The fields are those of its parts, see `PARTS`: an option that a task or an init declares is a field here. Options
    of a task, mixer or init that are left out take its defaults. `training.plan.check` checks the config.
    """

    @property
    def arm_name(self) -> str:
        """Name under which runs are compared; see `init_options.arm_name`."""
        return arm_name(self)

    @property
    def name(self) -> str:
        """Name for the run's folder: task, arm, learning rate and seed, such as copy-mimetic-lr0.003-seed0."""
        arm = re.sub(r"[^\w.+=-]+", "-", self.arm_name)
        return f"{self.task}-{arm}-lr{self.learning_rate:g}-seed{self.seed}"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths to measure accuracy at; by default the task's own, or the training length and twice that."""
        of_task = tasks[self.task].exam_lengths if self.task in tasks else None
        return self.eval_lengths or of_task or (self.length, 2 * self.length)

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for config.json, with `arm` filled in; equal for equal training.

        Options added after the first version are omitted at their defaults, so a config keeps its digest when options
        are added.
        """
        values: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if _first_name(field) in _FIRST or value != field.default:
                values[field.name] = _plain(value, "float" in str(field.type))
        return values | {"arm": self.arm_name}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Build the config from `to_dict` or from a config.json; its list `start` is ignored.

        Raises:
            UsageError: A field does not exist, or its value has another type.
        """
        renamed = {_first_name(field): field.name for field in dataclasses.fields(cls)}
        values = {renamed.get(name, name): value for name, value in values.items() if name != START}
        fields = list(renamed.values())
        for name in values:
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UsageError(f"a training config has no {name}{hint}")
        checked: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        check_types(checked, cls)
        return cls(**checked)

    @classmethod
    def read(cls, file: Path) -> "TrainConfig":
        """Read the config from a JSON file of its fields, such as a run's config.json.

        Raises:
            UsageError: The file cannot be read, or does not hold a config.
        """
        try:
            values = read_object(file, _MOST_BYTES, links=True, refused=UsageError)
        except FileNotFoundError:
            raise UsageError(f"{file} cannot be read: there is no such file") from None
        return cls.from_dict(values)

    def digest(self) -> str:
        """Compute the sha256 of `to_dict` under the fields' first names: it names the run's folder in a sweep."""
        first = {field.name: _first_name(field) for field in dataclasses.fields(self)}
        values = {first[name]: value for name, value in self.to_dict().items()}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _first_name(field: dataclasses.Field[Any]) -> str:
    """Return the name that this field had when it was added."""
    return option_of(field).was or field.name


def part_of(part: type) -> frozenset[str]:
    """Return the names of a part's fields."""
    return frozenset(field.name for field in dataclasses.fields(part))


STARTS = part_of(InitOptions)
"""Fields that define how a model starts: arms differ in them."""


def check_types(values: Mapping[str, Any], config: type = TrainConfig) -> None:
    """Raise UsageError, naming the field, if a value does not have the type of its field."""
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    kinds, every = get_type_hints(config), CollectionCheckStrategy.ALL_ITEMS
    for name, value in values.items():
        try:
            check_type(value, kinds[name], collection_check_strategy=every)
        except TypeCheckError:
            raise UsageError(f"`{name}` is {_type_name(kinds[name])}, not {value!r}") from None


def _type_name(kind: Any) -> str:
    """Return a readable name of a type."""
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _plain(value: Any, floats: bool) -> Any:
    """Convert a value for JSON; where a float is allowed, ints become floats, so that 1 and 1.0 are the same."""
    if isinstance(value, tuple):
        return [_plain(part, floats) for part in value]
    return float(value) if floats and value is not None else value
