"""`capture`: run prompts through a model, and store its layers with their checks."""

import dataclasses
import math
import shutil
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

import ssmlens
from ssmlens import names
from ssmlens.adapters.blocks import Block, find_blocks
from ssmlens.adapters.find import MixerSite
from ssmlens.errors import ClosureError, UsageError
from ssmlens.files.place import partial_path
from ssmlens.models.checkpoint import digest
from ssmlens.models.submodules import hooked_layers
from ssmlens.recorder import closure as closing
from ssmlens.recorder.calls import (
    MixerCall,
    autocast_dtype,
    padding_mask,
    weights_device,
    without_cache,
)
from ssmlens.recorder.choose import EAGER, choose_blocks, for_long_prompts
from ssmlens.recorder.further import Further, FurtherArrays
from ssmlens.recorder.hooks import hooked, log
from ssmlens.recorder.layer_capture import LaunchedLayer, capture_attention, launch_layer
from ssmlens.recorder.once import check_first, check_runs_once
from ssmlens.recorder.prompts import (
    Prompts,
    default_prompts,
    prompts_for,
    vocabulary_size,
)
from ssmlens.recorder.replay import Replays
from ssmlens.store.header import CaptureHeader
from ssmlens.store.reader import Capture, open_capture, open_written
from ssmlens.store.writer import CaptureWriter

# Most tokens in one forward, padding included.
_BATCH_TOKENS = 4096

# Layers whose further arrays are computed before one forward records them. A stopped capture loses these at most.
_LAYERS_TOGETHER = 4

Progress = Callable[[int, int, str], None]
PromptsLike = Prompts | Sequence[str] | Sequence[Sequence[int]] | Sequence[int] | Tensor | str


@overload
def capture(
    model: nn.Module,
    prompts: PromptsLike | None = None,
    out: str | Path | None = "capture.h5",
    *,
    layers: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
    shard: None = None,
    resume: bool = False,
    overwrite: bool = False,
    keep_going: bool = False,
    store_discretized: bool = False,
    further: Further | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Capture: ...


@overload
def capture(
    model: nn.Module,
    prompts: PromptsLike | None = None,
    out: str | Path | None = "capture.h5",
    *,
    layers: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
    shard: tuple[int, int],
    resume: bool = False,
    overwrite: bool = False,
    keep_going: bool = False,
    store_discretized: bool = False,
    further: Further | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Capture | None: ...


def capture(
    model: nn.Module,
    prompts: PromptsLike | None = None,
    out: str | Path | None = "capture.h5",
    *,
    layers: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
    shard: tuple[int, int] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    keep_going: bool = False,
    store_discretized: bool = False,
    further: Further | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Capture | None:
    """Run prompts through a model and store what its layers attend to, with each layer's closure.

    Streams layer by layer: each layer's operands and maps are computed, checked and passed to the writer before the
    next layer runs. The mean map of a hybrid's softmax attention is stored if the model returns its attention weights
    (`attn_implementation="eager"`); otherwise one warning is logged.

    Args:
        model: Any mamba_ssm, transformers or ssmlens model; one from `load_model` brings its tokenizer.
        prompts: Texts, lists of token ids, a tensor [prompt token], one text or one list of ids, or `Prompts` with
            targets. None: see `default_prompts`.
        out: `name.h5` for one file, any other name for a folder of files. None: a temporary folder, deleted with
            the capture, so that a notebook cell can run again.
        layers: Block numbers to capture. None: all whose mixer or attention weights can be read.
        channels: Heads whose own maps are stored. None: in each layer the four that write most, but no head for prompts
            above `names.LARGEST_WHOLE_MAP` tokens, whose maps are reduced to blocks.
        shard: (i, N), i from 1: only part i of N of the layers, for several machines that share `out`.
        resume: Resume a stopped capture of the same request.
        overwrite: Replace `out` if it exists.
        keep_going: Store a layer whose closure fails, instead of stopping; `ssmlens verify` names such layers.
        store_discretized: Store Ā and B̄ as well; otherwise the reader computes them.
        further: Creates the object that computes further arrays of every layer, such as
            `ssmlens.effect.layers.LayerEffects`.
        progress: Called with (layers done, number of layers, current step).
        command: The command line, stored in the header.

    Returns:
        The capture, open; None while shards of other machines are missing.

    Raises:
        UsageError: The request is impossible (the message says why), or `shard` or `resume` is given without `out`.
        ClosureError: A layer's closure fails.
        SsmlensError: The disk is full or cannot be written.
    """
    if out is None:
        if shard is not None or resume:
            raise UsageError("`shard` and `resume` need `out`: a temporary capture has no name")
        options = {"layers": layers, "channels": channels, "keep_going": keep_going}
        options |= {"store_discretized": store_discretized, "further": further}
        options["progress"] = progress
        return _temporary(model, prompts, **options)
    blocks = find_blocks(model)
    requested = _prompts(model, prompts)
    requested.check_vocabulary(vocabulary_size(model))
    chosen = _choose(blocks, layers, channels, max(requested.length))
    exists = Path(out).exists() or partial_path(Path(out)).exists()
    if not (resume and exists):  # the run that created it has checked this
        check_runs_once(model, chosen, requested.tokens[0][:1])
    arrays = None if further is None else further(model, requested)
    own_blocks = chosen if shard is None else chosen[_share(len(chosen), *shard)]
    header = _header(model, blocks, chosen, requested, channels, store_discretized, arrays, command)
    writer = CaptureWriter(
        Path(out),
        header,
        layers=[block.layer for block in own_blocks],
        batches=min(
            len(requested), math.ceil(len(requested) * max(requested.length) / _BATCH_TOKENS)
        ),
        resume=resume,
        overwrite=overwrite,
    )
    separator = torch.from_numpy(header.separator())
    job = _Job(
        *(model, requested, separator, writer, channels),
        *(store_discretized, arrays, keep_going, progress),
    )
    with writer:  # writes a layer while the next is computed
        for batch in range(writer.batches):
            job.run(own_blocks, batch)
        path = writer.finish()
    if path is None:
        return None
    # Parts of a shared or resumed capture come from elsewhere.
    return open_capture(path) if shard or resume else open_written(path)


def _choose(
    blocks: list[Block],
    layers: Sequence[int] | None,
    channels: Sequence[int] | None,
    tokens: int,
) -> list[Block]:
    """Return the blocks to capture. Raises UsageError if one cannot be; warns of attention without weights."""
    chosen = choose_blocks(blocks, layers)
    if tokens > names.LARGEST_WHOLE_MAP:
        chosen = for_long_prompts(chosen, layers, channels)
    for block in chosen:
        if block.mixer:
            weights_device(block.mixer)
            _check_channels(block.mixer, channels)
    _warn_of_attention(chosen if layers else blocks)
    return chosen


def _temporary(model: nn.Module, prompts: Any, **options: Any) -> Capture:
    """Capture into a temporary folder, which is deleted when nothing refers to the capture any more."""
    folder = Path(tempfile.mkdtemp(prefix="ssmlens-"))
    try:
        captured = capture(model, prompts, folder / "capture", shard=None, **options)
    except BaseException:
        shutil.rmtree(folder)
        raise
    weakref.finalize(captured, shutil.rmtree, folder, ignore_errors=True)
    return captured


@dataclasses.dataclass
class _Job:
    """One call of `capture`, batch by batch."""

    model: nn.Module
    prompts: Prompts
    separator: Bool[Tensor, "prompt token"]
    writer: CaptureWriter
    channels: Sequence[int] | None
    store_discretized: bool
    further: FurtherArrays | None
    keep_going: bool
    progress: Progress | None
    _replays: Replays = dataclasses.field(default_factory=Replays, init=False)
    _launched: Callable[[], None] | None = dataclasses.field(default=None, init=False)

    def run(self, blocks: list[Block], batch: int) -> None:
        """Capture every layer that is missing in one batch of prompts."""
        missing = [block for block in blocks if not self.writer.done(block.layer, batch)]
        self._done, self._all = len(blocks) - len(missing), len(blocks)
        step = len(missing) if self.further is None else _LAYERS_TOGETHER
        for first in range(0, len(missing), max(1, step)):
            self._record(missing[first : first + step], batch)

    def _record(self, blocks: list[Block], batch: int) -> None:
        """Run one batch of prompts up to the last of these layers, and store them."""
        missing = {block.layer: block for block in blocks}
        rows = self.writer.prompts(batch)
        self._further_arrays = {layer: self._compute_further(layer, batch) for layer in missing}
        ids = self.prompts.padded()[rows.start : rows.stop]
        length = torch.tensor(self.prompts.length[rows.start : rows.stop])
        self._report_progress(batch, f"forward to layer {min(missing)}")
        calls: dict[int, _Calls] = {layer: _Calls(block) for layer, block in missing.items()}

        def on_call(call: MixerCall) -> None:
            check_first(call)
            layer = call.site.layer
            calls[layer].add(call)
            if not calls[layer].missing:
                self._launch(layer, calls.pop(layer), length, batch)
            if not calls:
                raise _LastLayerCalledError

        real = closing.real_tokens(length, ids.shape[1])
        options = {**without_cache(self.model), **padding_mask(self.model, real)}
        device = next(self.model.parameters()).device
        with suppress(_LastLayerCalledError), hooked(self.model, blocks, on_call), torch.no_grad():
            self.model(ids.to(device), **options)
        self._store_launched()
        if calls:
            site = calls[min(calls)].missing[0]
            raise UsageError(f"the model ran without calling its layer {site.name}")

    def _compute_further(
        self, layer: int, batch: int
    ) -> tuple[Mapping[str, np.ndarray], Mapping[str, str]]:
        if self.further is None:
            return {}, {}
        self._report_progress(batch, f"measuring layer {layer}")
        return self.further(self.writer.prompts(batch), layer)

    def _launch(self, layer: int, calls: "_Calls", length: Tensor, batch: int) -> None:
        """Compute a layer and store it, or, if a GPU computes it, the one before it meanwhile.

        Layers of long prompts do not overlap: they would need more memory, and gain little.
        """
        first, *others = calls.in_order
        launched = self._launch_first(first, length, batch)
        further, more = self._further_arrays.pop(layer)
        arrays = dict(further)
        for call in others:  # softmax attention that shares the block with another mixer
            with _name_layer(layer):
                arrays |= capture_attention(call, length, *self._targets_and_separators(batch))
        self._store_launched()
        limit = closing.tolerance(first.output, first.site.adapter)
        self._launched = partial(self._store, first.site, limit, launched, arrays, more, batch)
        if not first.output.is_cuda or first.output.shape[1] > names.LARGEST_WHOLE_MAP:
            self._store_launched()

    def _launch_first(self, call: MixerCall, length: Tensor, batch: int) -> LaunchedLayer:
        layer, channels = call.site.layer, self.channels
        if channels is None and batch > 0:
            stored = self.writer.stored(layer, 0, "channel")
            channels = None if stored is None else stored.tolist()
        with _name_layer(layer):
            return launch_layer(
                *(call, length, channels, self.store_discretized),
                *self._targets_and_separators(batch),
                replays=self._replays,
            )

    def _store_launched(self) -> None:
        """Store the layer that was launched last, unless that is done."""
        store, self._launched = self._launched, None
        if store is not None:
            store()

    def _store(
        self,
        site: MixerSite,
        limit: float,
        launched: LaunchedLayer,
        further: Mapping[str, np.ndarray],
        attributes: Mapping[str, str],
        batch: int,
    ) -> None:
        """Wait for a layer, check its closure, and store it."""
        with _name_layer(site.layer):
            captured = launched.finish()
        unknown = site.adapter.unclosable(site.module) is not None
        closes = unknown or captured.worst_closure <= limit
        if captured.finite and not closes and not self.keep_going:
            raise ClosureError(
                f"layer {site.layer} ({site.adapter.family}): recomputed output differs by "
                f"{captured.worst_closure:.1e}, above {limit:.0e}; closure fails, and its maps may be wrong "
                f"(`keep_going` stores them anyway){_hint(site.module)}"
            )
        arrays = {**captured.arrays, **further}
        self.writer.write(site.layer, batch, arrays, {**captured.attributes, **attributes})
        self._done += 1
        self._report_progress(batch, f"layer {site.layer}")

    def _targets_and_separators(self, batch: int) -> tuple[Tensor | None, Tensor]:
        """The targets of a batch of prompts, None if there are none, and its separators."""
        prompts, target = self.writer.prompts(batch), self.prompts.padded_target()
        rows = slice(prompts.start, prompts.stop)
        return None if target is None else target[rows], self.separator[rows]

    def _report_progress(self, batch: int, step: str) -> None:
        if self.progress is not None:
            done = batch * self._all + self._done
            self.progress(done, self.writer.batches * self._all, step)


def _hint(mixer: nn.Module) -> str:
    """Name hooks or adapters on the mixer's layers: they may be why closure fails."""
    names = [name for name, _ in hooked_layers(mixer)]
    if not names:
        return ""
    return (
        f"; there are hooks or an adapter on its {', '.join(names)}: remove them, merge the adapter "
        "(`merge_and_unload()`), or call `model.eval()` if it has dropout"
    )


class _Calls:
    """The calls that a block has made so far of its mixer and its attention."""

    def __init__(self, block: Block):
        self._block = block
        self._calls: dict[str, MixerCall] = {}

    def add(self, call: MixerCall) -> None:
        self._calls[call.site.name] = call

    @property
    def missing(self) -> list[MixerSite]:
        """The sites that have not been called yet."""
        return [site for site in self._block.sites if site.name not in self._calls]

    @property
    def in_order(self) -> list[MixerCall]:
        """The calls in the order of the block's sites: its mixer first."""
        return [self._calls[site.name] for site in self._block.sites]


@contextmanager
def _name_layer(layer: int) -> Iterator[None]:
    """Prefix the message of an error with the layer."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"layer {layer}: {error}") from error


class _LastLayerCalledError(Exception):
    """Ends a forward: the last requested layer has been called."""


def _prompts(model: Any, prompts: Any) -> Prompts:
    if prompts is None:
        return default_prompts(model)
    return prompts_for(model, prompts)


def _header(
    model: Any,
    blocks: list[Block],
    chosen: list[Block],
    prompts: Prompts,
    channels: Sequence[int] | None,
    store_discretized: bool,
    further: FurtherArrays | None,
    command: str,
) -> CaptureHeader:
    source = getattr(model, "source", None)
    parameter = next(model.parameters())
    dtype = str(parameter.dtype).removeprefix("torch.")
    tokenizer = getattr(model, "tokenizer", None)
    target = prompts.padded_target()
    adapters = [site.adapter for block in chosen for site in block.sites]
    computed = parameter.new_empty(0, dtype=autocast_dtype(parameter.device) or parameter.dtype)
    closes = [closing.tolerance(computed, adapter) for adapter in adapters]
    return CaptureHeader(
        tokens=prompts.padded().numpy(),
        length=torch.tensor(prompts.length).numpy(),
        layers=[block.layer for block in chosen],
        block_kinds=[block.kind for block in blocks],
        target=None if target is None else target.numpy(),
        token_strings=None
        if tokenizer is None
        else [tokenizer.token_strings(row) for row in prompts.tokens],
        prompt_texts=prompts.texts,
        prompt_kinds=prompts.kinds,
        attributes={
            "model": getattr(source, "name", type(model).__name__),
            "model_class": f"{type(model).__module__}.{type(model).__qualname__}",
            "model_digest": source.digest if source else _digest(model),
            "revision": getattr(source, "revision", None) or "",
            "backend": getattr(source, "backend", type(model).__module__.split(".")[0]),
            "dtype": dtype,
            "device": parameter.device.type,
            "n_layer": len(blocks),
            "channels": "loudest" if channels is None else ",".join(map(str, channels)) or "none",
            "discretized": int(store_discretized),
            **({} if further is None else {"further_arrays": ",".join(further.names)}),
            "closure_tolerance": max(closes),
            "ssmlens_version": ssmlens.__version__,
            "torch_version": torch.__version__,
            "command": command,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )


def _digest(model: nn.Module) -> str:
    state = model.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        raise UsageError(
            "some of the model's weights are offloaded (on device meta), and a capture stores the digest of all: "
            "load the whole model onto devices"
        )
    return digest(state)


def _warn_of_attention(blocks: Sequence[Block]) -> None:
    hidden = [b.layer for b in blocks if b.attention and b.attention not in b.sites]
    if hidden:
        log.warning("no attention maps of blocks %s: %s", ", ".join(map(str, hidden)), EAGER)


def _check_channels(site: MixerSite, channels: Sequence[int] | None) -> None:
    dt_bias = site.adapter.weights(site.module).dt_bias  # one value per head
    for channel in channels or ():
        if dt_bias is not None and not 0 <= channel < len(dt_bias):
            raise UsageError(
                f"channel {channel} is out of range: layer {site.layer} has 0..{len(dt_bias) - 1}"
            )


def _share(count: int, part: int, parts: int) -> slice:
    if not 1 <= part <= parts <= count:
        raise UsageError(
            f"shard {part}/{parts}: i/N needs 1 ≤ i ≤ N ≤ {count}, the number of layers"
        )
    return slice((part - 1) * count // parts, part * count // parts)
