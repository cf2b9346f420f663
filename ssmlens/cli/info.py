"""`ssmlens info`."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import tyro

from ssmlens.cli.command import Result
from ssmlens.text_table import text_table


@dataclasses.dataclass(frozen=True)
class InfoCommand:
    """Say what a capture holds: model, prompts, what each block is, layers, arrays, closure."""

    capture: tyro.conf.Positional[Path]
    """The capture, a .h5 file or a folder."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Read the capture and return its contents."""
        from ssmlens.store import open_capture

        with open_capture(self.capture) as capture:
            data = {
                "path": str(self.capture),
                "digest": capture.digest,
                "attributes": dict(capture.attributes),
                "prompts": [
                    {"kind": kind, "tokens": int(length), "text": text}
                    for kind, length, text in zip(
                        capture.prompt_kinds, capture.length, capture.prompt_texts, strict=True
                    )
                ],
                "block_kinds": capture.block_kinds,
                "layers": [_layer(capture.layer(index)) for index in capture.layers],
            }
        return Result(data, _text(data))


def _layer(layer: Any) -> dict[str, Any]:
    """What is told of one layer; closure_error and map_closure are NaN where none is stored."""
    verdict = layer.verdict
    return {
        "layer": layer.index,
        "kind": layer.kind,
        "mixer": layer.attributes.get("mixer", ""),
        "finite": layer.state,
        "believed": verdict.answer,
        "reason": verdict.reason,
        **{name: verdict.errors.get(name, math.nan) for name in ("closure_error", "map_closure")},
        "arrays": {name: list(layer.dims(name)) for name in layer.names},
    }


def _text(data: dict[str, Any]) -> str:
    attributes = data["attributes"].items()
    head = [f"{name:18}  {value}" for name, value in attributes if value != ""]
    lines = [data["path"], f"{'digest':18}  {data['digest']}", *head, ""]
    for number, prompt in enumerate(data["prompts"]):
        text = prompt["text"] if len(prompt["text"]) <= 60 else prompt["text"][:59] + "…"
        lines.append(f"prompt {number}: {prompt['kind']}, {prompt['tokens']} tokens  {text!r}")
    layers = {layer["layer"]: layer for layer in data["layers"]}
    table = [["block", "kind", "finite", "closure_error", "map_closure", "verdict", "mixer"]]
    for block, kind in enumerate(data["block_kinds"]):
        table.append([str(block), kind, *_cells(layers.get(block))])
    lines += ["", text_table(table, left=(1, 2, -1))]
    return "\n".join(lines)


def _cells(layer: dict[str, Any] | None) -> list[str]:
    """Return the cells of a block's row; only "not captured" for a block without a capture."""
    if layer is None:
        return ["not captured", "", "", "", ""]
    errors = []
    for name in ("closure_error", "map_closure"):
        none = "nan" if name in layer["arrays"] and layer["believed"] == "no" else "-"
        errors.append(f"{layer[name]:.1e}" if math.isfinite(layer[name]) else none)
    return [layer["finite"], *errors, layer["believed"], layer["mixer"]]


COMMAND = InfoCommand
