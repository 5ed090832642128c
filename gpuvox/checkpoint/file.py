"""The file of tallies: how it is written and read.

A file of format 1 is::

    gpuvox tally 1\\n
    SHA-256 of all that follows this line, in hexadecimal\\n
    a line of JSON: the identity of the run; for every test and pass its level cap, the permutations done, its arrays\\n
    the arrays, little-endian, one after the other

It holds numbers and text, never code. It is written under another name and renamed, so that it is either complete or
absent. A file that was truncated or edited does not match its checksum and is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpuvox.checkpoint.identity import RunIdentity
from gpuvox.checkpoint.tallies import KeptTest, Tallies
from gpuvox.errors import FileError
from gpuvox.files import atomic
from gpuvox.files.locks import open_own
from gpuvox.runtime.limits import available_bytes
from gpuvox.tally import Tally, spans

MAGIC = b"gpuvox tally "
FORMAT = 1
DIGITS = 64
"""Length of a SHA-256 in hexadecimal."""
DTYPES = ("<f4", "<f8", "<i4", "<i8", "<u4", "<u8")
GROUPS = ("maxima", "below", "total", "nonzero")
"""The dictionaries of arrays of a `permtest.Tally`."""
LARGEST_COUNT = 2**31
"""More permutations, or steps of TFCE, are no number that a file of tallies can truly hold."""
CORRUPT_CONTENT = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError, MemoryError,
)  # fmt: skip
"""Errors that a file with a valid checksum and invalid content may cause; `read` reports each as a `FileError`."""


def write(path: str | os.PathLike[str], tallies: Tallies) -> None:
    """Write tallies; the file is complete or unchanged.

    Raises
    ------
    FileError
        Disk full, no such folder, no permission.
    """
    arrays: list[np.ndarray] = []
    tests = [
        {
            "name": name,
            "level_cap": test.level_cap,
            "passes": [_tally_record(tally, arrays) for tally in test.passes],
        }
        for name, test in tallies.tests.items()
    ]
    identity = tallies.identity
    header = {
        "run": identity.run,
        "shuffles": identity.shuffles,
        "command": identity.command,
        "shard": identity.shard,
    }
    parts: list[Any] = [json.dumps(header | {"tests": tests}, allow_nan=False).encode() + b"\n", *arrays]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    _replace(Path(path), [MAGIC + b"%d\n" % FORMAT + digest.hexdigest().encode() + b"\n", *parts])


def _replace(path: Path, parts: Sequence[Any]) -> None:
    """Replace the file and wait for the disk; the next run recognises the leftovers of a killed process by name."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    with (
        atomic(path, temporary),
        os.fdopen(open_own(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file,
    ):
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())


def remove_unfinished(path: Path) -> None:
    """Remove what processes left behind that were killed while writing this file; the caller holds its lock."""
    leftover = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.new")
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if leftover.fullmatch(name):
                path.with_name(name).unlink(missing_ok=True)


def _tally_record(tally: Tally, arrays: list[np.ndarray]) -> dict[str, Any]:
    """A tally as JSON; its arrays are appended to the list."""
    entries = []
    for group in GROUPS:
        for kind, values in getattr(tally, group).items():
            kept = values[:, tally.done] if group == "maxima" else values
            arrays.append(np.ascontiguousarray(kept, dtype=values.dtype.newbyteorder("<")))
            entries.append([group, kind, arrays[-1].dtype.str, arrays[-1].shape[1]])
    return {
        "n": tally.n, "done": list(spans(tally.done)), "finished": tally.is_complete, "arrays": entries,
    }  # fmt: skip


def read(path: str | os.PathLike[str]) -> Tallies:
    """Read tallies.

    Raises
    ------
    FileError
        The file cannot be read, is larger than the free memory, is not a file of tallies or has another format, or was
        truncated or edited.
    """
    check_kind(Path(path))
    content = _content(path)
    first, _, digest = content[:200].partition(b"\n")
    if first != MAGIC + b"%d" % FORMAT:
        number = first[len(MAGIC) :][:20].decode(errors="replace")
        raise FileError(f"{os.fspath(path)} has format {number!r}; this version of gpuvox reads format {FORMAT}")
    start = len(first) + 2 + DIGITS
    body = memoryview(content)[start:]
    if hashlib.sha256(body).hexdigest().encode() + b"\n" != digest[: DIGITS + 1]:
        raise FileError(f"{os.fspath(path)} is damaged: its content does not match its checksum")
    line = content[start : content.find(b"\n", start)]
    try:
        return _parsed(line, body[len(line) + 1 :])
    except CORRUPT_CONTENT as error:
        raise FileError(f"{os.fspath(path)} has invalid content: {error}") from error


def _content(path: str | os.PathLike[str]) -> bytes:
    """The content of a file, whose size is checked first, because it may come from others."""
    try:
        with open(path, "rb") as file:
            size, free = os.fstat(file.fileno()).st_size, available_bytes()
            if free is None or size <= free:
                return file.read(size)
    except OSError as error:
        raise FileError(f"{os.fspath(path)} cannot be read: {error.strerror}") from error
    raise FileError(f"{os.fspath(path)} has {size >> 20} MiB, more than the free memory ({free >> 20} MiB)")


def check_kind(path: Path) -> None:
    """Raise `FileError` for files of another kind, which may be large, and for devices and pipes, which may not end."""
    try:
        if path.exists() and not path.is_file():
            raise FileError(f"{path} is a {'folder' if path.is_dir() else 'device or a pipe'}; a file is expected")
        with path.open("rb") as file:
            begins = file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    if not begins:
        raise FileError(f"{path} is not a file of tallies as written by --checkpoint and --shard")


def check_is_no_link(path: Path) -> None:
    """Raise `FileError` for a symbolic link."""
    if path.is_symlink():
        raise FileError(
            f"{path} is a link; a checkpoint must be a regular file, because it is replaced and removed"
        )


def read_to_resume(path: str | os.PathLike[str]) -> Tallies:
    """Read the checkpoint that a run resumes from; errors of `read`, and `FileError` if there is none."""
    check_is_no_link(Path(path))
    if not os.path.exists(path):
        raise FileError(f"--resume: there is no checkpoint {os.fspath(path)}")
    return read(path)


def _parsed(line: bytes, rest: memoryview) -> Tallies:
    header = json.loads(line)
    run = {part: dict(header["run"][part]) for part in ("software", "files", "options")}
    shuffles = {str(name): _count(n, LARGEST_COUNT) for name, n in header["shuffles"].items()}
    shard = None if header["shard"] is None else (_count(header["shard"][0]), _count(header["shard"][1]))
    tallies = Tallies(RunIdentity(run, shuffles, tuple(map(str, header["command"])), shard))
    at = 0
    for test in header["tests"]:
        passes = []
        for described in test["passes"]:
            tally, at = _tally(described, rest, at)
            passes.append(tally)
        if test["name"] not in shuffles or any(tally.n != shuffles[test["name"]] for tally in passes[:2]):
            raise ValueError(f"{test['name']!r} is not a test of the run")
        tallies.tests[test["name"]] = KeptTest(_count(test["level_cap"], LARGEST_COUNT), passes)
    if at != len(rest):
        raise ValueError(f"{len(rest) - at} bytes at the end belong to no array")
    return tallies


def _tally(described: Mapping[str, Any], rest: memoryview, at: int) -> tuple[Tally, int]:
    """A tally, and where in the file it ends."""
    tally = Tally(_count(described["n"], LARGEST_COUNT))
    for start, stop in described["done"]:
        if not 0 <= _count(start) < _count(stop) <= tally.n or tally.done[start:stop].any():
            raise ValueError(f"permutations {start} to {stop} of {tally.n}")
        tally.done[start:stop] = True
    for group, kind, dtype, columns in described["arrays"]:
        if group not in GROUPS or dtype not in DTYPES or not isinstance(kind, str):
            raise ValueError(f"an array {group!r} of type {dtype!r}")
        values = np.frombuffer(rest, np.dtype(dtype), 2 * _count(columns), at).reshape(2, columns)
        at += values.nbytes
        values = values.astype(values.dtype.newbyteorder("="))
        if group == "maxima":
            maxima, values = values, np.zeros((2, tally.n), values.dtype)
            values[:, tally.done] = maxima
        getattr(tally, group)[kind] = values
    return tally, at


def _count(value: Any, most: float = math.inf) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{value!r} is not a count")
    return value
