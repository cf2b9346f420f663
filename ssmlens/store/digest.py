"""Digests of what a capture says, whatever files it is spread over and however it was stopped and resumed.

    prompt digest = sha256(layer's arrays of that prompt)     stored with the layer, a row a prompt
    static digest = sha256(layer's arrays without prompts)    weights, A, D
    layer digest  = sha256(block index, attributes, static digest, prompt digests in order)
    digest        = sha256(header digest, layer digests in order)

Arrays enter as name, dtype, shape and bytes, in the order of their names. Batches of prompts merge without reading
their arrays again, since each brings its own prompt digests.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np

from ssmlens.store.schema import OWN_LAYER_ATTRIBUTES, Attribute, is_volatile


def of_arrays(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Attribute]) -> bytes:
    """SHA-256 over arrays and attributes, both in the order of their names."""
    state = hashlib.sha256(json.dumps(dict(sorted(attributes.items()))).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        state.update(f"{name} {array.dtype.newbyteorder('<').str} {array.shape} ".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.digest()


def prompt_digests(arrays: Mapping[str, np.ndarray], prompts: int) -> np.ndarray:
    """A digest a prompt, [prompt byte], over the layer's arrays that have prompts: `arrays`."""
    rows = (of_arrays({n: np.asarray(a[p]) for n, a in arrays.items()}, {}) for p in range(prompts))
    return np.array([np.frombuffer(row, dtype=np.uint8) for row in rows])


def static_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """The digest of the layer's arrays without prompts: `arrays`."""
    return of_arrays(arrays, {}).hex()


def layer_digest(
    index: int, attributes: Mapping[str, Attribute], static: str, prompts: np.ndarray
) -> str:
    """The digest of a layer from its parts; `attributes` may hold volatile ones, which do not count."""
    own = OWN_LAYER_ATTRIBUTES
    stable = {k: v for k, v in attributes.items() if k not in own and not is_volatile(k)}
    said = json.dumps(dict(sorted(stable.items())))
    parts = {"layer": index, "static": static, "attributes": said}
    return of_arrays({"prompts": prompts}, parts).hex()


def capture_digest(header: str, layers: Iterable[str]) -> str:
    """The digest of the whole capture from its header's and its layers'."""
    return hashlib.sha256("\n".join([header, *layers]).encode()).hexdigest()
