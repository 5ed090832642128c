"""Whether a study is one's own: run here by the user who asks for its report, or received from others."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from gpuvox.errors import FileError
from gpuvox.files import MOST_SETTINGS
from gpuvox.study.ledger import STATE, Ledger


def own_ledger(study: Path) -> Ledger | None:
    """The ledger of a study that this user ran here; None of any other study.

    The study's own run writes down, beside ``study.json``, when the file system last changed that file and the file's
    number on the disk. No archive, no copy and no other user can bring along a file of which this holds. A study that
    was moved, copied or edited since is taken for one from others.

    Parameters
    ----------
    study : path
        ``study.json``.
    """
    try:
        for path in (study, study.parent / STATE):
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_size > MOST_SETTINGS:
                return None
        ledger = Ledger.open(study.parent)
        return ledger if ledger.wrote("report", study) else None
    except (OSError, FileError):
        return None


def way_out(study: Path, outside: Path) -> str:
    """Advice if a study that is not known to be the user's own names a file outside its folder.

    A folder is proposed only if it is the parent of the results folder, and neither the user's home nor the root: a
    command that is copied without thinking must not give a study from someone else access to all files of the user.
    """
    around = Path(os.path.realpath(study.parent)).parent
    if outside.is_relative_to(around) and around not in (Path.home(), Path("/")):
        words = ["gpuvox", "report", os.fspath(study), "--within", os.path.relpath(around)]
        return f"if the study is yours or you trust it: {shlex.join(words)}"
    return "give --within a folder that holds all, if you trust the study"
