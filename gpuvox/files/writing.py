"""Text and JSON files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gpuvox.errors import FileError
from gpuvox.files.text import Name, reason


@contextlib.contextmanager
def atomic(path: Name, temporary: Path | None = None) -> Iterator[Path]:
    """A temporary path in the folder of `path`, renamed to `path` at the end, or removed after any failure.

    Parameters
    ----------
    path : path
    temporary : Path, optional
        Its name, in the same folder; by default a random hidden name, which is short even if that of `path` is long.

    Raises
    ------
    FileError
        For every `OSError` in the context: no such folder, no permission, disk full.
    """
    path = Path(path)
    temporary = temporary or path.with_name(f".gpuvox-{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Name, text: str) -> None:
    """Write a text file, complete or not at all (`FileError`)."""
    with atomic(path) as temporary:
        # Names of files that are not UTF-8 contain lone surrogates, which JSON can hold as \udcXX.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: Name, content: Mapping[str, Any]) -> None:
    """Write JSON with sorted keys and indentation, complete or not at all.

    Numpy arrays and numbers, paths and tuples are converted; NaN and infinity are a `FileError`, because JSON cannot
    represent them.
    """
    try:
        text = json.dumps(content, sort_keys=True, indent=2, allow_nan=False, default=_plain, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise FileError(f"{os.fspath(path)} cannot be written: {error}") from error
    write_text(path, text + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"{value!r} cannot be represented in JSON")
