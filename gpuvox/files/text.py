"""Text from people and programs: encodings, line ends, numbers."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from gpuvox.errors import FileError

Name = str | os.PathLike[str]
END = re.compile(r"\r\n|\r|\n")
"""Unlike str.splitlines, without the separators of other scripts and of word processors."""
MARKS = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"), (b"\xef\xbb\xbf", "utf-8-sig"))
"""Byte-order marks; spreadsheets write "Unicode text" as UTF-16."""
NUMBER = re.compile(r"[+-]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf(?:inity)?)", re.IGNORECASE)


def reason(error: BaseException) -> str:
    """The reason of an error, as the system words it."""
    return getattr(error, "strerror", None) or str(error).strip() or type(error).__name__


def decode_text(path: Name, content: bytes, *, strict: bool = False) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte-order mark; line ends are kept.

    Parameters
    ----------
    path : path
        Used in messages.
    content : bytes
    strict : bool
        Reject text that is not UTF-8, which is otherwise read as Latin-1.

    Raises
    ------
    FileError
        The file is not text.
    """
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding) if encoding == "utf-16" or b"\0" not in content else "\0"
    except UnicodeDecodeError as error:
        if encoding == "utf-16":
            raise FileError(f"{os.fspath(path)} is not a text file") from error
        if strict:
            line = len(END.split(content[: error.start].decode("latin-1")))
            raise FileError(f"{os.fspath(path)}, line {line}, is not in UTF-8; save it as UTF-8 text") from error
        text = content.decode("latin-1")
    if "\0" in text:
        raise FileError(f"{os.fspath(path)} is not a text file")
    return text


def lines_of(text: str) -> list[str]:
    """The lines of a text, with none after the last line end."""
    lines = END.split(text)
    return lines[:-1] if not lines[-1] else lines


def as_number(text: str) -> float:
    """The number in a cell; NaN if there is none.

    ASCII digits, one decimal point and an exponent with e are accepted; underscores, commas, hexadecimal, digits of
    other scripts and exponents with D are not. Infinity is a number, which callers reject if they need a finite one.
    """
    text = text.strip()
    return float(text) if NUMBER.fullmatch(text) else float("nan")


def finite_row(path: Path, line: int, fields: Sequence[str], columns: int, origin: str) -> list[float]:
    """The numbers of a row; `FileError` unless there is one for each column and all are finite."""
    if len(fields) != columns:
        raise FileError(f"{path}, line {line}: {len(fields)} numbers in the row; {origin} says {columns}")
    values = [as_number(field) for field in fields]
    for field, value in zip(fields, values):
        if not math.isfinite(value):
            raise FileError(f"{path}, line {line}: {field!r} is not a finite number")
    return values
