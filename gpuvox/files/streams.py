"""Files read from beginning to end, gzipped or not."""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np

from gpuvox.errors import FileError
from gpuvox.files.contents import READ_SIZE, some_bytes
from gpuvox.files.text import Name
from gpuvox.types import AnyArray

# The first bytes of a gzip file, and of each of its members.
GZIP_MAGIC = b"\x1f\x8b"
# Errors of zlib, gzip and the system for a truncated or damaged file; absurd offsets overflow.
DAMAGE = (OSError, EOFError, zlib.error, OverflowError)


def open_stream(path: Path) -> Any:
    """A file, opened to be read; unzipped if it is gzipped, if its name ends in .gz and its content agrees."""
    file = open(path, "rb", buffering=0)  # noqa: SIM115
    return GzipStream(file) if path.suffix == ".gz" and starts_with(path, (GZIP_MAGIC,)) else file


def starts_with(path: Path, beginnings: tuple[bytes, ...]) -> bool:
    """Whether a file starts with one of these byte strings."""
    with open(path, "rb") as file:
        return file.read(max(map(len, beginnings))).startswith(beginnings)


class GzipStream(contextlib.AbstractContextManager[Any]):
    """A gzip file, read from its beginning in large steps.

    Python's own reader decompresses a few kilobytes at a time, so that threads spend their time waiting for the
    interpreter lock: two were slower than one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._member, self._rest = file, zlib.decompressobj(zlib.MAX_WBITS | 16), b""
        self._ended = False

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none at the end; zlib verifies the checksum of each member."""
        while True:
            if self._ended or (self._member.eof and not self._next_member()):
                return b""
            packed = self._rest or self._file.read(READ_SIZE // 4)
            if not packed:
                raise EOFError("the compressed data end early")
            values = self._member.decompress(packed, size)
            self._rest = self._member.unconsumed_tail
            if values:
                return values

    def _next_member(self) -> bool:
        """Whether another member follows; anything else (padding, such as zeros from a tape) is ignored, as in gzip."""
        self._rest = (self._member.unused_data + self._rest).lstrip(b"\0")
        while len(self._rest) < len(GZIP_MAGIC):
            data = self._file.read(READ_SIZE // 4)
            if not data:
                break
            self._rest = (self._rest + data).lstrip(b"\0")
        self._ended = not self._rest.startswith(GZIP_MAGIC)
        if not self._ended:
            self._member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        return not self._ended

    def readinto(self, view: memoryview) -> int:
        """As `read`, into a buffer."""
        values = self.read(len(view))
        view[: len(values)] = values
        return len(values)

    def seek(self, offset: int) -> None:
        """Skip bytes from the beginning of the file."""
        while offset > 0 and (values := self.read(min(offset, READ_SIZE))):
            offset -= len(values)


def fill(file: IO[bytes], array: AnyArray) -> None:
    """Read as many bytes as the array has into it."""
    view = array.view(np.uint8).data
    while len(view):
        count = file.readinto(view[:READ_SIZE])  # type: ignore[attr-defined]
        if not count:
            raise EOFError(f"the file ends {len(view)} bytes early")
        view = view[count:]


def check_end(file: GzipStream, name: Name) -> None:
    """Read to the end, where gzip has its checksum; at most a little padding may come before it."""
    if len(some_bytes(file, READ_SIZE + 1)) > READ_SIZE:
        raise FileError(f"{os.fspath(name)} is damaged: it holds more data than its header announces")
