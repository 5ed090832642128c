"""Locks, and files of gpuvox beside the results that are opened without following links.

A folder of results may come from somebody else, or be writable by others. Files that a run keeps there are opened as
regular files with a single name, never through a link, and are not changed before they are known to be gpuvox's.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from gpuvox.errors import FileError, InUseError
from gpuvox.files.targets import check_output_root
from gpuvox.files.text import Name

HOLDER = re.compile(rb"(process \d+ on [^\n]{0,200})?\s*")
"""Content of a lock file."""

_without_locks: list[str] = []
"""Folders in use for which the warning was given that they do not support locks."""


def open_own(path: Name, flags: int) -> int:
    """Open a regular file that has a single name, without following links; returns a file descriptor.

    Parameters
    ----------
    path : path
    flags : int
        As for `os.open`.

    Raises
    ------
    FileError
        The path is a link, has a second name, or is not a file.
    OSError
        As for `os.open`.
    """
    try:
        number = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError:
        if os.path.islink(path):
            raise FileError(f"{os.fspath(path)} is a link, which gpuvox does not follow; remove it") from None
        raise
    status = os.fstat(number)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return number
    os.close(number)
    kind = "has a second name elsewhere (a hard link)" if stat.S_ISREG(status.st_mode) else "is not a regular file"
    raise FileError(f"{os.fspath(path)} {kind}, and is left alone; remove it")


class Lock:
    """A lock file that this process holds, from `hold` to `release`.

    Attributes
    ----------
    is_held : bool
        False on file systems without locks.
    """

    def __init__(self, path: Path, number: int | None, folder: str = "") -> None:
        self._path, self._number, self._folder = path, number, folder

    @property
    def is_held(self) -> bool:
        """Whether no other process can hold it."""
        return self._number is not None

    def release(self) -> None:
        """Release the lock and remove its file."""
        if self._folder:
            _without_locks.remove(self._folder)
            self._folder = ""
        if self._number is None:
            return
        with contextlib.suppress(OSError):
            if _is_at(self._number, self._path):
                os.unlink(self._path)  # while the lock is held, so that no other process has it
        os.close(self._number)
        self._number = None


def hold(path: Name, what: str, warn: Callable[[str], None]) -> Lock:
    """Create a lock file and lock it; the lock ends with its process, however that ends.

    Parameters
    ----------
    path : path
        The lock file.
    what : str
        What is locked, in messages.
    warn : callable
        Receives a sentence if the file system does not support locks; nothing is locked then.

    Raises
    ------
    InUseError
        Another process holds the lock.
    FileError
        The file cannot be created, or is not a lock file.
    """
    path = Path(path)
    while True:
        number = _opened(path, what)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(number, 300).decode(errors="replace").strip()
            os.close(number)
            raise InUseError(what, holder) from None
        except OSError as error:
            return _unlockable(path, number, f"{what} cannot be locked ({error.strerror})", warn)
        # Its holder may have removed the file after it was opened here and before it was locked.
        if _is_at(number, path):
            _sign(path, number)
            return Lock(path, number)
        os.close(number)


@contextlib.contextmanager
def output(root: Name, warn: Callable[[str], None]) -> Iterator[None]:
    """Lock an output: one process at a time writes ``root…``; errors of `hold` and `targets.check_output_root`."""
    check_output_root(root)
    lock = hold(f"{os.fspath(root)}.lock", f"the output {os.fspath(root)}", warn)
    try:
        yield
    finally:
        lock.release()


def _opened(path: Path, what: str) -> int:
    try:
        return open_own(path, os.O_RDWR | os.O_CREAT)
    except PermissionError as error:
        with contextlib.suppress(OSError):  # left by another user's killed process; it can still be locked
            return open_own(path, os.O_RDONLY)
        raise FileError(f"{what} cannot be written: {error.strerror}") from error
    except OSError as error:
        raise FileError(f"{what} cannot be written: {error.strerror}") from error


def _is_at(number: int, path: Path) -> bool:
    """Whether the path still refers to the open file."""
    try:
        return os.path.samestat(os.fstat(number), os.lstat(path))
    except OSError:
        return False


def _sign(path: Path, number: int) -> None:
    """Write the holder into a lock file, after checking that it is one."""
    if not HOLDER.fullmatch(os.read(number, 400)):
        os.close(number)
        raise FileError(f"{path} is not a lock of gpuvox, so it is not used; remove it or choose another name")
    with contextlib.suppress(OSError):  # a full disk, or a file that can only be read
        os.ftruncate(number, 0)
        os.pwrite(number, f"process {os.getpid()} on {platform.node()}".encode(), 0)


def _unlockable(path: Path, number: int, problem: str, warn: Callable[[str], None]) -> Lock:
    """A lock that is not held, with one warning for each folder in use."""
    is_ours, folder = os.fstat(number).st_size == 0, os.path.realpath(path.parent)
    os.close(number)
    if is_ours:
        with contextlib.suppress(OSError):
            os.unlink(path)
    if not any(folder == known or folder.startswith(f"{known}{os.sep}") for known in _without_locks):
        warn(f"{problem}: make sure that no other run uses it")
    _without_locks.append(folder)
    return Lock(path, None, folder)


# ------------------------------------------------------------------------------------------------- within a folder


def is_inside(path: Name, folder: Name) -> bool:
    """Whether a path is inside a folder, with ``..`` and links to other folders resolved."""
    top = os.path.realpath(folder)
    where = os.path.realpath(os.path.dirname(os.path.join(folder, path)))
    return where == top or where.startswith(top.rstrip(os.sep) + os.sep)


def check_folders(folder: Name) -> None:
    """Make sure that no folder below this one is a link that leads elsewhere.

    Raises
    ------
    FileError
        A folder is such a link.
    """
    for where, names, _ in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            if os.path.islink(path) and not is_inside(os.path.join(path, "file"), folder):
                raise FileError(
                    f"{path} is a link to {os.path.realpath(path)}: results would be written outside {folder}; "
                    "remove the link"
                )
