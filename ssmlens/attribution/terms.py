"""The terms of a logit: one per module; a mixer's term is split by heads and sources."""

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
        module: Dotted name of its module; "" for the biases of final norm and head.
        value: Its contribution to the logit.
        split: Its split by heads and sources, if it has one.
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
    """All terms of a logit; those of a block are in the order in which its modules ran.

    Raises:
        ClosureError: A block adds more than its modules' outputs, or a mixer more than its heads and biases. The
            message names it.
    """
    largest = float(path.unembedding.logits.abs().max())
    allowed = largest * closure_limit(path)
    for layer, left in path.unexplained.items():
        if not abs(left) <= allowed:
            raise ClosureError(_unexplained(layer, left))
    terms: list[Term] = []
    used: set[str] = set()
    for number, part in enumerate(path.parts):
        if progress is not None:
            progress(number, len(path.parts), f"layer {part.layer}" if part.layer >= 0 else "")
        for term in _terms_of(part, position, taps, joint, largest):
            label = _unique(term.label, used)
            used.add(label)
            terms.append(dataclasses.replace(term, label=label))
    biases = path.unembedding.biases(path.token, path.against).items()
    return [*terms, *(Term(name, BIAS, -1, "", value) for name, value in biases)]


def closure_limit(path: DirectPath) -> float:
    """The largest acceptable closure error, as a share of the largest logit."""
    tolerances = [tolerance(p.call.output, p.call.site.adapter) for p in path.parts if p.call]
    exact = path.unembedding.head.weight.element_size() >= 4
    return max([TOLERANCE["float32" if exact else "bfloat16"], *tolerances])


def _terms_of(part: Part, position: int, taps: bool, joint: bool, largest: float) -> Iterator[Term]:
    name = part.kind if part.layer < 0 else f"{part.layer} {part.kind}"
    call = part.call
    if call is None or call.site.adapter.unclosable(call.site.module):
        yield Term(name, part.kind, part.layer, part.module, part.value)
        return
    split = split_mixing(call, position, part.reach, taps, joint)
    error = abs(split.total - part.value)
    if not error <= largest * tolerance(call.output, call.site.adapter):
        raise ClosureError(
            f"layer {part.layer}: the heads of {part.module} add {split.total:.4g} to the logit, "
            f"the module itself {part.value:.4g}: closure failed"
        )
    yield Term(name, part.kind, part.layer, part.module, split.heads, split)
    others = {
        "convolution bias": (BIAS, split.offset),
        "bias": (BIAS, split.bias),
        "gated mlp": (names.MLP, split.beside),
    }
    for source, (kind, value) in others.items():
        if value:
            yield Term(f"{name} {source}", kind, part.layer, part.module, value)


def _unexplained(layer: int, left: float) -> str:
    if layer < 0:
        return f"the first block's input is not the embedding alone: {left:.4g} of the logit has no module"
    return (
        f"layer {layer} adds something to the residual stream beyond the outputs of its mixer, attention and MLP: "
        f"{left:.4g} of the logit has no module, so it cannot be attributed"
    )


def _unique(label: str, used: set[str]) -> str:
    if label not in used:
        return label
    return next(f"{label} {n}" for n in count(2) if f"{label} {n}" not in used)
