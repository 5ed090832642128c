"""The ledger of a folder of results: what each stage of a study depended on, and which files it wrote."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuvox import files
from gpuvox.errors import FileError, InputError
from gpuvox.files.locks import is_inside, open_own

STATE = ".gpuvox-study.json"
FORMAT = 1


@dataclass(eq=False)
class Ledger:
    """The record of earlier runs in a results folder.

    Attributes
    ----------
    folder : Path
    stages : dict
        Name → ``key`` (what it depended on), ``outputs`` (file → SHA-256), ``seconds``, ``warnings``.
    hashes : dict
        File → SHA-256, and size, times and inode: contents are read again only if these change.
    """

    folder: Path
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    hashes: dict[str, list[Any]] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Ledger:
        """Read the ledger of a folder; empty if no stage has run there.

        Raises
        ------
        FileError
            The folder contains other files, or the ledger is damaged.
        """
        path = folder / STATE
        if not os.path.lexists(path):
            if folder.is_dir() and any(not each.name.startswith(STATE) for each in folder.iterdir()):
                raise FileError(f"{folder} is not empty, and was not made by gpuvox study; choose another folder")
            return cls(folder)
        content = _read(path)
        if isinstance(content, dict) and content.get("format", FORMAT) != FORMAT:
            raise FileError(f"{path} was written by another version of gpuvox; choose another results folder")
        if not _is_ledger(content):
            raise FileError(f"{path} is damaged; remove {folder}, and all stages run again", file=path)
        hashes = {name: known for name, known in content["hashes"].items() if isinstance(known, list) and known}
        return cls(folder, content["stages"], hashes)

    def save(self) -> None:
        """Write the ledger completely or not at all."""
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
        """Whether the stages read or wrote a file."""
        return _name(os.path.realpath(path)) in self.hashes

    def wrote(self, stage: str, path: str | os.PathLike[str]) -> bool:
        """Whether a file is exactly the one that a stage wrote: same content, not rewritten, copied or moved since."""
        real = os.path.realpath(path)
        name = os.path.relpath(real, os.path.realpath(self.folder))
        content = self.stages.get(stage, {}).get("outputs", {}).get(name)
        return (
            isinstance(content, str)
            and self.hashes.get(_name(real)) == [content, *_stamp(real)]
            and files.hash_file(real) == content
        )

    def digest(self, name: str) -> str:
        """Hash of the content of a stage's files; empty if the stage has not run."""
        outputs = self.stages.get(name, {}).get("outputs", {})
        return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest() if outputs else ""

    def intact(self, name: str) -> bool:
        """Whether all files of a stage are unchanged."""
        outputs = self.stages[name]["outputs"]
        paths = {os.fspath(self.folder / path): content for path, content in outputs.items()}
        return all(os.path.isfile(path) and self.hash(path) == content for path, content in paths.items())

    def remove(self, name: str) -> None:
        """Forget a stage and remove its files, so that none remains that a new run would not write.

        Raises
        ------
        FileError
            The ledger names a file outside the folder.
        """
        done = self.stages.pop(name, None)
        if done is None:
            return
        self.save()
        for path in done["outputs"]:
            if os.path.isabs(path) or ".." in Path(path).parts or not is_inside(path, self.folder):
                raise FileError(f"{self.folder / STATE} is damaged: {path} is outside the folder")
            with contextlib.suppress(OSError):
                (self.folder / path).unlink()


def _name(path: str) -> str:
    """Key of a file (without links in its path) in the ledger, which does not reveal its location."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def _read(path: Path) -> Any:
    """Content of the file; None if it cannot be read or is not JSON."""
    try:
        with os.fdopen(open_own(path, os.O_RDONLY), encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_size > files.MOST_SETTINGS:
                return None
            return json.load(file)
    except InputError:
        raise
    except (OSError, ValueError, RecursionError):  # not UTF-8, not JSON, or nested too deeply
        return None


def _is_ledger(content: Any) -> bool:
    """Whether this is what `Ledger.save` writes."""
    return (
        isinstance(content, dict)
        and "format" in content
        and _is_record(content.get("stages"))
        and isinstance(content.get("hashes"), dict)
    )


def _is_record(stages: Any) -> bool:
    """Whether this is the record of stages as `Ledger.save` writes it."""
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
    """What changes if a file is written, moved or replaced; empty if the file does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
