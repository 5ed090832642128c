"""The content of files from others: bytes, lines and JSON of limited size; hashes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

from gpuvox.errors import FileError
from gpuvox.files.text import Name, decode_text, lines_of, reason

# Bytes read at a time; also the buffer for gzip.
READ_SIZE = 1 << 20
# Bytes of a table, a matrix or permutations, and of JSON or TOML: no real file is larger, and one that is would fill
# the memory before an error could be reported.
MOST_TEXT = 1 << 30
MOST_SETTINGS = 1 << 26


def read_bytes(path: Name, most: int = MOST_TEXT) -> bytes:
    """The content of a file of at most `most` bytes.

    Raises
    ------
    FileError
        The file cannot be read, or is larger, which is checked before anything is read.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not (stat.S_ISREG(status.st_mode) and status.st_size > most):
                content = some_bytes(file, most + 1)
                if len(content) <= most:
                    return content
    except (OSError, ValueError) as error:  # a name with a zero byte
        raise FileError(f"{os.fspath(path)} cannot be read: {reason(error)}") from error
    raise FileError(f"{os.fspath(path)} has more than {most >> 20} MiB, which is too large for a file of its kind")


def some_bytes(file: Any, count: int) -> bytes:
    """The next `count` bytes of an open file, or all that are left."""
    parts: list[bytes] = []
    while count > 0 and (more := file.read(min(count, READ_SIZE))):
        parts.append(more)
        count -= len(more)
    return b"".join(parts)


def text_lines(path: Name) -> list[str]:
    """The lines of a text file; errors of `read_bytes` and `decode_text`."""
    return lines_of(decode_text(path, read_bytes(path)))


def read_json(name: Name) -> dict[str, Any]:
    """The content of a JSON file, empty if there is none; `FileError` if it is not a JSON object."""
    path = Path(name)
    if not path.exists():
        return {}
    text = read_bytes(path, MOST_SETTINGS)
    try:
        content = json.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} cannot be read: {reason(error)}") from error
    if not isinstance(content, dict):
        raise FileError(f"{path} is not a JSON object")
    return content


def hash_file(path: Name) -> str:
    """SHA-256 of a file, in hexadecimal."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise FileError(f"{os.fspath(path)} cannot be read: {reason(error)}") from error
