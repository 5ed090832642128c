"""Names of the files that a command is going to write, checked before it does any work."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.files import Name


def check_targets(root: Name, endings: Iterable[str] = ("",), *, maps: Iterable[str] = ()) -> None:
    """Make sure that every file of an output root can be created, or replaced.

    Parameters
    ----------
    root : path
        What the names begin with, folder included.
    endings : iterable of str
        What follows the root in the name of each file.
    maps : iterable of str
        What follows it in the name of each image, without extension; FSLOUTPUTTYPE says which one comes after it.

    Raises
    ------
    FileError
        There is no such folder, or nothing can be written there; a name that is too long for the file system, that
        is missing after a slash, or that a folder has.
    """
    text = os.fspath(root)
    if "\0" in text:
        raise FileError(f"the output {text!r} cannot be written: its name holds a zero byte")
    files.check_output_root(root)
    suffixes = dict.fromkeys(files.FILE_TYPES[files.output_type()])
    images = [f"{files.split_suffix(f'{text}{stem}')[0]}{suffix}" for stem in maps for suffix in suffixes]
    for path in (*(f"{text}{ending}" for ending in endings), *images):
        _check_target(path)


def check_root_name(root: Name, option: str, example: str) -> None:
    """An output root must end in a name: behind a slash, files would be called ``.tsv`` or ``_tstat1``.

    Raises
    ------
    FileError
        The root ends with a slash, or is ``.`` or ``..``.
    """
    text = os.fspath(root)
    if os.path.basename(text) in ("", ".", ".."):
        better = os.path.join(text, example)
        raise FileError(f"{option} {text} is a folder; the beginning of file names is expected, such as {better}")


def _check_target(path: str) -> None:
    """The file system is asked: not all of them take names of 255 bytes."""
    try:
        is_folder = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            name = os.path.basename(path)
            raise FileError(
                f"the output {_shortened(name)} cannot be written: its name of {len(os.fsencode(name))} bytes is too "
                "long for the file system, which usually takes 255"
            ) from None
        return  # it is not there
    if is_folder:
        raise FileError(f"the output {path} cannot be written: there is a folder of that name")


def _shortened(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:24]}…{name[-32:]}"
