"""Refuse an unsafe file before its values are read.

A file from elsewhere may be damaged or of another version. A hostile one may read other files (external links,
external storage, virtual datasets, soft links), load code (unknown filters) or fill the memory (declared terabytes).
`open_guarded` walks the whole tree, whose shape is known, through h5py's low-level calls. It checks declarations,
follows hard links only, and reads no values but the attributes it has checked.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z  # pyright: ignore[reportAttributeAccessIssue]

from ssmlens.errors import CaptureFileError, UsageError
from ssmlens.files import descriptors
from ssmlens.names import BLOCK_KINDS, CHANNEL, MAMBA
from ssmlens.store.hdf5 import STRUCTURE_ATTRIBUTES, declared_axes, read_attributes
from ssmlens.store.schema import (
    FINITE_STATES,
    FORMAT,
    HEADER,
    LAYER,
    LAYER_KINDS,
    PROMPT_DIGEST,
    REQUIRED_ROOT,
    ROOT_ARRAYS,
    STORED_LAYER_ARRAYS,
    TEXT_ARRAYS,
    WHOLE,
    Attribute,
    axis_of_size,
    block_problem,
    layer_axes,
    layer_name,
    missing_arrays,
    version_problem,
)

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FILTERS = {h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE, h5z.FILTER_FLETCHER32}
_LINKS = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}
_MAX_LINKS = 10_000
_MAX_ATTRIBUTES = 1_000
_MAX_ATTRIBUTE_BYTES = 1 << 20

# Deflate reaches 1032 : 1, and padding takes no room. A file that declares more is not a capture.
_EXPANSION = 2048
_SMALL = 1 << 24

_AXES = {axis for axes in STORED_LAYER_ARRAYS.values() for axis in axes}
_ROOT_AXES = {axis for axes in ROOT_ARRAYS.values() for axis in axes}
_DIMENSIONS = (_AXES | _ROOT_AXES) - {
    *STORED_LAYER_ARRAYS
}  # datasets that only give the length of an axis


def open_guarded(path: Path) -> h5py.File:
    """Open an HDF5 file of a capture for reading, or refuse it.

    Raises:
        UsageError: There is no such file.
        CaptureFileError: It is damaged, not a capture, of another schema version, or unsafe; the message names the
            file, the object and what to do.
        OpenFilesError: No more files can be opened.
    """
    try:
        if not path.is_file():
            raise (CaptureFileError if path.exists() else UsageError)(f"{path} is not a file")
        with path.open("rb") as stream:
            if stream.read(len(_SIGNATURE)) != _SIGNATURE:
                raise CaptureFileError(f"{path} is not an HDF5 file, so not a capture")
    except OSError as error:
        descriptors.raise_if_exhausted(error)
        raise CaptureFileError(f"cannot read {path}: {error.strerror}") from error
    file = open_unguarded(path)
    try:
        with reporting_damage(path, "its structure"):
            _Guard(path).file(file)
    except BaseException:
        file.close()
        raise
    return file


def open_unguarded(path: Path) -> h5py.File:
    """Open an HDF5 file for reading without walking it: enough for a file that this process has written itself.

    Raises:
        CaptureFileError: It is damaged.
        OpenFilesError: No more files can be opened.
    """
    with reporting_damage(path, "its structure"):
        return h5py.File(path, "r")


@contextmanager
def reporting_damage(path: Path, part: str) -> Iterator[None]:
    """Turn the errors that HDF5 raises on bad bytes into one CaptureFileError, which names `part`."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, UsageError):
            raise
        descriptors.raise_if_exhausted(error)
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CaptureFileError(
            f"{path}: {part} is damaged or cut short ({cause}); capture it again"
        ) from error


class _Guard:
    """The walk over one file; every method refuses by raising CaptureFileError."""

    def __init__(self, path: Path):
        self.path = path
        self.max_bytes = max(_SMALL, _EXPANSION * path.stat().st_size)
        self._is_later_version = False  # a later version may have unknown members

    def file(self, file: h5py.File) -> None:
        root = h5g.open(file.id, b"/")
        self._attributes(root, "the root")
        attributes = read_attributes(file)
        self._version(attributes)
        kind = attributes.get("kind")
        if kind not in (WHOLE, HEADER, LAYER):
            self._refuse(f"its kind is unknown ({kind!r})")
        known = {*ROOT_ARRAYS, *_ROOT_AXES} if kind != LAYER else set()
        known |= {"layers"} if kind != HEADER else set()
        members = self._members(root, "", known)
        if kind != HEADER:
            self._require("", members, ("layers",))
        if kind != LAYER:
            self._require("", members, REQUIRED_ROOT)
            self._arrays(root, "", [m for m in members if m != "layers"])
            self._layer_list(file, None if kind == HEADER else root)
        if kind != HEADER:
            self._layers(root, first=attributes.get("first_prompt", 0) == 0)
        self._require(
            "the root's attributes",
            list(attributes),
            ["header_digest", *(["digest"] if kind == WHOLE else [])],
        )

    def _version(self, attributes: Mapping[str, Attribute]) -> None:
        if attributes.get("format") != FORMAT:
            self._refuse("it is HDF5 but not an ssmlens capture")
        self._is_later_version = attributes.get("schema_version") not in (1, 2)
        if problem := version_problem(
            attributes.get("schema_version"), attributes.get("needs", "")
        ):
            raise CaptureFileError(f"{self.path} {problem}")

    def _layer_list(self, file: h5py.File, root: h5g.GroupID | None) -> None:
        if "layers" not in file.attrs:
            self._refuse("the root lacks its attribute layers")
        listed = np.asarray(file.attrs["layers"])
        if listed.dtype.kind != "i" or listed.ndim != 1 or len(listed) > _MAX_LINKS:
            self._refuse("the attribute layers is not a list of block indices")
        if root is not None:
            known = {layer_name(int(index)) for index in listed}
            group = self._open_group(root, b"layers", "layers")
            self._require("layers", self._members(group, "layers", known), sorted(known))

    def _layers(self, root: h5g.GroupID, *, first: bool) -> None:
        group = self._open_group(root, b"layers", "layers")
        for name in self._members(group, "layers", None):
            where = f"layers/{name}"
            if not name.isascii() or not name.isdigit() or layer_name(int(name)) != name:
                self._refuse(f"{where} is not a layer's name")
            layer = self._open_group(group, name.encode(), where)
            known = {*STORED_LAYER_ARRAYS, *_AXES}
            members = self._members(layer, where, None if self._is_later_version else known)
            self._require(where, members, [PROMPT_DIGEST])
            self._attributes(layer, where)
            attributes = read_attributes(h5py.Group(layer))
            kind = attributes.get("kind", MAMBA)
            later = self._is_later_version and isinstance(kind, str) and kind not in BLOCK_KINDS
            if kind not in LAYER_KINDS and not later:
                self._refuse(f"the kind of {where} is unknown ({kind!r})")
            if missing := missing_arrays(members, attributes, first=first):
                self._refuse(f"{where} lacks {', '.join(missing)}")
            self._require(f"{where}'s attributes", list(attributes), ["digest", "static_digest"])
            if attributes.get("finite") not in FINITE_STATES:
                self._refuse(f"{where} says finite={attributes.get('finite')!r}")
            sizes = self._arrays(layer, where, members)
            if problem := block_problem(sizes, attributes):
                self._refuse(f"{where}: {problem}")

    def _members(self, group: h5g.GroupID, where: str, known: set[str] | None) -> list[str]:
        if group.get_num_objs() > _MAX_LINKS:
            self._refuse(f"{where or 'the root'} declares {group.get_num_objs()} members")
        links: list[tuple[bytes, int]] = []
        group.links.iterate(lambda name, info: links.append((name, info.type)), info=True)
        for raw, kind in links:
            name = raw.decode("utf-8", "replace")
            at = f"{where}/{name}".lstrip("/")
            if kind != h5l.TYPE_HARD:
                self._refuse(f"{at} is {_LINKS.get(kind, 'a link of an unknown kind')}")
            if known is not None and name not in known:
                self._refuse(f"{at} is not part of a capture")
        return [raw.decode() for raw, _ in links]

    def _open_group(self, parent: h5g.GroupID, name: bytes, where: str) -> h5g.GroupID:
        if h5o.get_info(parent, name).type != h5o.TYPE_GROUP:
            self._refuse(f"{where} is not a group")
        return h5g.open(parent, name)

    def _arrays(self, group: h5g.GroupID, where: str, members: list[str]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for name in members:
            at = f"{where}/{name}".lstrip("/")
            if h5o.get_info(group, name.encode()).type != h5o.TYPE_DATASET:
                self._refuse(f"{at} is not a dataset")
            dataset = h5d.open(group, name.encode())
            self._storage(dataset, at)
            self._attributes(dataset, at)
            shape = dataset.get_space().get_simple_extent_dims()
            self._type(dataset, name, at)
            declared = math.prod(shape) * dataset.get_type().get_size()
            if not 0 < declared <= self.max_bytes:
                self._refuse(f"{at} declares {declared} bytes, out of all proportion to the file")
            axes = self._axes(dataset, len(shape), name, where, at)
            for axis, size in zip(axes, shape, strict=True):
                one = axis_of_size(axis)
                if sizes.setdefault(one, size) != size:
                    self._refuse(f"{at} has {size} along {axis}, its neighbours {sizes[one]}")
        return sizes

    def _axes(
        self, dataset: h5d.DatasetID, ndim: int, name: str, where: str, at: str
    ) -> tuple[str, ...]:
        declared = declared_axes(dataset)
        if name in ROOT_ARRAYS and not where:
            axes = ROOT_ARRAYS[name]
        elif name in STORED_LAYER_ARRAYS and where:
            axes = layer_axes(name, ndim)
        else:  # a dimension, or an array of a later version, which declares its axes
            axes = declared or (name,)
        if len(axes) != ndim:
            self._refuse(f"{at} has {ndim} axes, it must have {' '.join(axes)}")
        if declared not in (None, axes):
            self._refuse(f"{at} declares axes {' '.join(declared)}, it must have {' '.join(axes)}")
        return axes

    def _storage(self, dataset: h5d.DatasetID, at: str) -> None:
        properties = dataset.get_create_plist()
        if properties.get_layout() == h5d.VIRTUAL:
            self._refuse(f"{at} is a virtual dataset")
        if properties.get_external_count():
            self._refuse(f"{at} has external storage")
        if properties.get_layout() != h5d.CHUNKED:
            self._refuse(f"{at} is not chunked, so it has no checksum")
        filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
        if filters - _FILTERS:
            self._refuse(f"{at} needs an unknown filter ({min(filters - _FILTERS)})")
        if not {h5z.FILTER_FLETCHER32, h5z.FILTER_DEFLATE} <= filters:
            self._refuse(f"{at} has no checksum")

    def _type(self, dataset: h5d.DatasetID, name: str, at: str) -> None:
        kind = dataset.get_type()
        text = isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
        integer = isinstance(kind, h5t.TypeIntegerID)
        number = isinstance(kind, h5t.TypeFloatID) or integer
        byte = name == PROMPT_DIGEST or name in _DIMENSIONS
        if name in TEXT_ARRAYS:
            right = text
        elif byte:
            right = integer and kind.get_size() == 1
        elif name in ROOT_ARRAYS or name == CHANNEL:
            right = integer and kind.get_size() in (4, 8)
        elif (
            name not in STORED_LAYER_ARRAYS
        ):  # of a later version: skipped; only its checksum is read
            right = text or number
        else:
            right = number and kind.get_size() in (4, 8)
        if not right:
            self._refuse(f"{at} holds values of an unsupported type ({type(kind).__name__})")

    def _attributes(self, thing: h5g.GroupID | h5d.DatasetID, where: str) -> None:
        count = h5a.get_num_attrs(thing)
        if count > _MAX_ATTRIBUTES:
            self._refuse(f"{where} declares {count} attributes")
        names: list[bytes] = []
        h5a.iterate(thing, lambda name, *_: names.append(name))
        for raw in names:
            name = raw.decode("utf-8", "replace")
            if name in STRUCTURE_ATTRIBUTES:  # references and strings that are never read
                continue
            attribute = h5a.open(thing, raw)
            kind = attribute.get_type()
            text = isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str()
            number = isinstance(kind, h5t.TypeIntegerID | h5t.TypeFloatID)
            empty = attribute.get_space().get_simple_extent_type() == h5s.NULL
            if not (text or number) or empty or attribute.get_storage_size() > _MAX_ATTRIBUTE_BYTES:
                self._refuse(f"the attribute {name} of {where} is of an unsupported type")

    def _require(self, where: str, present: list[str], names: tuple[str, ...] | list[str]) -> None:
        missing = [name for name in names if name not in present]
        if missing:
            self._refuse(f"{where or 'the root'} lacks {', '.join(missing)}")

    def _refuse(self, why: str) -> None:
        raise CaptureFileError(f"{self.path} is refused: {why}")
