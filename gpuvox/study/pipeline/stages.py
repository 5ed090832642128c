"""Stages of work that leave files: run in order, skipped where nothing they depend on has changed.

A stage depends on its settings, on files from outside and on what earlier stages left (by their content), and on the
version of gpuvox. What it depended on, and what it left, is kept in a file beside the results as soon as it ends; a run
that was interrupted goes on there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuvox import __version__, files
from gpuvox.errors import FileError, InUseError
from gpuvox.files.locks import check_folders, hold, is_inside, open_own

STATE = ".gpuvox-study.json"
FORMAT = 1
NEW = "not done yet"
MOST_BYTES = 255 - len("_tfce_corrp_tstat10.nii.gz")
"""What file systems allow for a name, less what a stage may add to it."""


@dataclass(frozen=True, eq=False)
class Talk:
    """How a stage talks: a line, a warning, its progress."""

    say: Callable[[str], None]
    warn: Callable[[str], None]
    progress: Callable[[str, int, int], None] | None = None


@dataclass(frozen=True, eq=False)
class Stage:
    """A piece of work.

    Attributes
    ----------
    name : str
    settings : dict
        What JSON can hold; also the cells of a table that it reads, where others do not matter.
    outputs : tuple of str
        Patterns of what it leaves, relative to the folder of the results; each fits at least one file then.
    work : callable
        Does it.
    after : tuple of str
        Names of earlier stages whose results it reads.
    sources : dict of str to sequence of str
        Files from outside that it reads, by what they are to it.
    """

    name: str
    settings: Mapping[str, Any]
    outputs: tuple[str, ...]
    work: Callable[[Talk], None]
    after: tuple[str, ...] = ()
    sources: Mapping[str, Sequence[str]] = field(default_factory=dict)


def check_names(work: Iterable[Stage]) -> None:
    """Make sure that file systems take the names of what the stages will leave.

    Raises
    ------
    FileError
        A name that is too long: of a map, a comparison or a title.
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
    """What is to be done with a stage: it runs for a reason, or is skipped (no reason)."""

    stage: Stage
    reason: str


@dataclass(eq=False)
class Ledger:
    """What was done before, in a folder of results.

    Attributes
    ----------
    folder : Path
    stages : dict
        Name → ``key`` (what it depended on), ``outputs`` (file → SHA-256), ``seconds``, ``warnings``.
    hashes : dict
        File → SHA-256 and size, times and number on the disk: contents are read again only when these change.
    """

    folder: Path
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    hashes: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Ledger:
        """That of a folder; empty if nothing was done there.

        Raises
        ------
        FileError
            The folder holds other things, or the file is damaged.
        """
        path = folder / STATE
        if not os.path.lexists(path):
            if folder.is_dir() and any(not each.name.startswith(STATE) for each in folder.iterdir()):
                raise FileError(
                    f"{folder} is not empty, and was not made by gpuvox study; another folder expected"
                )
            return cls(folder)
        try:
            with os.fdopen(open_own(path, os.O_RDONLY), encoding="utf-8") as file:
                if os.fstat(file.fileno()).st_size > files.MOST_SETTINGS:
                    raise ValueError
                content = json.load(file)
            if content["format"] != FORMAT:
                raise FileError(f"{path} is of another version of gpuvox; another folder for the results expected")
            if not (_is_record(content["stages"]) and isinstance(content["hashes"], dict)):
                raise ValueError
            hashes = {
                name: found for name, found in content["hashes"].items() if isinstance(found, list) and found
            }
            return cls(folder, content["stages"], hashes)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"{path} is damaged; remove {folder}, and all stages run again") from None

    def save(self) -> None:
        """Write it, whole or not at all."""
        content = {"format": FORMAT, "stages": self.stages, "hashes": self.hashes}
        files.write_json(self.folder / STATE, content)

    def hash(self, path: str) -> str:
        """SHA-256 of a file."""
        path = os.path.realpath(path)
        name, now = _name(path), _stamp(path)
        known = self.hashes.get(name)
        if known is None or known[1:] != now:
            self.hashes[name] = [files.hash_file(path), *now]
        return self.hashes[name][0]

    def knows(self, path: str | os.PathLike[str]) -> bool:
        """Whether a file is one that the stages read or wrote."""
        return _name(os.path.realpath(path)) in self.hashes

    def wrote(self, stage: str, path: str | os.PathLike[str]) -> bool:
        """Whether a file is the very one that a stage left: the same content, not written, copied or moved since."""
        real = os.path.realpath(path)
        name = os.path.relpath(real, os.path.realpath(self.folder))
        content = self.stages.get(stage, {}).get("outputs", {}).get(name)
        return (
            isinstance(content, str)
            and self.hashes.get(_name(real)) == [content, *_stamp(real)]
            and files.hash_file(real) == content
        )

    def key(self, stage: Stage) -> dict[str, Any]:
        """What a stage depends on."""
        return {
            "gpuvox": __version__,
            "settings": json.loads(json.dumps(stage.settings)),
            # Relative names: a study may be moved with all that belongs to it.
            "sources": {
                role: [[os.path.relpath(path, self.folder), self.hash(path)] for path in paths]
                for role, paths in stage.sources.items()
            },
            "after": {name: self.digest(name) for name in stage.after},
        }

    def digest(self, name: str) -> str:
        """Of the content of what a stage left; empty if it was not done."""
        outputs = self.stages.get(name, {}).get("outputs", {})
        return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest() if outputs else ""

    def intact(self, name: str) -> bool:
        """Whether everything that a stage left is as it left it."""
        outputs = self.stages[name]["outputs"]
        paths = {os.fspath(self.folder / path): content for path, content in outputs.items()}
        return all(os.path.isfile(path) and self.hash(path) == content for path, content in paths.items())

    def outputs(self, stage: Stage) -> list[Path]:
        """Files that fit what the stage leaves.

        Raises
        ------
        FileError
            A pattern fits none.
        """
        found: list[Path] = []
        for pattern in stage.outputs:
            fitting = sorted(path for path in self.folder.glob(pattern) if path.is_file())
            if not fitting:
                raise FileError(f"{stage.name} did not write {self.folder / pattern}")
            found += fitting
        return found


def _name(path: str) -> str:
    """What a file, without links in its path, is called in the ledger: where files lie is not told."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def _is_record(stages: Any) -> bool:
    """Whether this is what was kept of stages."""
    return isinstance(stages, dict) and all(
        isinstance(done, dict)
        and isinstance(done.get("key"), dict)
        and all(isinstance(done["key"].get(part), dict) for part in ("settings", "sources", "after"))
        and isinstance(done.get("outputs"), dict)
        and isinstance(done.get("seconds"), int | float)
        and isinstance(done.get("warnings"), list)
        for done in stages.values()
    )


def _stamp(path: str) -> list[int]:
    """What changes when a file is written, moved or put in another's place; nothing for a file that is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def plan(stages: Sequence[Stage], ledger: Ledger) -> list[Plan]:
    """What a run would do. A stage that comes after one that runs is listed, though it is skipped if that leaves the
    same as before.
    """
    pending: set[str] = set()
    found = []
    for stage in stages:
        upstream = [name for name in stage.after if name in pending]
        reason = f"{upstream[0]} runs" if upstream else _reason(stage, ledger)
        if reason:
            pending.add(stage.name)
        found.append(Plan(stage, reason))
    return found


def _reason(stage: Stage, ledger: Ledger) -> str:
    done = ledger.stages.get(stage.name)
    if done is None:
        return NEW
    if not ledger.intact(stage.name):
        return "a file that it wrote is missing or changed"
    key = ledger.key(stage)
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
    """Files by their names, where they stand by what they are to a stage."""
    found: dict[str, Any] = {}
    for name, value in part.items():
        is_files = isinstance(value, list) and value and all(isinstance(v, list) and len(v) == 2 for v in value)
        found |= {f"{name} {path}": content for path, content in value} if is_files else {str(name): value}
    return found


@contextlib.contextmanager
def locked(folder: Path, warn: Callable[[str], None] = warnings.warn) -> Iterator[None]:
    """One process at a time in a folder of results, which has no links that lead elsewhere.

    Raises
    ------
    FileError
        Another one is at work there; a folder in it is a link to another place.
    """
    try:
        lock = hold(folder / f"{STATE}.lock", os.fspath(folder), warn)
    except InUseError as error:
        raise FileError(f"another gpuvox study is at work in {folder} ({error.holder})") from None
    try:
        check_folders(folder)
        yield
    finally:
        lock.release()


def run(stages: Sequence[Stage], ledger: Ledger, talk: Talk, summary: str = "") -> None:
    """Run what must run.

    Parameters
    ----------
    stages : sequence of Stage
    ledger : Ledger
    talk : Talk
    summary : str
        Name of a stage that tells of the others: what it left is removed as soon as one of them runs, so that it
        never tells of what is no longer there.

    Raises
    ------
    FileError, ValueError
        Of a stage; what was done before it is kept.
    """
    for number, stage in enumerate(stages, 1):
        reason = _reason(stage, ledger)
        why = {"": ": unchanged", NEW: ""}.get(reason, f": {reason}")
        talk.say(f"[{number:2d}/{len(stages)}] {stage.name}{why}")
        if reason:
            _remove(ledger, summary)
            _work(stage, ledger, talk)


def _work(stage: Stage, ledger: Ledger, talk: Talk) -> None:
    said: list[str] = []

    def warn(text: str) -> None:
        said.append(text)
        talk.warn(text)

    for pattern in stage.outputs:
        if not is_inside(pattern, ledger.folder):
            raise FileError(
                f"{stage.name} would write {ledger.folder / pattern}, which is outside {ledger.folder}"
            )
    _remove(ledger, stage.name)
    key, start = ledger.key(stage), time.perf_counter()
    stage.work(Talk(talk.say, warn, talk.progress))
    written = ledger.outputs(stage)
    outputs = {os.fspath(path.relative_to(ledger.folder)): ledger.hash(os.fspath(path)) for path in written}
    seconds = round(time.perf_counter() - start, 2)
    ledger.stages[stage.name] = {"key": key, "outputs": outputs, "seconds": seconds, "warnings": said}
    ledger.save()


def _remove(ledger: Ledger, name: str) -> None:
    """What a stage left before: no file may stay that the new run would not write."""
    done = ledger.stages.pop(name, None)
    if done is None:
        return
    ledger.save()
    for path in done["outputs"]:
        if os.path.isabs(path) or ".." in Path(path).parts or not is_inside(path, ledger.folder):
            raise FileError(f"{ledger.folder / STATE} is damaged: {path} lies elsewhere")
        with contextlib.suppress(OSError):
            (ledger.folder / path).unlink()


def remove_others(ledger: Ledger, names: Iterable[str]) -> None:
    """Remove what stages left that are no longer part of the study."""
    for name in set(ledger.stages) - set(names):
        _remove(ledger, name)
