"""Cache folders of compiled code, which are used only if nobody else can write to them.

numba's caches contain pickles and CuPy's contain machine code: whoever can write there can run code as the user who
reads it. A folder is trusted if it, the folders above it and its files belong to the user or to root and only they
can write there. A private group of the user (of the same name and without other members; a umask of 002 is then
common) counts as the user. If the cache lies beside the sources, whoever may change the sources may write the cache.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from functools import cache
from pathlib import Path

OTHERS = stat.S_IWOTH
GROUP = stat.S_IWGRP


def why_untrusted(folder: str | os.PathLike[str], beside: str | os.PathLike[str] = "") -> str:
    """The reason why a folder, which need not exist yet, cannot be trusted; empty if it can.

    Parameters
    ----------
    folder : path
    beside : path
        Folder of the sources, if the cache is inside it.
    """
    path = os.path.abspath(folder)
    real = os.path.realpath(path)
    source = os.stat(beside) if beside else None
    reason = _fault_of_content(real, source)
    if reason or source:
        return reason
    above = [os.fspath(each) for each in Path(real).parents if each.exists()]
    return next(filter(None, (_fault_of(each, is_above=True) for each in above)), "")


def _fault_of_content(real: str, source: os.stat_result | None) -> str:
    if not os.path.isdir(real):
        return ""
    is_closed = not os.stat(real).st_mode & (stat.S_IXGRP | stat.S_IXOTH)  # nobody else can reach what is in it
    with contextlib.suppress(PermissionError), os.scandir(real) as entries:
        for entry in entries:
            if entry.name.startswith((".", "__")) or entry.is_symlink() or entry.name.endswith(".pyc"):
                continue
            said = _fault_of(entry.path, source)
            if said and not (is_closed and entry.stat().st_uid == os.geteuid() and entry.stat().st_nlink == 1):
                return said
    return _fault_of(real, source)


def _fault_of(path: str, source: os.stat_result | None = None, is_above: bool = False) -> str:
    """The reason why others could change a file, or what is in a folder."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    owners = {os.geteuid(), 0} | ({os.stat("/").st_uid} if is_above else set())
    if source:
        owners.add(source.st_uid)
    if status.st_uid not in owners:
        return f"{path} belongs to another user"
    if is_above and status.st_mode & stat.S_ISVTX:
        return ""  # others can add files but not replace existing ones
    theirs = bool(source and source.st_mode & GROUP and source.st_gid == status.st_gid)
    if status.st_mode & OTHERS or (status.st_mode & GROUP and not theirs and not _is_private(status.st_gid)):
        return f"others can write to {path}"
    return ""


@cache
def _is_private(group: int) -> bool:
    """Whether a group is the user's private group."""
    import grp
    import pwd

    try:
        user, group_entry = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return (
        group_entry.gr_name == user.pw_name and user.pw_gid == group and set(group_entry.gr_mem) <= {user.pw_name}
    )


def make(folder: str | os.PathLike[str]) -> bool:
    """Create a folder and its missing parents for the user alone; returns whether files can be written there."""
    try:
        missing = [each for each in (Path(folder), *Path(folder).parents) if not each.exists()]
        for each in reversed(missing):
            each.mkdir(mode=0o700, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True
