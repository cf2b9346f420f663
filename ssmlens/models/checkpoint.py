"""Weights files: read them without running code, report mismatches, digest them."""

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from ssmlens.errors import SsmlensError, UsageError
from ssmlens.files.plain_json import read_object

# In order of preference. An index lists the shards of the tensors.
WEIGHTS_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

_MAX_BYTES = 1 << 26
# Bytes of a GPU tensor that are copied to the host at a time.
_PIECE = 1 << 22
_NAMED = 4  # of faulty tensors, in a message
# Of a file in the index's own folder.
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}")


def shard_names(index: Path) -> list[str]:
    """The distinct shards that an index (`*.index.json`) lists, sorted."""
    content = read_object(index, _MAX_BYTES, links=True, finite=False, refused=SsmlensError)
    names = content.get("weight_map")
    if not isinstance(names, dict) or not names:
        raise SsmlensError(f"{index} is not an index of weights files: it has no weight_map")
    for name in names.values():
        if not isinstance(name, str) or not _PLAIN.fullmatch(name):
            raise SsmlensError(f"{index} names {str(name)[:80]!r}, which is not a plain file name")
    return sorted(set(names.values()))


def read_checkpoint(folder: Path) -> dict[str, Tensor]:
    """Read every tensor of the model in `folder`; map it from disk, without a copy, if the format allows.

    safetensors files are preferred to pickles. Pickles are read with `weights_only=True`: one that would run code is
    refused.

    Raises:
        UsageError: There is no weights file, or a pickle holds more than tensors.
        SsmlensError: A file is missing or damaged.
    """
    path = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    if path is None:
        raise UsageError(f"{folder} has no weights: expected one of {', '.join(WEIGHTS_FILES)}")
    if path.suffix != ".json":
        return _read_file(path)
    tensors: dict[str, Tensor] = {}
    for name in shard_names(path):
        if not (folder / name).is_file():
            raise SsmlensError(f"{folder} lacks {name}, which {path.name} lists; download it again")
        tensors |= _read_file(folder / name)
    return tensors


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, dtype, shape and SHA-256 of the bytes of every tensor, sorted by name, tied weights once.

    Tensors that share memory count once, under their first name. The same tensors have the same digest in .safetensors
    and .bin files, in one file or in shards, on a CPU or a GPU.
    """
    names: dict[tuple, str] = {}
    for name, tensor in sorted(state.items()):
        memory = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        names.setdefault(memory if tensor.numel() else (name,), name)
    total = hashlib.sha256()
    with ThreadPoolExecutor() as threads:  # hashing releases the interpreter lock
        hashes = threads.map(lambda name: _sha256(state[name]), names.values())
        for name, tensor_hash in zip(names.values(), hashes, strict=True):
            total.update(f"{name} {state[name].dtype} {tuple(state[name].shape)}\n".encode())
            total.update(tensor_hash)
    return total.hexdigest()


def _sha256(tensor: Tensor) -> bytes:
    if not tensor.is_cuda:
        return hashlib.sha256(_bytes(tensor).numpy().data).digest()
    # Piece by piece through pinned memory: a GPU fills it forty times faster, but it is slow to allocate.
    state, octets = hashlib.sha256(), tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    pinned = torch.empty(min(len(octets), _PIECE), dtype=torch.uint8, pin_memory=True)
    for piece in octets.split(_PIECE):
        state.update(pinned[: len(piece)].copy_(piece).numpy().data)
    return state.digest()


def same_bytes(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree in dtype, shape and every bit (NaN included)."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return torch.equal(_bytes(a), _bytes(b))


def check_names_and_shapes(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raise an error that names every missing, unexpected or mis-shaped tensor of `state`."""
    shared = expected.keys() & state.keys()
    misshaped = [
        f"{name} {tuple(state[name].shape)} for {tuple(expected[name].shape)}"
        for name in shared
        if state[name].shape != expected[name].shape
    ]
    report_mismatch(expected.keys() - state.keys(), state.keys() - expected.keys(), misshaped)


def report_mismatch(
    missing: Collection[str], unexpected: Collection[str], misshaped: Collection[str]
) -> None:
    """Raise SsmlensError that names the mismatches between a config.json and its checkpoint, if there are any."""
    kinds = (("missing", missing), ("unexpected", unexpected), ("mis-shaped", misshaped))
    faults = [f"{kind}: {_some(sorted(names))}" for kind, names in kinds if names]
    if faults:
        raise SsmlensError(f"the checkpoint does not fit its config.json; {'; '.join(faults)}")


def _bytes(tensor: Tensor) -> UInt8[Tensor, "byte"]:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _read_file(path: Path) -> dict[str, Tensor]:
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damage_error(path, error) from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of foreign pickles, refused or not
            # A file older than torch 1.6 is not a zip archive and cannot be mapped.
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        name = f" ({culprit[1]})" if culprit else ""
        raise UsageError(
            f"refused {path}: this pickle holds more than tensors{name} and could run code; "
            "nothing was run. Use a .safetensors file"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise _damage_error(path, error) from None
    if not isinstance(content, dict) or not all(isinstance(t, Tensor) for t in content.values()):
        raise UsageError(f"{path} is not a state dict: expected a mapping of names to tensors")
    return content


def _damage_error(path: Path, error: Exception) -> SsmlensError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return SsmlensError(f"{path} is damaged or cut short ({reason}); download it again")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
