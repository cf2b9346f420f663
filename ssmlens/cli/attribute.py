"""`ssmlens attribute`."""

import dataclasses
from pathlib import Path
from typing import Any

from ssmlens.cli.command import Result
from ssmlens.cli.model_options import ModelOptions, load_requested
from ssmlens.cli.progress import progress
from ssmlens.errors import UsageError
from ssmlens.text_table import text_table

_SOURCES = 5  # source tokens per term in the table


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributeCommand(ModelOptions):
    """Split a logit into the terms of embedding, layers, heads and source tokens; report the closure of their sum.

    The final norm is frozen at its value. Every term is computed from its own module's output; none is a remainder.
    """

    prompt: str
    """The prompt, as text; with --tokens, token ids such as "3 17 4"."""
    tokens: bool = False
    """Read the prompt as token ids."""
    position: int = -1
    """Position whose next token is predicted; negative positions count from the end."""
    token: str | None = None
    """Token whose logit is split, as text or as an id. Default: the most likely one."""
    against: str | None = None
    """Token whose logit is subtracted; needs --token."""
    taps: bool = False
    """Split each mixer further, by the taps of its convolution."""
    out: Path | None = None
    """File to write: figure (.html, .svg, .png, .pdf), all numbers (.nc, netCDF) or input of the dashboard (.json)."""
    overwrite: bool = False
    """Replace the file if it exists."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Compute the terms, write the file, and return the table."""
        from ssmlens.attribution.logit import attribute

        self._check_options()
        model = load_requested(self)
        token = None if self.token is None else _token(model, self.token)
        if token is not None and self.against is not None:
            token = (token, _token(model, self.against))
        with progress(f"attributing {self.model}") as tell:
            result = attribute(
                model,
                _ids(self.prompt) if self.tokens else self.prompt,
                self.position,
                token,
                taps=self.taps,
                progress=tell,
            )
        if self.out is not None:
            _write(result, self.out, self.model, self.prompt)
        return Result(_plain(result, self.out), _text(result, self.out))

    def _check_options(self) -> None:
        from ssmlens.plot.image import FIGURE_FILES

        if self.against is not None and self.token is None:
            raise UsageError("--against needs --token")
        if self.out is None:
            return
        forms = (*FIGURE_FILES, ".nc", ".json")
        if self.out.suffix.lower() not in forms:
            raise UsageError(f"--out {self.out.name} ends in none of {', '.join(forms)}")
        if self.out.exists() and not self.overwrite:
            raise UsageError(f"{self.out} exists; pass --overwrite, or choose another --out")


def _ids(text: str) -> list[int]:
    try:
        return [int(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise UsageError(f'--prompt {text!r} is not a list of token ids such as "3 17 4"') from None


def _token(model: Any, text: str) -> int:
    """Return a token's id, from its text or from the id itself."""
    tokenizer = model.tokenizer
    if tokenizer is not None and not text.isdigit():
        ids = tokenizer.encode(text)
        if len(ids) == 1:
            return ids[0]
        raise UsageError(f"{text!r} is {len(ids)} tokens of this model; give one token, or its id")
    if not text.isdigit():
        raise UsageError(f"{text!r} is not a token id, and this model has no tokenizer")
    return int(text)


def _write(result: Any, out: Path, model: str, prompt: str) -> None:
    from ssmlens.files.new import write_file
    from ssmlens.plot import attribution
    from ssmlens.plot.image import figure_file
    from ssmlens.plot.number_files import as_netcdf
    from ssmlens.store.attribution_file import attribution_json

    form = out.suffix.lower()
    if form == ".json":
        file = attribution_json(result, model, prompt)
    elif form == ".nc":
        file = as_netcdf(result)
    else:
        file = figure_file(attribution(result), form)
    write_file(out, file)


def _plain(result: Any, out: Path | None) -> dict[str, Any]:
    """Return the terms without heads: a value for each term, and its values by source token."""
    rows = {}
    if "by_source" in result:
        rows = dict(
            zip(result.mixer.values.tolist(), result.by_source.values.tolist(), strict=True)
        )
    terms = []
    for n, label in enumerate(result.term.values.tolist()):
        term = {
            "term": label,
            "kind": str(result["kind"].values[n]),
            "layer": int(result["layer"].values[n]),
            "module": str(result["module"].values[n]),
            "value": float(result["value"].values[n]),
        }
        terms.append(term | ({"by_source": rows[label]} if label in rows else {}))
    return dict(result.attrs) | {"terms": terms} | ({} if out is None else {"out": str(out)})


def _text(result: Any, out: Path | None) -> str:
    attributes = result.attrs
    head = [
        f"logit {attributes['logit']:.6g} of {_name(attributes, 'token')}"
        + (f" minus {_name(attributes, 'against')}" if attributes["against"] >= 0 else "")
        + f" at position {attributes['position']}",
        f"sum of the terms {attributes['sum']:.6g}: off by {attributes['closure']:.1e} of the largest logit",
    ]
    table = [["term", "adds", "largest sources"]]
    by_source = {}
    if "by_source" in result:
        by_source = dict(zip(result.mixer.values.tolist(), result.by_source.values, strict=True))
    for label, value in zip(result.term.values.tolist(), result.value.values, strict=True):
        table.append([label, f"{value:.4g}", _largest(result, by_source.get(label))])
    lines = [*head, "", text_table(table, left=(0, 2))]
    return "\n".join(lines if out is None else [*lines, "", str(out)])


def _largest(result: Any, row: Any) -> str:
    """Name the largest sources of a term."""
    if row is None:
        return ""
    strings = result.coords["token_string"].values if "token_string" in result.coords else None
    largest = sorted(range(len(row)), key=lambda at: -abs(row[at]))[:_SOURCES]
    names = [str(at) if strings is None else f"{at} {strings[at]!s}" for at in largest]
    return ", ".join(f"{name} ({row[at]:.3g})" for name, at in zip(names, largest, strict=True))


def _name(attributes: Any, which: str) -> str:
    text = attributes.get(f"{which}_text")
    return str(attributes[which]) if text is None else f"{text!r} ({attributes[which]})"


COMMAND = AttributeCommand
