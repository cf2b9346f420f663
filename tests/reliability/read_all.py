"""Read each capture named on standard input completely; tell its content's hash, or that it was refused.

A process of its own, since what is tested includes that no damaged file takes the interpreter down.
"""

import hashlib
import sys
from pathlib import Path

from ssmlens.errors import SsmlensError
from ssmlens.store import open_capture


def content(path):
    state = hashlib.sha256()
    with open_capture(path) as capture:
        said = [capture.attributes, capture.layers, capture.prompt_texts, capture.prompt_kinds]
        said += [capture.token_strings(p) for p in range(capture.prompts)]
        said += [capture.digest]
        for array in (capture.tokens, capture.length, capture.target):
            state.update(repr((array.shape, array.dtype)).encode() + array.tobytes())
        for layer in map(capture.layer, capture.layers):
            said += [layer.attributes, layer.names, layer.digest]
            for name in layer.names:
                array = layer.read(name)
                said += [name, array.shape, array.dtype, layer.dims(name)]
                state.update(array.tobytes())
    state.update(repr(said).encode())
    return state.hexdigest()


for line in sys.stdin:
    print("reading", line.strip(), flush=True)
    try:
        print("content", content(Path(line.strip())), flush=True)
    except SsmlensError as error:
        print("refused", str(error), flush=True)
