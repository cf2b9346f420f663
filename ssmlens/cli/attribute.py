"""`ssmlens attribute`."""

import dataclasses
from pathlib import Path
from typing import Any

from ssmlens.cli.command import Result
from ssmlens.cli.model_options import ModelOptions, load_asked
from ssmlens.cli.progress import progress
from ssmlens.errors import UsageError
from ssmlens.text_table import text_table

_SOURCES = 5  # of each term, in the table


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributeCommand(ModelOptions):
    """Split a logit into what embedding, layers, heads and source tokens add to it, and say how far the sum closes.

    The final norm is frozen at its value. Every term is computed from its own module's output; none is a remainder.
    """

    prompt: str
    """The prompt, as text; with --tokens, token ids such as "3 17 4"."""
    tokens: bool = False
    """The prompt is token ids."""
    position: int = -1
    """The token whose next one is predicted; negative ones count from the end."""
    token: str | None = None
    """Whose logit: a token as text, or its id. Default: the likeliest one."""
    against: str | None = None
    """Whose logit is taken away; needs --token."""
    taps: bool = False
    """Split mixers on through their convolution, tap by tap."""
    out: Path | None = None
    """Write the figure (.html, .svg, .png, .pdf), all numbers (.nc, netCDF), or what the dashboard shows (.json)."""
    overwrite: bool = False
    """Replace the file if it exists."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Do it."""
        from ssmlens.attribution.logit import attribute

        self._check_options()
        model = load_asked(self)
        token = None if self.token is None else _token(model, self.token)
        if token is not None and self.against is not None:
            token = (token, _token(model, self.against))
        with progress(f"attributing {self.model}") as tell:
            found = attribute(
                model,
                _ids(self.prompt) if self.tokens else self.prompt,
                self.position,
                token,
                taps=self.taps,
                progress=tell,
            )
        if self.out is not None:
            _write(found, self.out, self.model, self.prompt)
        return Result(_plain(found, self.out), _text(found, self.out))

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
        raise UsageError(f'--prompt {text!r} is no row of token ids such as "3 17 4"') from None


def _token(model: Any, text: str) -> int:
    """A token's id, from its text or from the id itself."""
    tokenizer = model.tokenizer
    if tokenizer is not None and not text.isdigit():
        ids = tokenizer.encode(text)
        if len(ids) == 1:
            return ids[0]
        raise UsageError(f"{text!r} is {len(ids)} tokens of this model; give one, or a token's id")
    if not text.isdigit():
        raise UsageError(f"{text!r} is no token id, and this model has no tokenizer")
    return int(text)


def _write(found: Any, out: Path, model: str, prompt: str) -> None:
    from ssmlens.files.new import write_file
    from ssmlens.plot import attribution
    from ssmlens.plot.image import figure_file
    from ssmlens.plot.number_files import as_netcdf
    from ssmlens.store.attribution_file import attribution_json

    form = out.suffix.lower()
    if form == ".json":
        file = attribution_json(found, model, prompt)
    elif form == ".nc":
        file = as_netcdf(found)
    else:
        file = figure_file(attribution(found), form)
    write_file(out, file)


def _plain(found: Any, out: Path | None) -> dict[str, Any]:
    """All of it but what heads add: a value a term, and a row of sources."""
    rows = {}
    if "by_source" in found:
        rows = dict(zip(found.mixer.values.tolist(), found.by_source.values.tolist(), strict=True))
    terms = []
    for n, label in enumerate(found.term.values.tolist()):
        term = {
            "term": label,
            "kind": str(found["kind"].values[n]),
            "layer": int(found["layer"].values[n]),
            "module": str(found["module"].values[n]),
            "value": float(found["value"].values[n]),
        }
        terms.append(term | ({"by_source": rows[label]} if label in rows else {}))
    return dict(found.attrs) | {"terms": terms} | ({} if out is None else {"out": str(out)})


def _text(found: Any, out: Path | None) -> str:
    attributes = found.attrs
    head = [
        f"logit {attributes['logit']:.6g} of {_name(attributes, 'token')}"
        + (f" less {_name(attributes, 'against')}" if attributes["against"] >= 0 else "")
        + f" at position {attributes['position']}",
        f"sum of the terms {attributes['sum']:.6g}: off by {attributes['closure']:.1e} of the largest logit",
    ]
    table = [["term", "adds", "most from"]]
    by_source = {}
    if "by_source" in found:
        by_source = dict(zip(found.mixer.values.tolist(), found.by_source.values, strict=True))
    for label, value in zip(found.term.values.tolist(), found.value.values, strict=True):
        table.append([label, f"{value:.4g}", _most(found, by_source.get(label))])
    lines = [*head, "", text_table(table, left=(0, 2))]
    return "\n".join(lines if out is None else [*lines, "", str(out)])


def _most(found: Any, row: Any) -> str:
    """The largest sources of a term."""
    if row is None:
        return ""
    strings = found.coords["token_string"].values if "token_string" in found.coords else None
    largest = sorted(range(len(row)), key=lambda at: -abs(row[at]))[:_SOURCES]
    names = [str(at) if strings is None else f"{at} {strings[at]!s}" for at in largest]
    return ", ".join(f"{name} ({row[at]:.3g})" for name, at in zip(names, largest, strict=True))


def _name(attributes: Any, which: str) -> str:
    text = attributes.get(f"{which}_text")
    return str(attributes[which]) if text is None else f"{text!r} ({attributes[which]})"


COMMAND = AttributeCommand
