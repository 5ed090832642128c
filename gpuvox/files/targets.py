"""Checks of the files that a command will write, made before it does any work."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable

from gpuvox.errors import FileError
from gpuvox.files.names import FILE_TYPES, output_type, split_suffix
from gpuvox.files.text import Name, reason


def check_targets(root: Name, endings: Iterable[str] = ("",), *, maps: Iterable[str] = ()) -> None:
    """Make sure that every file of an output root can be created or replaced.

    Parameters
    ----------
    root : path
        Beginning of the names, including the folder.
    endings : iterable of str
        Rest of the name of each file.
    maps : iterable of str
        Rest of the name of each image, without the extension, which FSLOUTPUTTYPE determines.

    Raises
    ------
    FileError
        The folder does not exist or is not writable; a name is too long for the file system, is missing after a slash,
        or is that of a folder.
    """
    text = os.fspath(root)
    if "\0" in text:
        raise FileError(f"the output {text!r} cannot be written: its name contains a zero byte")
    check_output_root(root)
    suffixes = dict.fromkeys(FILE_TYPES[output_type()])
    images = [f"{split_suffix(f'{text}{stem}')[0]}{suffix}" for stem in maps for suffix in suffixes]
    for path in (*(f"{text}{ending}" for ending in endings), *images):
        _check_target(path)


def check_root_name(root: Name, option: str, example: str) -> None:
    """Make sure that an output root ends in a name, without which files would be called ``.tsv`` or ``_tstat1``.

    Raises
    ------
    FileError
        The root ends in a slash, or is ``.`` or ``..``.
    """
    text = os.fspath(root)
    if os.path.basename(text) in ("", ".", ".."):
        better = os.path.join(text, example)
        raise FileError(f"{option} {text} is a folder; the beginning of file names, such as {better}, is expected")


def _check_target(path: str) -> None:
    """Ask the file system, because not every one allows names of 255 bytes."""
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            name = os.path.basename(path)
            raise FileError(
                f"the output {_shortened(name)} cannot be written: its name of {len(os.fsencode(name))} bytes is too "
                "long for the file system, which usually takes 255"
            ) from None
        return  # it does not exist
    if is_folder:
        raise FileError(f"the output {path} cannot be written: there is a folder of that name")


def _shortened(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:24]}…{name[-32:]}"


def check_not_read(written: Iterable[Name], read: Iterable[Name]) -> None:
    """Make sure that a command does not overwrite a file that it reads.

    Raises
    ------
    FileError
        It would, possibly under another name.
    """
    existing = [path for path in read if os.fspath(path) and os.path.exists(path)]
    for path in written:
        if os.path.exists(path) and any(os.path.samefile(path, other) for other in existing):
            raise FileError(
                f"the output would overwrite {os.fspath(path)}, which is an input; choose another name"
            )


def check_output_root(root: Name) -> None:
    """Make sure that files named `root…` can be created.

    Raises
    ------
    FileError
        The folder does not exist or is not writable.
    """
    folder = os.path.dirname(os.fspath(root)) or "."
    if not os.path.isdir(folder):
        raise FileError(f"the output {os.fspath(root)} cannot be written: there is no folder {folder}")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise FileError(
            f"the output {os.fspath(root)} cannot be written: no file can be created in {folder} ({reason(error)})"
        ) from error
