"""Removes files of an earlier run with the same root and other inputs, which would pass for this run's."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from gpuvox import files
from gpuvox.errors import FileError
from gpuvox.files import Name

OURS = re.compile(
    r"_*((vox|tfcen?|cluster[emn])_|(tfce|cluster)norm_|perm_|glm_|(z|n|dof)_|[ft]stat\d|[pz]f?stat\d|(pe|(var)?cope)\d)"
    r".*(\.nii|\.hdr|\.img|\.nii\.gz|\.hdr\.gz|\.img\.gz|\.txt)"
)
"""Suffixes of names that gpuvox writes; a record may come from others and list any file."""


def remove_earlier(
    root: Name,
    record: Mapping[str, Any],
    read: Iterable[Name],
    path: Name = "",
    ours: re.Pattern[str] = OURS,
) -> list[str]:
    """Remove files that the record of an earlier run lists and that this run has not written.

    If the earlier run had the same inputs (with other statistics or ``--skipTo``), its files are still valid and kept.

    Parameters
    ----------
    root : path
        Output root of the run.
    record : dict
        The record to be written: its `inputs`, `design`, `contrasts`, `f_tests`, `model` and `files`.
    read : iterable of path
        Files that the run reads, which are never removed.
    path : path, optional
        The file of the record; by default ``<root>_randomise.json``.
    ours : pattern
        Ends of names, after the root, that gpuvox writes.

    Returns
    -------
    list of str
        Names of the removed files.
    """
    path = Path(path or f"{os.fspath(root)}_randomise.json")
    try:
        earlier, written = files.read_json(path), path.stat().st_mtime_ns if path.exists() else 0
    except FileError:
        return []  # not an output of gpuvox
    if not _is_ours(earlier) or _inputs(earlier) == _inputs(record):
        return []
    kept = {os.path.realpath(name) for name in read}
    removed = []
    for name in sorted(set(_listed(earlier)) - set(_listed(record))):
        file = path.parent / name
        base = os.path.basename(os.fspath(root))
        if os.path.basename(name) != name or not name.startswith(base) or not ours.fullmatch(name[len(base) :]):
            continue
        with contextlib.suppress(OSError):
            # A file newer than the record was written by something else.
            if file.is_file() and os.path.realpath(file) not in kept and file.stat().st_mtime_ns <= written:
                file.unlink()
                removed.append(name)
    return removed


def _is_ours(earlier: Mapping[str, Any]) -> bool:
    """Whether this is the record of a run; it may come from others and contain anything."""
    software, inputs, maps, names = (earlier.get(key) for key in ("software", "inputs", "maps", "files"))
    return (
        isinstance(software, dict)
        and "gpuvox" in software
        and isinstance(inputs, dict | None)
        and all(isinstance(each, dict) for each in (inputs or {}).values())
        and isinstance(maps, dict | None)
        and isinstance(names, list | None)
    )


def _listed(record: Mapping[str, Any]) -> Collection[str]:
    """Files of a run; records without a list of files list their maps, and pairs by their header."""
    named = record.get("files") or [*(record.get("maps") or {})]
    return [str(name) for name in named]


def _inputs(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the maps of a run depend on: the content of its files, its matrices, and options of its model."""
    hashes = sorted(str(each.get("sha256")) for each in (record.get("inputs") or {}).values())
    return hashes, *(_plain(record.get(key)) for key in ("design", "contrasts", "f_tests", "model"))


def _plain(matrix: Any) -> Any:
    return matrix.tolist() if hasattr(matrix, "tolist") else matrix
