"""A logit's terms as a plain JSON file, which can be drawn without the model.

    {"format": "ssmlens attribution", "version": 1, "model": …, "prompt": …, "attributes": {…},
     "tokens": [one string a source] or null, "terms": [{"term", "kind", "layer", "module", "value", "by_source"?}]}

It holds each term's value, in total and by source token. The values of heads and taps are only in the Dataset and its
netCDF file.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ssmlens.errors import SsmlensError
from ssmlens.files.plain_json import read_object
from ssmlens.names import LAYER, MIXER, SOURCE, TERM

FORMAT = "ssmlens attribution"
VERSION = 1

_FIRST_BYTES = json.dumps({"format": FORMAT}).removesuffix("}").encode()
_MAX_BYTES = 1 << 28
_MAX_CHARACTERS = 1 << 22  # of a text
_INTEGERS = ("position", "token", "against")
_NUMBERS = ("logit", "sum", "largest_logit", "closure", "soft_cap")
_TEXTS = ("token_text", "against_text")


def attribution_json(data: xr.Dataset, model: str, prompt: str) -> bytes:
    """Encode a Dataset that `ssmlens.attribute` returned.

    Args:
        data: The terms of a logit.
        model: The model's name.
        prompt: The prompt as text, or its token ids.
    """
    rows: dict[str, list[float]] = {}
    if "by_source" in data:
        rows = dict(
            zip(data[MIXER].values.tolist(), data["by_source"].values.tolist(), strict=True)
        )
    columns = ("kind", LAYER, "module", "value")
    terms = [
        {TERM: label, **{name: data[name].values[n].item() for name in columns}}
        | ({"by_source": rows[label]} if label in rows else {})
        for n, label in enumerate(data[TERM].values.tolist())
    ]
    strings = data["token_string"].values.tolist() if "token_string" in data.coords else None
    page = {
        **{"format": FORMAT, "version": VERSION, "model": model, "prompt": prompt},
        **{"attributes": dict(data.attrs), "tokens": strings, "terms": terms},
    }
    return json.dumps(page, allow_nan=False).encode()


def is_attribution(path: Path) -> bool:
    """Whether a file is an attribution file, by its name and first bytes."""
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return stream.read(len(_FIRST_BYTES)) == _FIRST_BYTES
    except OSError:
        return False


def open_attribution(path: Path) -> xr.Dataset:
    """Read the terms in a file, as `ssmlens.attribute` returns them, without heads and taps.

    The attributes `model` and `prompt` name the model and the prompt.

    Raises:
        SsmlensError: There is no such file, or it is not an attribution; the message says why.
    """
    try:
        page = read_object(path, _MAX_BYTES, refused=SsmlensError)
    except FileNotFoundError as error:
        raise SsmlensError(f"there is no {path}") from error
    try:
        return _dataset(page)
    except ValueError as error:
        raise SsmlensError(
            f"{path} is not a readable attribution: {error}; write it again with `ssmlens attribute`"
        ) from error


def _dataset(page: Mapping[str, Any]) -> xr.Dataset:
    if page.get("format") != FORMAT or page.get("version") != VERSION:
        raise ValueError(f"its format is not {FORMAT!r}, version {VERSION}")
    terms = _list(page, "terms")
    if not terms or not all(isinstance(term, dict) for term in terms):
        raise ValueError("it has no terms")
    labels = [_text(term, TERM) for term in terms]
    if len(set(labels)) != len(labels):
        raise ValueError("two terms have the same name")
    data = xr.Dataset(
        {"value": (TERM, [_number(term, "value") for term in terms])},
        coords={
            TERM: labels,
            "kind": (TERM, [_text(term, "kind") for term in terms]),
            LAYER: (TERM, [_integer(term, LAYER) for term in terms]),
            "module": (TERM, [_text(term, "module") for term in terms]),
        },
        attrs={name: _text(page, name) for name in ("model", "prompt")},
    )
    attributes = page.get("attributes")
    if not isinstance(attributes, dict):
        raise ValueError("it has no attributes")
    data.attrs |= {name: _integer(attributes, name) for name in _INTEGERS}
    data.attrs |= {name: _number(attributes, name) for name in _NUMBERS}
    data.attrs |= {name: _text(attributes, name) for name in _TEXTS if name in attributes}
    return _add_sources(data, terms, page)


def _add_sources(
    data: xr.Dataset, terms: list[dict[str, Any]], page: Mapping[str, Any]
) -> xr.Dataset:
    """Add the values by source token, where any term is split."""
    split = {term[TERM]: _list(term, "by_source") for term in terms if "by_source" in term}
    if not split:
        return data
    sources = len(next(iter(split.values())))
    for label, row in split.items():
        if len(row) != sources or not all(map(_is_number, row)):
            raise ValueError(f"the sources of {label!r} are not {sources} numbers")
    if not 0 <= data.attrs["position"] < sources:
        raise ValueError(f"its position is not among its {sources} tokens")
    rows = np.array(list(split.values()), dtype=np.float64)
    data = data.assign(by_source=((MIXER, SOURCE), rows)).assign_coords({MIXER: list(split)})
    if page.get("tokens") is None:
        return data
    strings = _list(page, "tokens")
    if len(strings) != sources or not all(isinstance(string, str) for string in strings):
        raise ValueError(f"its tokens are not {sources} strings")
    return data.assign_coords(token_string=(SOURCE, strings))


def _list(page: Mapping[str, Any], name: str) -> list[Any]:
    value = page.get(name)
    if not isinstance(value, list):
        raise ValueError(f"{name} is not a list")
    return value


def _text(page: Mapping[str, Any], name: str) -> str:
    value = page.get(name)
    if not isinstance(value, str) or len(value) > _MAX_CHARACTERS:
        raise ValueError(f"{name} is not a text")
    return value


def _integer(page: Mapping[str, Any], name: str) -> int:
    value = page.get(name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} is not a whole number")
    return value


def _number(page: Mapping[str, Any], name: str) -> float:
    value: Any = page.get(name)
    if not _is_number(value):
        raise ValueError(f"{name} is not a number")
    return float(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
