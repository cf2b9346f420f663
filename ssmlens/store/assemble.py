"""Put files of one capture together into one HDF5 file, in a process of its own.

HDF5 takes the whole process down when the disk is full, and these files are too large to build in memory: the parent
checks the free space, lets `python -m ssmlens.store.assemble` write, and reports when it dies.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np

from ssmlens.errors import CaptureFileError, SsmlensError
from ssmlens.names import CHANNEL, FINITE
from ssmlens.store import digest, disk, hdf5
from ssmlens.store.guard import open_guarded
from ssmlens.store.hdf5 import stored_array
from ssmlens.store.header import CaptureHeader
from ssmlens.store.layer_file import (
    array_names,
    close_layer,
    coordinates_first,
    new_layer,
    stored_layer,
    write_root,
)
from ssmlens.store.schema import (
    LAYER,
    OWN_LAYER_ATTRIBUTES,
    PROMPT_DIGEST,
    WHOLE,
    Attribute,
    has_prompts,
    layer_axes,
)


@dataclasses.dataclass(frozen=True)
class Assembly:
    """A file to put together.

    Attributes:
        target: The file; it appears under this name when it is complete.
        header: The file with the header: the result is a whole capture. None: the result is one layer.
        header_digest: The header's digest, which the files of one capture share.
        layers: For each block index the files that hold it, one a batch of prompts, in order.
        consume: Whether the layers' files are removed once the target is there.
    """

    target: str
    header: str | None
    header_digest: str
    layers: dict[int, list[str]]
    consume: bool = False


def assemble(jobs: Sequence[Assembly]) -> None:
    """Carry out `jobs`, one after the other, in a child process.

    Raises:
        SsmlensError: One line that says why: no space, no permission, or what is wrong with a source.
    """
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__],
        env={**os.environ, "PYTHONPATH": _python_path()},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:  # the pipe stays open until the child is done: it leaves when this process dies
        assert child.stdin
        assert child.stderr
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps([dataclasses.asdict(job) for job in jobs]) + "\n")
            child.stdin.flush()
        said = child.stderr.read().strip().splitlines()
        code = child.wait()
    if code < 0:
        raise _death(jobs, signal.Signals(-code).name)
    if code:
        raise SsmlensError(
            said[-1] if said else f"cannot write {jobs[0].target} (exit code {code})"
        )


def _death(jobs: Sequence[Assembly], cause: str) -> SsmlensError:
    """HDF5 took the child down; most likely because the disk filled up while it wrote."""
    job = next((job for job in jobs if not Path(job.target).exists()), jobs[-1])
    target, needed = Path(job.target), _needed(job)
    try:
        disk.check_space(target, needed)
    except SsmlensError as error:
        return error
    finally:
        disk.partial_path(target).unlink(missing_ok=True)
    return disk.failure(target, needed, f"HDF5 died of {cause}")


def carry_out(job: Assembly) -> None:
    """Put one file together: written under its `.partial` name, synced, renamed. Runs in the child."""
    target, needed = Path(job.target), _needed(job)
    disk.check_space(target, needed)
    partial = disk.partial_path(target)
    try:
        with disk.told_in_one_line(target, needed):
            _write(job, partial)
            disk.sync_file(partial)
            disk.rename(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    for files in job.layers.values() if job.consume else ():
        for name in files:
            Path(name).unlink()


def _write(job: Assembly, partial: Path) -> None:
    with h5py.File(partial, "w", libver=hdf5.LIBVER) as file:
        layers = [_write_layer(file, index, files) for index, files in job.layers.items()]
        if job.header is None:
            write_root(file, LAYER, {"header_digest": job.header_digest, "first_prompt": 0})
        else:
            with open_guarded(Path(job.header)) as source:
                CaptureHeader.read(source).write(file)
            write_root(file, WHOLE, {"digest": digest.capture_digest(job.header_digest, layers)})


def _needed(job: Assembly) -> int:
    sources = [Path(name) for files in job.layers.values() for name in files]
    return sum(source.stat().st_size for source in sources if source.exists())


def _write_layer(file: h5py.File, index: int, files: Sequence[str]) -> str:
    opened = [open_guarded(Path(name)) for name in files]
    try:
        return merge_layer(file, index, [stored_layer(source, index) for source in opened])
    finally:
        for source in opened:
            source.close()


def merge_layer(file: h5py.File, index: int, sources: Sequence[h5py.Group]) -> str:
    """Write a layer from those of its batches of prompts, in order, moving chunks as they are. Its digest.

    Raises:
        CaptureFileError: The batches do not have the same arrays or the same channels.
    """
    first, prompts = sources[0], [len(stored_array(s, PROMPT_DIGEST)) for s in sources]
    _check_agreement(index, sources)
    group = new_layer(file, index)
    for name in coordinates_first(array_names(first)):
        parts = [stored_array(source, name) for source in sources if name in source]
        axes = layer_axes(name, parts[0].ndim)
        if not has_prompts(name):
            hdf5.move_chunks(parts[0], hdf5.like(group, parts[0], parts[0].shape, axes), 0)
        elif hdf5.moves_by_chunk(axes):
            target = hdf5.like(group, parts[0], (sum(prompts), *parts[0].shape[1:]), axes)
            for part, start in zip(parts, np.cumsum([0, *prompts]).tolist(), strict=False):
                hdf5.move_chunks(part, target, start)
        else:
            hdf5.write_array(group, name, np.concatenate([part[...] for part in parts]), axes)
    rows = np.concatenate([stored_array(source, PROMPT_DIGEST)[...] for source in sources])
    attributes = [hdf5.read_attributes(source) for source in sources]
    static = str(attributes[0]["static_digest"])
    close_layer(group, index, rows, static, _merged_attributes(attributes))
    return str(hdf5.read_attributes(group)["digest"])


def _check_agreement(index: int, sources: Sequence[h5py.Group]) -> None:
    kept = [[n for n in array_names(s) if has_prompts(n) or n == CHANNEL] for s in sources]
    for batch, source in enumerate(sources):
        if kept[batch] != kept[0]:
            raise CaptureFileError(f"layer {index}: batches 0 and {batch} hold different arrays")
        if CHANNEL in kept[0]:
            channels = [stored_array(s, CHANNEL)[...] for s in (sources[0], source)]
            if not np.array_equal(*channels):
                raise CaptureFileError(
                    f"layer {index}: batches 0 and {batch} hold maps of different channels"
                )


def _merged_attributes(batches: Sequence[dict[str, Attribute]]) -> dict[str, Attribute]:
    """The first batch's; `finite` and `reason` from the first batch that has something to say."""
    telling = next((a for a in batches if a["finite"] != FINITE), batches[0])
    dropped = {*OWN_LAYER_ATTRIBUTES, "finite", "reason"}
    merged = {k: v for k, v in batches[0].items() if k not in dropped}
    return merged | {k: telling[k] for k in ("finite", "reason") if k in telling}


def _python_path() -> str:
    """Where this very package lies, before whatever the environment says."""
    here = str(Path(__file__).parents[2])
    return os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])


def _read_jobs(line: str) -> list[Assembly]:
    """What `assemble` wrote for its child (JSON turns block indices into strings)."""
    pages = json.loads(line)
    return [
        Assembly(**(page | {"layers": {int(i): files for i, files in page["layers"].items()}}))
        for page in pages
    ]


def _leave_with_the_parent() -> None:
    """An orphan would go on writing what a resumed capture writes too."""
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """The child: carry out the jobs on the first line of standard input."""
    jobs = _read_jobs(sys.stdin.readline())
    threading.Thread(target=_leave_with_the_parent, daemon=True).start()
    try:
        for job in jobs:
            carry_out(job)
    except (SsmlensError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
