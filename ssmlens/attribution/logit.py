"""`attribute`: a logit as a sum over embedding, layers, heads, source tokens and convolution taps."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor, nn

from ssmlens import names
from ssmlens.attribution.direct_path import DirectPath, trace
from ssmlens.attribution.terms import Progress, Term, closure_limit, terms_of
from ssmlens.errors import ClosureError, UsageError
from ssmlens.names import HEAD, MIXER, SOURCE, TAP, TERM
from ssmlens.recorder.prompts import Prompts, prompts_for, vocabulary_size


def attribute(
    model: nn.Module,
    prompt: str | Sequence[int] | Tensor | Prompts,
    position: int = -1,
    token: int | tuple[int, int] | None = None,
    *,
    taps: bool = False,
    joint: bool = False,
    attention_mask: Tensor | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Split a logit into the contributions of the embedding and every layer, head and source token.

        terms = ssmlens.attribute(model, "abcd|abc")
        terms.value.to_series()                         # one value per term; they sum to the logit
        terms.by_source.sum("mixer")                    # by source token
        terms.attrs["closure"]

    With the final norm frozen at its value (s the scale, g the weight) the logit of v at position p is

        logit(p, v) = Σ over terms of (s ⊙ g ⊙ W_U[v]) · (the term's addition to the residual stream at p)  + biases.

    A term is the contribution of one module: embedding, mixer, attention, MLP. It includes the multipliers and frozen
    norms on its path. A mixer's term is Σ over heads h and sources j of W_out diag(r) (M_h[p, j] + D at j = p) x_j; r
    is gate and norm, frozen. Attention splits in the same way if its weights and values can be read; otherwise it is
    one term. No term is a remainder: the sum is compared with the logit that the model computed.

    These are direct effects: a module's addition at p itself. Its effect through later modules is part of their terms.
    Norms are frozen here; with a knock-out they change (`ssmlens.edits`).

    Args:
        model: A language model that an adapter reads.
        prompt: Text, token ids, or a prompt; one prompt only.
        position: The token p whose next token is predicted; negative positions count from the end.
        token: The token v; or (v, w): the logit of v minus that of w. None: the likeliest token.
        taps: Whether to split mixers through their convolution too: sources are then the convolution's input tokens,
            and its bias is a term.
        joint: Whether to return values by head and source together; their size is mixers × heads × tokens.
        attention_mask: 1 at real tokens, 0 at padding [token], for models that take one.
        progress: Called with (parts done, parts, label).

    Returns:
        value (term): each term's contribution, in logits; coordinates `kind` ("embedding", a kind of block such as
            "mamba" or "attention", "mlp", "bias"), `layer` (−1: none) and `module`.
        by_head (mixer, head) and by_source (mixer, source): the terms that split; `mixer` holds their labels. NaN
            beyond a layer's heads. `source` counts tokens of the prompt; with a tokenizer, `token_string` has their
            text.
        by_tap (mixer, tap, source), with `taps`: tap a reads the token a places back.
        by_head_and_source (mixer, head, source), with `joint`.
        Attributes: position, token, against (−1: none), logit (before a soft cap), sum, largest_logit (the largest
            magnitude at p), closure (|sum − logit| / largest_logit), soft_cap (0: none); with a tokenizer token_text
            and against_text.

    Raises:
        UsageError: The prompt, position or token does not fit the model.
        UnsupportedModelError: The model has no head, no final norm, or several streams that attribute cannot freeze.
        ClosureError: The terms of a block or mixer do not sum to its contribution; the message names it.
    """
    prompts = _prompt(model, prompt)
    count = prompts.length[0]
    if not -count <= position < count:
        raise UsageError(f"`position` {position} is out of range: the prompt has {count} tokens")
    position %= count
    embedding = next(m for m in model.modules() if isinstance(m, nn.Embedding))
    ids = prompts.padded().to(embedding.weight.device)
    mask = None if attention_mask is None else attention_mask.reshape(1, -1).to(ids.device)
    if mask is not None and mask.shape != ids.shape:
        raise UsageError(f"`attention_mask` has {mask.shape[1]} tokens, the prompt {count}")
    path = trace(model, ids, position, lambda logits: _choose(token, logits), mask)
    terms = terms_of(path, position, taps, joint, progress)
    data = _dataset(path, terms, position, taps)
    return _add_strings(data, getattr(model, "tokenizer", None), prompts)


def _prompt(model: Any, prompt: str | Sequence[int] | Tensor | Prompts) -> Prompts:
    prompts = prompts_for(model, prompt)
    if len(prompts) != 1:
        raise UsageError(f"attribute takes one prompt, not {len(prompts)}")
    prompts.check_vocabulary(vocabulary_size(model))
    return prompts


def _choose(token: int | tuple[int, int] | None, logits: Tensor) -> tuple[int, int | None]:
    if token is None:
        return int(logits.argmax()), None
    tokens = (token,) if isinstance(token, int) else tuple(token)
    for one in tokens:
        if not 0 <= one < len(logits):
            raise UsageError(
                f"`token` {one} is out of range: there are logits of 0..{len(logits) - 1}"
            )
    if len(tokens) == 1:
        return tokens[0], None
    first, second = tokens
    return first, second


def _add_strings(data: xr.Dataset, tokenizer: Any, prompt: Prompts) -> xr.Dataset:
    """Add the tokens' strings, if the model has a tokenizer."""
    if tokenizer is None:
        return data
    data.attrs |= {
        f"{name}_text": tokenizer.token_strings([data.attrs[name]])[0]
        for name in ("token", "against")
        if data.attrs[name] >= 0
    }
    strings = tokenizer.token_strings(prompt.tokens[0])
    return data.assign_coords(token_string=(SOURCE, strings)) if SOURCE in data.dims else data


def _dataset(path: DirectPath, terms: list[Term], position: int, taps: bool) -> xr.Dataset:
    logits = path.unembedding.logits
    logit = float(logits[path.token])
    if path.against is not None:
        logit -= float(logits[path.against])
    total, largest = sum(term.value for term in terms), float(logits.abs().max())
    closure = abs(total - logit) / largest if largest else abs(total - logit)
    if not closure <= closure_limit(path):
        raise ClosureError(
            f"the terms sum to {total:.6g}, the logit is {logit:.6g}: closure failed"
        )
    data = xr.Dataset(
        {"value": (TERM, [term.value for term in terms])},
        coords={
            TERM: [term.label for term in terms],
            "kind": (TERM, [term.kind for term in terms]),
            names.LAYER: (TERM, [term.layer for term in terms]),
            "module": (TERM, [term.module for term in terms]),
        },
        attrs={
            "position": position,
            "token": path.token,
            "against": -1 if path.against is None else path.against,
            "logit": logit,
            "sum": total,
            "largest_logit": largest,
            "closure": closure,
            "soft_cap": path.unembedding.soft_cap or 0.0,
        },
    )
    return data.assign(_splits(terms, taps))


def _splits(terms: list[Term], taps: bool) -> dict[str, Any]:
    """The variables of the terms that split."""
    splits = {term.label: term.split for term in terms if term.split}
    if not splits:
        return {}
    by_head, by_tap = (
        [getattr(split, name).cpu().numpy() for split in splits.values()]
        for name in ("by_head", "by_tap")
    )
    both = [s.by_head_and_source for s in splits.values() if s.by_head_and_source is not None]
    heads, most = (max(map(len, rows)) for rows in (by_head, by_tap))
    variables = {
        MIXER: (MIXER, list(splits)),
        "by_head": ((MIXER, HEAD), np.stack([_pad(row, heads, np.nan) for row in by_head])),
        "by_source": ((MIXER, SOURCE), np.stack([rows.sum(0) for rows in by_tap])),
    }
    if taps:
        rows = np.stack([_pad(rows, most, 0.0) for rows in by_tap])
        variables["by_tap"] = ((MIXER, TAP, SOURCE), rows)
    if both:
        rows = np.stack([_pad(rows.cpu().numpy(), heads, np.nan) for rows in both])
        variables["by_head_and_source"] = ((MIXER, HEAD, SOURCE), rows)
    return variables


def _pad(rows: np.ndarray, count: int, fill: float) -> np.ndarray:
    missing = [(0, count - len(rows)), *[(0, 0)] * (rows.ndim - 1)]
    return np.pad(rows, missing, constant_values=fill)
