"""Archives of files, in a form that is the same wherever it is unpacked."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..files import replacing

# Speed counts more than size: what is saved in the network would be spent on two cores.
_GZIP_LEVEL = 1
_ZSTD_LEVEL = 2
_BUFFER = 2**20


class Entry(NamedTuple):
    """A file to be packed: its content's digest, whether it can be run, its size, and where it is."""

    digest: str
    program: bool
    size: int
    path: str
    glibc: int = 0


Manifest = Mapping[str, Entry]


@contextlib.contextmanager
def into(target: Path) -> Iterator[Any]:
    """Give the stream of an archive that is there when the block ends well.

    By what it is compressed, the end of its name says.
    """
    with replacing(target) as fresh, fresh.open("xb") as raw, _compressed(raw, target.suffix) as stream:
        fresh.chmod(0o600)
        yield stream


def fill(
    stream: Any,
    manifest: Manifest,
    names: Iterable[str],
    *,
    top: str,
    tag: str = "",
    notes: Mapping[str, str] | None = None,
    packed: Callable[[int], object] = lambda size: None,
) -> None:
    """Write those files below a directory `top` to the stream of an archive.

    With `tag`, that of a Python, its compiled modules go along, so that no start has to make them anew. `packed`
    is called with the size of each file. `notes` are texts beside `top`.
    """
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT, bufsize=_BUFFER) as tar:
        for name, text in (notes or {}).items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            tar.addfile(info, io.BytesIO(text.encode()))
        for name in sorted(names):
            _add(tar, f"{top}/{name}", manifest[name].path, manifest[name].program)
            if tag and name.endswith(".py"):
                _add_compiled(tar, f"{top}/{name}", manifest[name].path, tag)
            packed(manifest[name].size)


def _add(tar: tarfile.TarFile, name: str, path: str, program: bool) -> None:
    info = tarfile.TarInfo(name)
    # A compiled module names the second in which its source was changed.
    info.mtime = int(os.lstat(path).st_mtime)
    if Path(path).is_symlink():
        info.type, info.linkname = tarfile.SYMTYPE, str(Path(path).readlink())
        tar.addfile(info)
        return
    with Path(path).open("rb") as file:
        info.size = os.fstat(file.fileno()).st_size
        info.mode = 0o755 if program else 0o644
        tar.addfile(info, file)


def _add_compiled(tar: tarfile.TarFile, name: str, path: str, tag: str) -> None:
    module = Path(path)
    compiled = module.parent / "__pycache__" / f"{module.stem}.{tag}.pyc"
    with contextlib.suppress(FileNotFoundError):  # it was never imported, or is compiled anew at this moment
        _add(tar, f"{name.rpartition('/')[0]}/__pycache__/{compiled.name}", str(compiled), program=False)


@contextlib.contextmanager
def _compressed(raw: IO[bytes], suffix: str) -> Iterator[Any]:
    if suffix == ".zst":
        import zstandard

        with zstandard.ZstdCompressor(level=_ZSTD_LEVEL, threads=-1).stream_writer(raw, closefd=False) as stream:
            yield stream
    else:
        with gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=_GZIP_LEVEL, mtime=0) as stream:
            yield stream


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_BUFFER):
            digest.update(chunk)
    return digest.hexdigest()
