"""Open a capture: one file or a folder."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
import xarray as xr
from jaxtyping import Integer

from ssmlens.errors import CaptureFileError, SsmlensError, UsageError
from ssmlens.files.place import PARTIAL, identity, partial_path
from ssmlens.names import BLOCK, OTHER, PROMPT, TOKEN
from ssmlens.notebook import ShownInNotebooks
from ssmlens.store import digest, hdf5
from ssmlens.store.guard import open_guarded, open_unguarded, reporting_damage
from ssmlens.store.header import CaptureHeader
from ssmlens.store.layer import Layer
from ssmlens.store.layer_file import stored_layer
from ssmlens.store.manifest import read_manifest
from ssmlens.store.schema import HEADER, WHOLE, Attribute, layer_name

_TRIES = 5
OpenFile = Callable[[Path], h5py.File]


def open_capture(path: Path | str) -> "Capture":
    """Open a complete capture: an HDF5 file or a folder with `manifest.json`. Arrays are read on demand.

    Raises:
        UsageError: There is no such capture.
        CaptureFileError: It is damaged, unfinished, of another schema version, or unsafe (links and storage outside the
            file, unknown filters, sizes out of proportion).
        OpenFilesError: No more files can be opened: a folder takes one for each of its layers.
    """
    return _open(Path(path), open_guarded)


def open_written(path: Path) -> "Capture":
    """Open a capture of which this process has just written every file, without the checks against unsafe files.

    Raises: As `open_capture`.
    """
    return _open(path, open_unguarded)


def _open(path: Path, open_file: OpenFile) -> "Capture":
    _check_finished(path)
    for _ in range(_TRIES):
        # A new capture may replace the folder meanwhile: then layers are mixed or missing.
        before = identity(path)
        files = ExitStack()
        try:
            if path.is_dir():
                return _open_folder(path, files, open_file)
            return _open_file(path, files, open_file)
        except BaseException as error:
            files.close()
            replaced = isinstance(error, SsmlensError) and identity(path) != before
            if not replaced:
                raise
    raise CaptureFileError(f"{path} keeps being replaced by new captures; open it later")


class Capture(ShownInNotebooks):
    """A stored capture. Open one with `open_capture`; it is a context manager.

    Attributes:
        path: The file or folder.
        header: The request: prompts, layers and model.
        digest: SHA-256 of the capture's content, as it was written (see `verify`).
        schema_version: Version of the schema that it was written with.
        files: The open files.
    """

    def __init__(
        self,
        path: Path,
        header: CaptureHeader,
        digest: str,
        schema_version: int,
        groups: dict[int, tuple[h5py.Group, Path]],
        files: ExitStack,
    ):
        self.path = path
        self.header = header
        self.digest = digest
        self.schema_version = schema_version
        self.files = files
        self._layers = {i: Layer(group, i, header, where) for i, (group, where) in groups.items()}

    @property
    def attributes(self) -> dict[str, Attribute]:
        """Model, revision, dtype, backend, command, ..."""
        return dict(self.header.attributes)

    @property
    def closure_tolerance(self) -> float:
        """The largest acceptable closure error: it depends on dtype and kernels."""
        return self.header.closure_tolerance

    @property
    def layers(self) -> tuple[int, ...]:
        """Block indices of the captured layers, ascending."""
        return tuple(self._layers)

    @property
    def n_layer(self) -> int:
        """Number of blocks of the model, captured or not."""
        return int(self.header.attributes.get("n_layer", self.layers[-1] + 1))

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return self.header.prompts

    @property
    def tokens(self) -> Integer[np.ndarray, "prompt token"]:
        """Token ids, padded on the right."""
        return self.header.tokens

    @property
    def length(self) -> Integer[np.ndarray, " prompt"]:
        """Number of real tokens of each prompt."""
        return self.header.length

    @property
    def target(self) -> Integer[np.ndarray, "prompt token"] | None:
        """Position that each query must copy from, -1 for none; None where no prompt has any."""
        return self.header.target

    @property
    def prompt_texts(self) -> list[str]:
        """Each prompt as text."""
        return list(self.header.prompt_texts or [])

    @property
    def prompt_kinds(self) -> list[str]:
        """Kind of each prompt: "copy", "repeat", "text", "tokens"."""
        return list(self.header.prompt_kinds or [])

    @property
    def block_kinds(self) -> list[str]:
        """Kind of each block of the model (`names.BLOCK_KINDS`); a capture of version 1 knows only captured blocks."""
        if self.header.block_kinds is not None:
            return list(self.header.block_kinds)
        kinds = {index: layer.kind for index, layer in self._layers.items()}
        return [kinds.get(block, OTHER) for block in range(self.n_layer)]

    def token_strings(self, prompt: int) -> list[str]:
        """The real tokens of one prompt as text; their ids if the capture has no text."""
        if not 0 <= prompt < self.prompts:
            raise UsageError(f"prompt {prompt} is out of range: 0..{self.prompts - 1}")
        return self.header.strings(prompt)

    def layer(self, index: int) -> Layer:
        """One layer by its block index. Raises UsageError if it was not captured."""
        if index not in self._layers:
            raise UsageError(
                f"{self.path} has no layer {index}; it has {_join_layers(self.layers)}"
            )
        return self._layers[index]

    def to_xarray(self) -> xr.DataTree:
        """The capture as a lazy xarray tree: `/`, `/layers/005`, ...

        `xarray.open_datatree(path, engine="h5netcdf")` opens the same file, but it walks the file for every dimension,
        which is slow with many layers.
        """
        root = xr.Dataset(
            {
                "tokens": ((PROMPT, TOKEN), self.tokens),
                "length": ((PROMPT,), self.length),
                "prompt_texts": ((PROMPT,), self.prompt_texts),
                "prompt_kinds": ((PROMPT,), self.prompt_kinds),
            },
            attrs={**self.attributes, "digest": self.digest},
        )
        if self.header.block_kinds is not None:
            root["block_kinds"] = ((BLOCK,), self.block_kinds)
        if self.target is not None:
            root["target"] = ((PROMPT, TOKEN), self.target)
        nodes = {f"layers/{layer_name(i)}": _tree_node(layer) for i, layer in self._layers.items()}
        return xr.DataTree.from_dict({"/": root, **nodes})

    def close(self) -> None:
        """Close the files. Arrays already read stay valid; lazy ones do not."""
        self.files.close()

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        model = self.attributes.get("model", "an unnamed model")
        tokens = "/".join(str(n) for n in sorted(set(self.length.tolist())))
        return (
            f"<Capture {self.path}: {model}, layers {_join_layers(self.layers)} of {self.n_layer}, "
            f"{self.prompts} prompts of {tokens} tokens>"
        )


def _open_file(path: Path, files: ExitStack, open_file: OpenFile) -> Capture:
    file = files.enter_context(open_file(path))
    header, attributes = _read_header(file, path, WHOLE)
    with reporting_damage(path, "its structure"):
        groups = {i: (stored_layer(file, i), path) for i in header.layers}
    version = int(attributes["schema_version"])
    return _check_parts(Capture(path, header, str(attributes["digest"]), version, groups, files))


def _open_folder(folder: Path, files: ExitStack, open_file: OpenFile) -> Capture:
    manifest = read_manifest(folder)
    path = folder / manifest.header
    with open_file(path) as file:
        header, attributes = _read_header(file, path, HEADER)
    if list(manifest.layers) != list(header.layers):
        raise CaptureFileError(f"{folder}: its manifest and its header list different layers")
    groups: dict[int, tuple[h5py.Group, Path]] = {}
    for index, name in manifest.layers.items():
        path = folder / name
        file = files.enter_context(open_file(path))
        if hdf5.read_attributes(file)["header_digest"] != attributes["header_digest"]:
            raise CaptureFileError(f"{path} belongs to another capture")
        with reporting_damage(path, "its structure"):
            groups[index] = (stored_layer(file, index), path)
    version = int(attributes["schema_version"])
    return _check_parts(Capture(folder, header, manifest.digest, version, groups, files))


def _read_header(
    file: h5py.File, path: Path, kind: str
) -> tuple[CaptureHeader, dict[str, Attribute]]:
    attributes = hdf5.read_attributes(file)
    if attributes["kind"] != kind:
        raise CaptureFileError(
            f"{path} is a part of a capture ({attributes['kind']}); open its folder"
        )
    with reporting_damage(path, "its header"):
        return CaptureHeader.read(file), attributes


def _check_parts(capture: Capture) -> Capture:
    """Refuse layers of other prompts, and parts that do not match the capture's digest."""
    layers = [capture.layer(index) for index in capture.layers]
    for layer in layers:
        if layer.prompts_and_tokens != capture.tokens.shape:
            raise CaptureFileError(
                f"{capture.path}: layer {layer.index} holds other prompts than the header"
            )
    computed = digest.capture_digest(capture.header.digest(), [layer.digest for layer in layers])
    if computed != capture.digest:
        raise CaptureFileError(
            f"{capture.path}: its header and layers are not those it was completed with; capture it again"
        )
    return capture


def _check_finished(path: Path) -> None:
    half = path if path.name.endswith(PARTIAL) else partial_path(path)
    if half.is_dir() and (half == path or not path.exists()):
        raise CaptureFileError(
            f"{half} is not finished: run the same capture again with `resume` to complete it"
        )
    if not path.exists():
        raise UsageError(f"there is no capture {path}")


def _tree_node(layer: Layer) -> xr.Dataset:
    arrays = {name: layer.lazy(name).variable for name in layer.names}
    return xr.Dataset(arrays, attrs={**layer.attributes, "digest": layer.digest})


def _join_layers(layers: Sequence[int]) -> str:
    """Format as `0-11` if the layers are consecutive, else as `0, 3, 5`."""
    if len(layers) > 2 and len(layers) == layers[-1] - layers[0] + 1:
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(str(index) for index in layers)
