"""`python -m analyses.benchmarks.writer`: where the time of a capture goes, beside what it cannot do without.

A model of mamba-370m's shape with random weights, one prompt of random tokens. Measured, by turns:

    capture    `ssmlens.capture` into a folder, from prompt to closed files
    one file   the same into one file
    compute    the same forward, operands, maps and proofs, and nothing written: the first floor
    disk       as many bytes as the capture has, written and synced plainly by as many threads: the second floor

and once more a capture with its phases. On a GPU every phase waits for the device, so that the phases' sum is what
the work costs without overlap. Results: a row of results/writer.json for each choice of options.
"""

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ssmlens
from analyses.benchmarks import results
from analyses.benchmarks.phases import Phases, Wrapped
from analyses.benchmarks.timing import take_turns
from ssmlens.adapters.blocks import find_blocks
from ssmlens.adapters.generations import Mamba1Adapter
from ssmlens.files import place
from ssmlens.files.sink import Sink
from ssmlens.models.mamba_lm import MambaConfig, MambaLM
from ssmlens.recorder import capture as capturing
from ssmlens.recorder import layer_capture
from ssmlens.recorder.calls import MixerCall
from ssmlens.recorder.hooks import hooked
from ssmlens.recorder.host import ToHost
from ssmlens.recorder.layer_capture import LaunchedLayer
from ssmlens.recorder.replay import Replays
from ssmlens.scan.operators.decay_scan import DecayScan
from ssmlens.store import chunks, digest, growing, hdf5, writer
from ssmlens.store.journal import Entry

# Threads that write shards in parallel (`store.overlap`).
_WRITERS = 2


def main() -> None:
    """Print the floors and the phases, write both."""
    arguments = _arguments()
    model = _model(arguments)
    ids = torch.randint(0, model.config.vocab_size, (1, arguments.tokens))
    ids = ids.to(arguments.device)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        outs = {"capture": Path(folder) / "run", "one file": Path(folder) / "run.h5"}
        captures = {
            name: partial(_capture, model, ids, out, arguments.channels)
            for name, out in outs.items()
        }
        captures["capture"]()  # kernels compiled, allocators warm
        sizes = [file.stat().st_size for file in outs["capture"].iterdir()]

        def remove() -> None:
            for out in outs.values():
                place.remove(out)

        settle = _settle(arguments.device)
        taken = take_turns(
            {
                **{name: _settled(capture, settle) for name, capture in captures.items()},
                "compute": _settled(partial(_compute, model, ids, arguments.channels), settle),
                "disk": partial(_write_plainly, Path(folder), sizes),
            },
            arguments.turns,
            warm_up=False,
            prepare=remove,  # to remove an earlier capture is no part of this one
        )
        remove()
        floor = [
            max(pair) for pair in zip(taken["compute"].seconds, taken["disk"].seconds, strict=True)
        ]
        ratios = _ratios(taken["capture"].seconds, floor)
        one_file = _ratios(taken["one file"].seconds, taken["capture"].seconds)
        for name, timing in taken.items():
            print(f"{name:10}{timing}")
        print(f"capture over the larger floor: {statistics.median(ratios):.2f}")
        print(f"one file over capture: {statistics.median(one_file):.2f}", flush=True)
        phases = Phases(_functions(model), settle)
        with phases.watched():
            start = time.perf_counter()
            captures["one file" if arguments.one_file else "capture"]()
            wall = time.perf_counter() - start
    print(_table(phases, wall))
    found = {
        "machine": results.gpu_machine() if arguments.device == "cuda" else results.machine(),
        "load_average": os.getloadavg()[0],  # above the number of cores, seconds say little
        "asked": {name: str(value) for name, value in vars(arguments).items() if name != "folder"},
        "file_bytes": sum(sizes),
        **{name: timing.record() for name, timing in taken.items()},
        "capture_over_larger_floor": statistics.median(ratios),
        "one_file_over_capture": statistics.median(one_file),
        "phases_wall_s": wall,
        "phases": {name: dataclasses.asdict(spent) for name, spent in phases.spent.items()},
    }
    print(f"written: {results.keep_row('writer', found, ('asked',))}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d-model", type=int, default=1024)
    parser.add_argument("--layer", default="Mamba1", choices=["Mamba1", "Mamba2"])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--channels", type=int, nargs="*", help="default: the four loudest")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--one-file", action="store_true", help="phases of the one file, not the folder"
    )
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: temporary")
    return parser.parse_args()


def _model(arguments: argparse.Namespace) -> MambaLM:
    """Make the model; on a GPU with mamba_ssm's kernels if they are installed."""
    torch.manual_seed(0)
    shape = {"d_model": arguments.d_model, "n_layer": arguments.layers, "vocab_size": 50277}
    config = MambaConfig(**shape, ssm_cfg={"layer": arguments.layer})
    if arguments.device == "cuda":
        with suppress(ImportError):
            from mamba_ssm.models.config_mamba import (  # pyright: ignore[reportMissingImports]
                MambaConfig as TheirConfig,
            )
            from mamba_ssm.models.mixer_seq_simple import (  # pyright: ignore[reportMissingImports]
                MambaLMHeadModel,
            )

            theirs = TheirConfig(**shape, ssm_cfg={"layer": arguments.layer})
            return MambaLMHeadModel(theirs, device="cuda").eval()
    return MambaLM(config, device=arguments.device).eval()


def _capture(model: nn.Module, ids: torch.Tensor, out: Path, channels: list[int] | None) -> None:
    captured = ssmlens.capture(model, ids, out, channels=channels)
    captured.close()


def _compute(model: nn.Module, ids: torch.Tensor, channels: list[int] | None) -> None:
    """Compute what a capture computes for every layer, and drop it."""
    length, replays = torch.full((len(ids),), ids.shape[1]), Replays()
    launched: list[LaunchedLayer] = []

    def on_call(call: MixerCall) -> None:
        launched.append(layer_capture.launch_layer(call, length, channels, replays=replays))
        if len(launched) > 1 or not ids.is_cuda:
            launched.pop(0).finish()

    with hooked(model, find_blocks(model), on_call), torch.no_grad():
        model.get_submodule("backbone")(ids)
    for layer in launched:
        layer.finish()


def _write_plainly(folder: Path, sizes: list[int]) -> None:
    """Write and sync files of these sizes, as many at once as a capture does, then the folder."""
    block = memoryview(os.urandom(1 << 20))

    def write(number: int, size: int) -> None:
        with Sink(folder / f"plain-{number}") as sink:
            for first in range(0, size, len(block)):
                sink.write(block[: size - first])
            sink.sync()

    with ThreadPoolExecutor(_WRITERS) as threads:
        list(threads.map(write, range(len(sizes)), sizes))
    place.sync_folder(folder)
    for number in range(len(sizes)):
        (folder / f"plain-{number}").unlink()


def _functions(model: nn.Module) -> list[Wrapped]:
    """Assign functions to phases."""

    def encoded(row: list[Any], *_: Any) -> int:
        return sum(data.nbytes for _, data, _ in row)

    def given(_: None, data: Any, *__: Any, **___: Any) -> int:
        return memoryview(data).nbytes

    def written(_: int, sink: Sink, data: Any) -> int:
        return memoryview(data).nbytes

    def on_host(array: Any, *_: Any) -> int:
        return array.nbytes

    return [
        Wrapped("hash of weights", capturing, "digest", whole=True),
        Wrapped("forward", model, "forward"),
        Wrapped("operands", Mamba1Adapter, "project", whole=True),
        Wrapped("closure", layer_capture, "closure", whole=True),
        Wrapped("scan, maps and their proofs", Replays, "run", whole=True),
        Wrapped("maps of channels", DecayScan, "matrix"),
        Wrapped("device to host", ToHost, "empty", whole=True),
        Wrapped("device to host", ToHost, "fill"),
        Wrapped("device to host", ToHost, "array", on_host),
        Wrapped("device to host", ToHost, "wait"),
        Wrapped("rest of a layer", capturing, "launch_layer"),
        Wrapped("digests", digest, "prompt_digests", whole=True),
        Wrapped("digests", digest, "static_digest", whole=True),
        Wrapped("chunks", chunks, "_encode_row", encoded),
        Wrapped("shuffle", chunks, "_shuffle", on_host),
        Wrapped("deflate", chunks, "_wrap_uncompressed"),
        Wrapped("checksum", chunks, "fletcher32"),
        Wrapped("HDF5", hdf5, "begin_file"),
        Wrapped("write", Sink, "write", written),
        Wrapped("write", Sink, "write_lent"),
        Wrapped("fsync", Sink, "sync", whole=True),
        Wrapped("fsync", place, "sync_folder", whole=True),
        Wrapped("rename", place, "put"),
        Wrapped("manifest", writer, "write_file"),
        Wrapped("HDF5", growing, "add_layer"),
        Wrapped("HDF5", growing, "write_layer"),
        Wrapped("entries", growing, "write_file"),
        Wrapped("entries", Entry, "of"),
        Wrapped("waiting for the writer", writer.CaptureWriter, "write"),
        Wrapped("waiting for the writer", writer.CaptureWriter, "finish"),
        Wrapped("open", capturing, "open_written", whole=True),
    ]


def _table(phases: Phases, wall: float) -> str:
    lines = [f"{'phase':26}{'caller':>9}{'beside':>9}{'MiB':>9}{'GiB/s':>8}{'calls':>8}"]
    for name, spent in phases.spent.items():
        size = f"{spent.count / 2**20:9.1f}" if spent.count else " " * 9
        rate = spent.count / 2**30 / spent.seconds if spent.count and spent.seconds else 0
        line = f"{name:26}{spent.caller:9.3f}{spent.beside:9.3f}{size}"
        lines.append(line + (f"{rate:8.2f}" if rate else " " * 8) + f"{spent.calls:8}")
    caller = sum(spent.caller for spent in phases.spent.values())
    lines.append(f"{'none of these':26}{wall - caller:9.3f}")
    return "\n".join([*lines, f"{'wall clock':26}{wall:9.3f}"])


def _ratios(seconds: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(seconds, others, strict=True)]


def _settle(device: str) -> Callable[[], object] | None:
    return _synchronize if device == "cuda" else None


def _synchronize() -> None:
    if not torch.cuda.is_current_stream_capturing():  # while a graph is recorded, it is refused
        torch.cuda.synchronize()


def _settled(work: Callable[[], object], settle: Callable[[], object] | None):
    def whole() -> None:
        work()
        if settle is not None:
            settle()

    return whole


if __name__ == "__main__":
    main()
