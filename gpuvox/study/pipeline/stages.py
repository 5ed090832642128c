"""Stages that write files: run in order, and skipped if nothing that they depend on has changed.

A stage depends on its settings, on the content of input files and of the files of earlier stages, and on the
version of gpuvox. What it depended on and wrote is recorded in the ledger as soon as it ends, so an interrupted run
resumes there.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpuvox import __version__
from gpuvox.errors import FileError, InUseError
from gpuvox.files.locks import check_folders, hold, is_inside
from gpuvox.reporter import Reporter
from gpuvox.study.ledger import STATE, Ledger

NEW = "not done yet"
MOST_BYTES = 255 - len("_tfce_corrp_tstat10.nii.gz")
"""Longest name that file systems accept, minus what a stage may append."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A stage of a study.

    Attributes
    ----------
    name : str
    settings : dict
        Values that JSON can represent, including the cells of a table that the stage reads.
    outputs : tuple of str
        Patterns of the files that it writes, relative to the results folder; each matches at least one file.
    work : callable
        Runs the stage.
    after : tuple of str
        Names of earlier stages whose results it reads.
    sources : dict of str to sequence of str
        Input files that it reads, by their role.
    """

    name: str
    settings: Mapping[str, Any]
    outputs: tuple[str, ...]
    work: Callable[[Reporter], None]
    after: tuple[str, ...] = ()
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)


def indented(reporter: Reporter) -> Reporter:
    """A reporter that indents lines below that of their stage."""
    return replace(reporter, say=lambda text: reporter.say(f"  {text}"))


def check_names(work: Iterable[Stage]) -> None:
    """Check that file systems accept the names of the files that the stages will write.

    Raises
    ------
    FileError
        A map, a comparison or a title has a name that is too long.
    """
    for stage in work:
        for part in (part for pattern in stage.outputs for part in pattern.split("/")):
            name = part.replace("*", "")
            if len(os.fsencode(name)) > MOST_BYTES:
                raise FileError(
                    f"the results of a stage would be called {name[:40]}…, a name of {len(os.fsencode(name))} bytes; a "
                    f"title or name in the study must be shorter, at most {MOST_BYTES}"
                )


@dataclass(frozen=True)
class Plan:
    """A stage and the reason why it runs; no reason if it is skipped."""

    stage: Stage
    reason: str


def _dependencies(stage: Stage, ledger: Ledger) -> dict[str, Any]:
    """What a stage depends on."""
    return {
        "gpuvox": __version__,
        "settings": json.loads(json.dumps(stage.settings)),
        # Relative names, so that a study can be moved with all its files.
        "sources": {
            role: [[os.path.relpath(path, ledger.folder), ledger.hash(path)] for path in paths]
            for role, paths in stage.sources.items()
        },
        "after": {name: ledger.digest(name) for name in stage.after},
    }


def _outputs(stage: Stage, ledger: Ledger) -> list[Path]:
    """Files that a stage wrote; `FileError` if a pattern matches none."""
    written: list[Path] = []
    for pattern in stage.outputs:
        fitting = sorted(path for path in ledger.folder.glob(pattern) if path.is_file())
        if not fitting:
            raise FileError(f"{stage.name} did not write {ledger.folder / pattern}")
        written += fitting
    return written


def plan(stages: Sequence[Stage], ledger: Ledger) -> list[Plan]:
    """What a run would do.

    A stage after one that runs is listed, although it is skipped if that one writes the same as before.
    """
    pending: set[str] = set()
    plans = []
    for stage in stages:
        upstream = [name for name in stage.after if name in pending]
        reason = f"{upstream[0]} runs" if upstream else _reason(stage, ledger)
        if reason:
            pending.add(stage.name)
        plans.append(Plan(stage, reason))
    return plans


def _reason(stage: Stage, ledger: Ledger) -> str:
    done = ledger.stages.get(stage.name)
    if done is None:
        return NEW
    if not ledger.intact(stage.name):
        return "a file that it wrote is missing or changed"
    key = _dependencies(stage, ledger)
    return "" if done["key"] == key else _difference(done["key"], key)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if old.get("gpuvox") != new["gpuvox"]:
        return f"gpuvox was {old.get('gpuvox')}"
    for kind, text in (("settings", "{} changed"), ("sources", "{} changed"), ("after", "{} left something else")):
        before, now = (_flat(key[kind]) for key in (old, new))
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            return text.format(changed[0]) + more
    return "it changed"


def _flat(part: Mapping[str, Any]) -> dict[str, Any]:
    """Files by name, from files by role."""
    flat: dict[str, Any] = {}
    for name, value in part.items():
        is_files = isinstance(value, list) and value and all(isinstance(v, list) and len(v) == 2 for v in value)
        flat |= {f"{name} {path}": content for path, content in value} if is_files else {str(name): value}
    return flat


@contextlib.contextmanager
def locked(folder: Path, warn: Callable[[str], None] = warnings.warn) -> Iterator[None]:
    """Hold the lock of a results folder, and check that it contains no links to other places.

    Raises
    ------
    FileError
        Another process is running there, or a folder in it is a link to another place.
    """
    try:
        lock = hold(folder / f"{STATE}.lock", os.fspath(folder), warn)
    except InUseError as error:
        raise FileError(f"another gpuvox study is running in {folder} ({error.holder})") from None
    try:
        check_folders(folder)
        yield
    finally:
        lock.release()


def run(stages: Sequence[Stage], ledger: Ledger, reporter: Reporter, summary: str = "") -> None:
    """Run the stages that are not up to date.

    Parameters
    ----------
    stages : sequence of Stage
    ledger : Ledger
    reporter : Reporter
    summary : str
        Name of a stage that reports on the others: its files are removed as soon as one of them runs, so that they
        never describe results that no longer exist.

    Raises
    ------
    InputError
        A stage failed; finished stages are kept.
    """
    for number, stage in enumerate(stages, 1):
        reason = _reason(stage, ledger)
        why = {"": ": unchanged", NEW: ""}.get(reason, f": {reason}")
        reporter.say(f"[{number:2d}/{len(stages)}] {stage.name}{why}")
        if reason:
            ledger.remove(summary)
            _work(stage, ledger, reporter)


def _work(stage: Stage, ledger: Ledger, reporter: Reporter) -> None:
    said: list[str] = []

    def warn(text: str) -> None:
        said.append(text)
        reporter.warn(text)

    for pattern in stage.outputs:
        if not is_inside(pattern, ledger.folder):
            raise FileError(
                f"{stage.name} would write {ledger.folder / pattern}, which is outside {ledger.folder}"
            )
    ledger.remove(stage.name)
    key, start = _dependencies(stage, ledger), time.perf_counter()
    stage.work(Reporter(reporter.say, warn, reporter.progress))
    written = _outputs(stage, ledger)
    outputs = {os.fspath(path.relative_to(ledger.folder)): ledger.hash(os.fspath(path)) for path in written}
    seconds = round(time.perf_counter() - start, 2)
    ledger.stages[stage.name] = {"key": key, "outputs": outputs, "seconds": seconds, "warnings": said}
    ledger.save()


def remove_others(ledger: Ledger, names: Iterable[str]) -> None:
    """Remove the files of stages that are no longer part of the study."""
    for name in set(ledger.stages) - set(names):
        ledger.remove(name)
