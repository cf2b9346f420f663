"""Digests of a capture's content: independent of how it is split into files, stopped and resumed.

    prompt digest = sha256(layer's arrays of that prompt)     stored with the layer, one row per prompt
    static digest = sha256(layer's arrays without prompts)    weights, A, D
    layer digest  = sha256(block index, attributes, static digest, prompt digests in order)
    digest        = sha256(header digest, layer digests in order)

Arrays enter as name, dtype, shape and bytes, in the order of their names. Batches of prompts are merged without reading
their arrays again, since each batch stores its prompt digests.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np

from ssmlens.store.schema import OWN_LAYER_ATTRIBUTES, Attribute, is_volatile


def array_digest(arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Attribute]) -> bytes:
    """SHA-256 over arrays and attributes, both in the order of their names."""
    state = hashlib.sha256(json.dumps(dict(sorted(attributes.items()))).encode())
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        state.update(f"{name} {array.dtype.newbyteorder('<').str} {array.shape} ".encode())
        state.update(array.reshape(-1).view(np.uint8).data)
    return state.digest()


def prompt_digests(arrays: Mapping[str, np.ndarray], prompts: int) -> np.ndarray:
    """One digest per prompt, [prompt byte], over `arrays`: the layer's arrays that have prompts."""
    rows = (
        array_digest({n: np.asarray(a[p]) for n, a in arrays.items()}, {}) for p in range(prompts)
    )
    return np.array([np.frombuffer(row, dtype=np.uint8) for row in rows])


def static_digest(arrays: Mapping[str, np.ndarray]) -> str:
    """The digest of `arrays`: the layer's arrays without prompts."""
    return array_digest(arrays, {}).hex()


def layer_digest(
    index: int, attributes: Mapping[str, Attribute], static: str, prompts: np.ndarray
) -> str:
    """The digest of a layer from its parts; volatile attributes are left out."""
    excluded = OWN_LAYER_ATTRIBUTES
    stable = {k: v for k, v in attributes.items() if k not in excluded and not is_volatile(k)}
    text = json.dumps(dict(sorted(stable.items())))
    parts = {"layer": index, "static": static, "attributes": text}
    return array_digest({"prompts": prompts}, parts).hex()


def capture_digest(header: str, layers: Iterable[str]) -> str:
    """The digest of a capture from those of its header and layers."""
    return hashlib.sha256("\n".join([header, *layers]).encode()).hexdigest()
