"""What is trained: one flat dataclass, which is the config file and the options of the command line."""

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ssmlens.errors import UsageError

Number = float | int


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run: task, model, how it starts, how it learns and what is measured.

    Options of a task, mixer or init that are left out are its own defaults. Imports nothing heavy, so that the command
    line can show its options at once; `training.build` makes the task and the model.
    """

    task: str = "copy"
    """What is learned: copy, stack, recall, sort, ngram or repeat."""
    length: int = 20
    """The task's length, at most: letters of a string, pairs of associative recall."""
    min_length: int | None = None
    """Train on lengths from here to --length, uniformly. Default: on --length alone."""
    letters: int | None = None
    """The task's number of letters (keys and values together, in recall)."""
    layout: str | None = None
    """How the task lays out a row: default, or another that it knows (jelassi, zoology)."""
    packing: bool | None = None
    """Fill rows of --context tokens with one example after another. Default: as the layout has it."""
    context: int | None = None
    """Tokens of a packed row."""
    n: int | None = None
    """ngram: letters of the cue."""
    answer: int | None = None
    """ngram: letters of the answer; 0 for all that follow."""
    cue: str | None = None
    """ngram: suffix or prefix."""
    power: Number | None = None
    """recall, zoology's layout: power of the gaps."""
    vocab_size: int | None = None
    """repeat: ids are drawn below this."""
    first_token: int | None = None
    """repeat: lowest id drawn."""

    mixer: str = "Mamba2"
    """The mixer of every block: Mamba1, Mamba2, Mamba3, ..."""
    d_model: int = 64
    """Width of the hidden states."""
    n_layer: int = 2
    """Number of blocks."""
    d_state: int | None = None
    """State size of the mixer."""
    d_conv: int | None = None
    """Taps of the mixer's convolution."""
    expand: int | None = None
    """Inner width of the mixer over d_model."""
    headdim: int | None = None
    """Channels of a head of the mixer."""
    ngroups: int | None = None
    """Groups of heads that share B and C."""
    d_intermediate: int = 0
    """Width of a gated MLP after each mixer; 0 for none."""
    attention_layers: tuple[int, ...] = ()
    """Blocks with causal self-attention instead of the mixer."""
    attention_heads: int = 1
    """Heads of that attention."""
    linear_attention_layers: tuple[int, ...] = ()
    """Blocks with causal linear attention instead of the mixer."""
    linear_attention: str = "MambaLinearAttention"
    """Its class: MambaLinearAttention (in the place of the scan) or LinearAttention (by itself)."""
    linear_attention_state: int | None = None
    """MambaLinearAttention: width of its queries and keys."""

    init: str = "mamba-ssm"
    """How the model starts: mamba-ssm (the library's default), transformers, mimetic or transplant."""
    init_layers: tuple[int, ...] = ()
    """mimetic, transplant: blocks that are set. Default: all with a Mamba mixer."""
    components: tuple[str, ...] = ()
    """mimetic: some of A, delta, BC, conv. Default: all that the paper sets in this mixer."""
    c: Number | None = None
    """mimetic: strength of A."""
    a_rule: str | None = None
    """mimetic: power, power_no_first, constant or offset."""
    w_delta_scale: Number | None = None
    """mimetic: what W_Δ is multiplied by."""
    bc_mix: tuple[Number, Number] | None = None
    """mimetic: weights of W_C's own draw and of W_B in W_C."""
    bc_rescale: str | None = None
    """mimetic: none, var or identity."""
    conv_scope: str | None = None
    """mimetic: all, bc or tie_bc."""
    keep_conv_bias: bool = False
    """mimetic: leave the convolution's bias as it was drawn."""
    std: Number | None = None
    """transformers: standard deviation of linear weights and embeddings."""
    teacher: str | None = None
    """transplant: the teacher, a shipped model, a folder or a hub id."""
    teacher_layer: int | None = None
    """transplant: the teacher's block that the layers start as."""
    scope: str | None = None
    """transplant: block, mixer, ssm or bc."""
    shuffled: bool = False
    """transplant: permute the entries of each weight: the control."""
    init_from: str | None = None
    """Fine-tune this checkpoint (mamba_ssm's layout) instead; the architecture is its own."""
    embeddings: Literal["keep", "redraw"] = "keep"
    """--init-from: keep its embeddings, or draw new ones for the task's tokens."""
    arm: str = ""
    """Name under which runs are compared. Default: after what the model starts as."""

    seed: int = 0
    """Seed of weights and data."""
    steps: int = 2000
    """Training steps."""
    batch: int = 64
    """Rows of a training batch."""
    learning_rate: Number = 1e-3
    """Highest learning rate of AdamW."""
    warmup: int = 100
    """Steps over which the learning rate rises to it."""
    schedule: Literal["linear", "cosine"] = "linear"
    """How it falls to 0 by the last step."""
    clip: Number = 1.0
    """Largest norm of the gradient; 0 for no limit."""
    weight_decay: Number = 0.1
    """Weight decay of matrices."""
    decay_ssm: bool = False
    """Decay A_log, D, dt_bias, biases and norms as well."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast of the forward pass; weights stay in float32."""

    eval_lengths: tuple[int, ...] = ()
    """Lengths to measure accuracy at. Default: --length and twice that."""
    eval_every: int = 200
    """Steps between measurements."""
    eval_count: int = 128
    """Held-out examples of each length."""
    free_running: bool = False
    """Measure accuracy also where the model reads its own answers: char_free and string_free."""
    capture_at: tuple[int, ...] = ()
    """Steps at which the layers' maps are captured, into captures/step-N.h5."""

    @property
    def arm_name(self) -> str:
        """`arm`, or what the model starts as: "default", "mimetic A+BC c=4", "transplant 3", "shuffled 3", ..."""
        if self.arm:
            return self.arm
        if self.init_from:
            return "fine-tuned"
        parts = ["default" if self.init == "mamba-ssm" else self.init]
        if self.teacher_layer is not None:
            parts = ["shuffled" if self.shuffled else "transplant", str(self.teacher_layer)]
        parts += ["+".join(self.components)] if self.components else []
        if self.init_layers:
            parts.append("layers " + ",".join(map(str, self.init_layers)))
        told = ("c", "a_rule", "w_delta_scale", "bc_rescale", "conv_scope", "scope", "std")
        parts += [f"{name}={_short(v)}" for name in told if (v := getattr(self, name)) is not None]
        return " ".join(parts)[:64]

    @property
    def name(self) -> str:
        """A name for its run's folder: task, arm, learning rate and seed, such as copy-mimetic-lr0.003-seed0."""
        arm = re.sub(r"[^\w.+=-]+", "-", self.arm_name)
        return f"{self.task}-{arm}-lr{self.learning_rate:g}-seed{self.seed}"

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths that accuracy is measured at, that of training among them."""
        return self.eval_lengths or (self.length, 2 * self.length)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON, `arm` spelt out: what config.json holds, the same for the same training."""
        values = dataclasses.asdict(self) | {"arm": self.arm_name}
        for field in dataclasses.fields(self):
            value: Any = values[field.name]
            if isinstance(value, tuple):
                floats = "float" in str(field.type)
                values[field.name] = [float(part) if floats else part for part in value]
            elif value is not None and "float" in str(field.type):
                values[field.name] = float(value)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """The config of `to_dict`. Raises UsageError for a field that there is none of, or of another type."""
        fields = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in fields:
                near = difflib.get_close_matches(name, fields, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise UsageError(f"a training config has no {name}{hint}")
        held: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        check_types(held)
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
        """sha256 of `to_dict`: the config's identity."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()


STARTS = frozenset(
    {
        *("arm", "init", "init_layers", "components", "c", "a_rule", "w_delta_scale", "bc_mix"),
        *("bc_rescale", "conv_scope", "keep_conv_bias", "std", "teacher", "teacher_layer", "scope"),
        *("shuffled", "init_from", "embeddings"),
    }
)
"""Fields of a config that say what a model starts as: what arms differ in."""


def check_types(values: Mapping[str, Any]) -> None:
    """Raise UsageError, which names the flag, where the value of a config's field is not of its type."""
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

    kinds, every = get_type_hints(TrainConfig), CollectionCheckStrategy.ALL_ITEMS
    for name, value in values.items():
        try:
            check_type(value, kinds[name], collection_check_strategy=every)
        except TypeCheckError:
            raise UsageError(f"{flag(name)} is {_told(kinds[name])}, not {value!r}") from None


def flag(name: str) -> str:
    """The option of the command line that sets a field."""
    return f"--{name.replace('_', '-')}"


def _told(kind: Any) -> str:
    """A type, as a reader knows it."""
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind)


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
