"""The terms of a logit: of every module one, those of a mixer split by heads and sources."""

import dataclasses
from collections.abc import Callable, Iterator
from itertools import count

from ssmlens import names
from ssmlens.attribution.direct_path import DirectPath, Part
from ssmlens.attribution.mixing import Split, split_mixing
from ssmlens.attribution.tracer import BIAS
from ssmlens.errors import ClosureError
from ssmlens.recorder.closure import TOLERANCE, tolerance

Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Term:
    """One summand of a logit.

    Attributes:
        label: Its name, unique: "embedding", "3 mamba", "3 mlp", "3 mamba bias", "head bias".
        kind: "embedding", a kind of block such as "mamba" (`names.BLOCK_KINDS`), "mlp" or "bias".
        layer: Index of its block; −1 outside of the blocks.
        module: Dotted name of the module that it comes from; "" for the biases of final norm and head.
        value: What it adds.
        split: How it splits by heads and sources, where it does.
    """

    label: str
    kind: str
    layer: int
    module: str
    value: float
    split: Split | None = None


def terms_of(
    path: DirectPath,
    position: int,
    taps: bool = False,
    joint: bool = False,
    progress: Progress | None = None,
) -> list[Term]:
    """Every term, those of a block in the order its modules ran.

    Raises:
        ClosureError: A block adds something else than its modules' outputs, or a mixer something else than its heads
            and biases. Names it.
    """
    largest = float(path.readout.logits.abs().max())
    allowed = largest * coarsest(path)
    for layer, left in path.unexplained.items():
        if not abs(left) <= allowed:
            raise ClosureError(_unexplained(layer, left))
    terms: list[Term] = []
    taken: set[str] = set()
    for number, part in enumerate(path.parts):
        if progress is not None:
            progress(number, len(path.parts), f"layer {part.layer}" if part.layer >= 0 else "")
        for term in _terms_of(part, position, taps, joint, largest):
            label = _unique(term.label, taken)
            taken.add(label)
            terms.append(dataclasses.replace(term, label=label))
    found = path.readout.biases(path.token, path.against).items()
    return [*terms, *(Term(name, BIAS, -1, "", value) for name, value in found)]


def coarsest(path: DirectPath) -> float:
    """The largest closure error to believe, as a share of the largest logit."""
    of_mixers = [tolerance(p.call.output, p.call.site.adapter) for p in path.parts if p.call]
    exact = path.readout.head.weight.element_size() >= 4
    return max([TOLERANCE["float32" if exact else "bfloat16"], *of_mixers])


def _terms_of(part: Part, position: int, taps: bool, joint: bool, largest: float) -> Iterator[Term]:
    name = part.kind if part.layer < 0 else f"{part.layer} {part.kind}"
    call = part.call
    if call is None or call.site.adapter.unclosable(call.site.module):
        yield Term(name, part.kind, part.layer, part.module, part.value)
        return
    split = split_mixing(call, position, part.reach, taps, joint)
    wrong = abs(split.whole - part.value)
    if not wrong <= largest * tolerance(call.output, call.site.adapter):
        raise ClosureError(
            f"layer {part.layer}: the heads of {part.module} add {split.whole:.4g} to the logit, "
            f"the module itself {part.value:.4g}: its terms must not be believed"
        )
    yield Term(name, part.kind, part.layer, part.module, split.own, split)
    rest = {
        "convolution bias": (BIAS, split.offset),
        "bias": (BIAS, split.bias),
        "gated mlp": (names.MLP, split.beside),
    }
    for what, (kind, value) in rest.items():
        if value:
            yield Term(f"{name} {what}", kind, part.layer, part.module, value)


def _unexplained(layer: int, left: float) -> str:
    if layer < 0:
        return f"the first block is given something else than the embedding: {left:.4g} of the logit has no module"
    return (
        f"layer {layer} adds to the residual stream what is no output of its mixer, attention or MLP: "
        f"{left:.4g} of the logit has no module, and attribute does not guess it"
    )


def _unique(label: str, taken: set[str]) -> str:
    if label not in taken:
        return label
    return next(f"{label} {n}" for n in count(2) if f"{label} {n}" not in taken)
