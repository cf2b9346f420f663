"""`ssmlens info`."""

import dataclasses
from pathlib import Path

import tyro

from ssmlens.cli.command import Result


@dataclasses.dataclass(frozen=True)
class InfoCommand:
    """Say what a capture holds: model, prompts, layers, arrays, proofs."""

    capture: tyro.conf.Positional[Path]
    """The capture, a .h5 file or a folder."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> Result:
        """Do it."""
        import numpy as np

        from ssmlens.store import open_capture

        with open_capture(self.capture) as capture:
            layers = []
            for index in capture.layers:
                layer = capture.layer(index)
                error = float(np.max(layer.read("closure_error")))
                layers.append(
                    {
                        "layer": index,
                        "mixer": layer.attributes["mixer"],
                        "finite": layer.finite,
                        "closure_error": error if np.isfinite(error) else None,
                        "arrays": {n: list(layer.dims(n)) for n in layer.names},
                    }
                )
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
                "layers": layers,
            }
        return Result(data, _text(data))


def _text(data: dict) -> str:
    told = [f"{name:18}  {value}" for name, value in data["attributes"].items() if value != ""]
    lines = [data["path"], f"{'digest':18}  {data['digest']}", *told, ""]
    for number, prompt in enumerate(data["prompts"]):
        text = prompt["text"] if len(prompt["text"]) <= 60 else prompt["text"][:59] + "…"
        lines.append(f"prompt {number}: {prompt['kind']}, {prompt['tokens']} tokens  {text!r}")
    lines += ["", "layer  finite   closure_error  mixer"]
    for layer in data["layers"]:
        error = layer["closure_error"]
        shown = "nan" if error is None else f"{error:.1e}"
        lines.append(f"{layer['layer']:>5}  {layer['finite']:7}  {shown:>13}  {layer['mixer']}")
    return "\n".join(lines)


COMMAND = InfoCommand
