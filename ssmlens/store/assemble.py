"""Assemble the files of a capture into one HDF5 file. Chunks are moved without decoding."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np

from ssmlens.errors import CaptureFileError
from ssmlens.names import CHANNEL, FINITE, PROMPT
from ssmlens.store import digest, hdf5
from ssmlens.store.guard import open_guarded
from ssmlens.store.hdf5 import stored_array
from ssmlens.store.header import CaptureHeader
from ssmlens.store.layer_file import (
    all_array_names,
    close_layer,
    new_layer,
    stored_layer,
    write_root,
)
from ssmlens.store.schema import (
    LAYER,
    LOOKS_AHEAD,
    OWN_LAYER_ATTRIBUTES,
    PROMPT_DIGEST,
    WHOLE,
    Attribute,
    layer_axes,
)
from ssmlens.store.skeleton import sort_coordinates_first


@dataclasses.dataclass(frozen=True)
class Assembly:
    """A file to put together.

    Attributes:
        target: The file; it appears under this name when it is complete.
        header: The file with the header: the result is a complete capture. None: the result is one layer.
        header_digest: The header's digest, which the files of one capture share.
        digest: The digest that the complete capture must have. None: any.
        layers: The files of each block index, one for each batch of prompts, in order.
        consume: Whether to remove the layers' files once the target exists.
    """

    target: Path
    header: Path | None
    header_digest: str
    layers: Mapping[int, Sequence[Path]]
    digest: str | None = None
    consume: bool = False


class OtherDigestError(CaptureFileError):
    """The assembled capture does not have the expected digest."""


def assemble(jobs: Iterable[Assembly]) -> None:
    """Carry out `jobs`, one after the other.

    Raises:
        SsmlensError: No space, no permission, or a bad source; one line says which.
        OtherDigestError: The result does not have the expected digest; the target is not written.
    """
    for job in jobs:
        hdf5.write_file(job.target, partial(write_assembly, job), _source_bytes(job))
        for path in (p for paths in job.layers.values() for p in paths) if job.consume else ():
            path.unlink()


def write_assembly(
    job: Assembly, file: hdf5.NewFile, known: Mapping[int, str] = MappingProxyType({})
) -> None:
    """Write what a job asks for, except layers whose digests are `known`: the file has these."""
    layers = [
        known.get(index) or _write_layer(file, index, paths) for index, paths in job.layers.items()
    ]
    if job.header is None:
        write_root(file, LAYER, {"header_digest": job.header_digest, "first_prompt": 0})
    else:
        with open_guarded(job.header) as source:
            header = CaptureHeader.read(source)
        header.write(file)
        complete_digest = digest.capture_digest(header.digest(), layers)
        if job.digest not in (None, complete_digest):
            raise OtherDigestError("its header and layers are not those it was completed with")
        write_root(file, WHOLE, {"digest": complete_digest})


def _source_bytes(job: Assembly) -> int:
    sources = [path for paths in job.layers.values() for path in paths]
    return sum(source.stat().st_size for source in sources if source.exists())


def _write_layer(file: hdf5.NewFile, index: int, paths: Sequence[Path]) -> str:
    with ExitStack() as opened:
        files = [opened.enter_context(open_guarded(path)) for path in paths]
        return _merge_layer(file, index, [stored_layer(source, index) for source in files])


def _merge_layer(file: hdf5.NewFile, index: int, sources: Sequence[h5py.Group]) -> str:
    """Merge a layer's batches of prompts, in order, moving chunks without decoding. Return the layer's digest.

    Raises:
        CaptureFileError: The batches do not have the same arrays or the same channels.
    """
    first, prompts = sources[0], [len(stored_array(s, PROMPT_DIGEST)) for s in sources]
    _check_agreement(index, sources)
    group = new_layer(file, index)
    for name in sort_coordinates_first(all_array_names(first)):
        parts = [stored_array(source, name) for source in sources if name in source]
        axes = hdf5.axes_of(parts[0])
        if axes[0] != PROMPT:
            target = hdf5.create_like(group, parts[0], parts[0].shape, axes)
            hdf5.move_chunks(parts[0], target, 0, file.sink)
        elif hdf5.moves_by_chunk(axes):
            target = hdf5.create_like(group, parts[0], (sum(prompts), *parts[0].shape[1:]), axes)
            for part, start in zip(parts, np.cumsum([0, *prompts]).tolist(), strict=False):
                hdf5.move_chunks(part, target, start, file.sink)
        else:
            hdf5.write_array(group, name, np.concatenate([part[...] for part in parts]), axes)
    rows = np.concatenate([stored_array(source, PROMPT_DIGEST)[...] for source in sources])
    attributes = [hdf5.read_attributes(source) for source in sources]
    static = str(attributes[0]["static_digest"])
    hdf5.write_array(group, PROMPT_DIGEST, rows, layer_axes(PROMPT_DIGEST, rows.ndim))
    return close_layer(group, index, rows, static, _merged_attributes(attributes))


def _check_agreement(index: int, sources: Sequence[h5py.Group]) -> None:
    names = [_names_in_every_batch(source) for source in sources]
    for batch, source in enumerate(sources):
        if names[batch] != names[0]:
            raise CaptureFileError(f"layer {index}: batches 0 and {batch} hold different arrays")
        if CHANNEL in names[0]:
            channels = [stored_array(s, CHANNEL)[...] for s in (sources[0], source)]
            if not np.array_equal(*channels):
                raise CaptureFileError(
                    f"layer {index}: batches 0 and {batch} hold maps of different channels"
                )


def _names_in_every_batch(source: h5py.Group) -> list[str]:
    axes = {name: hdf5.axes_of(stored_array(source, name)) for name in all_array_names(source)}
    return [name for name in axes if axes[name][0] == PROMPT or name == CHANNEL]


def _merged_attributes(batches: Sequence[dict[str, Attribute]]) -> dict[str, Attribute]:
    """The first batch's attributes, but `finite` and `reason` of the first batch that is not finite.

    `looks_ahead` comes from any batch that has it.
    """
    nonfinite = next((a for a in batches if a["finite"] != FINITE), batches[0])
    dropped = {*OWN_LAYER_ATTRIBUTES, "finite", "reason"}
    merged = {k: v for k, v in batches[0].items() if k not in dropped}
    ahead = {k: v for batch in batches for k, v in batch.items() if k == LOOKS_AHEAD}
    return merged | ahead | {k: nonfinite[k] for k in ("finite", "reason") if k in nonfinite}
