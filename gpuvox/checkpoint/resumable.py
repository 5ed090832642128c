"""The checkpoint of a run: its tallies, saved to a file at intervals while it runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuvox.checkpoint.file import check_is_no_link, check_kind, read, read_to_resume, remove_unfinished, write
from gpuvox.checkpoint.identity import RunIdentity, differences
from gpuvox.checkpoint.tallies import KeptTest, Tallies
from gpuvox.errors import AnotherRunError, FileError
from gpuvox.files.locks import hold

INTERVAL = 60.0
"""Seconds between two saves of a checkpoint."""
SHARE_OF_TIME = 0.02
"""Largest share of the run time that saving may take: large checkpoints are saved less often."""
ENDINGS = "", ".lock", f".{0:016x}.new"
"""Suffixes of the files that belong to a checkpoint; the digits of the last are random."""
NOT_TALLIES = (".nii", ".gz", ".hdr", ".img", ".txt", ".json", ".mat", ".con", ".fts", ".grp", ".tsv", ".csv")
"""Extensions of files that a run reads or writes. A checkpoint, which is removed at the end, may not have them."""


class Checkpoint:
    """The tallies of a run, saved to a file while it runs; a context manager.

    Leaving the context through an exception or a signal saves them once more, unless nothing has been done yet. A
    second process on the same file is refused. The lock ends with its process, however that ends.

    Parameters
    ----------
    path : path
    identity : RunIdentity
    resume : bool
        Resume from the tallies in the file.
    warn : callable
        Receives one sentence, for instance if the disk is full; the run continues.

    Raises
    ------
    FileError
        The file is in use, cannot be written, or holds results although `resume` is not set. With `resume`: there is no
        such file.
    AnotherRunError
        With `resume`, the file belongs to another run; the message says what differs.
    """

    def __init__(
        self, path: str | os.PathLike[str], identity: RunIdentity, resume: bool, warn: Callable[[str], None]
    ) -> None:
        self.path, self.warn = Path(path), warn
        self.has_warned = False
        if self.path.suffix.lower() in NOT_TALLIES:
            raise FileError(
                f"{self.path} has the extension of another kind of file; use the extension .tally for a checkpoint"
            )
        check_is_no_link(self.path)
        if self.path.exists():
            check_kind(self.path)  # before a lock file is created beside it
        self.lock = hold(self.path.with_name(self.path.name + ".lock"), str(self.path), warn)
        try:
            if self.lock.is_held:
                remove_unfinished(self.path)
            self.tallies = self._resumed(identity) if resume else self._fresh(identity)
            self.resumed = self.tallies.n_done
            self.tallies.on_added = self._added
            self.write()
        except BaseException:
            self.lock.release()
            raise

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        try:
            if kind is not None:
                self._keep_for_later()
        finally:
            self.lock.release()

    def store(self, name: str) -> KeptTest:
        """The store of one test's tallies; see `executors.TallyStore`."""
        return self.tallies.store(name)

    def write(self) -> None:
        """Save the tallies; `FileError` if the file cannot be written."""
        start = time.monotonic()
        if self.tallies.is_consistent:
            write(self.path, self.tallies)
        end = time.monotonic()
        self.soonest = end + (end - start) / SHARE_OF_TIME
        self.next = max(end + INTERVAL, self.soonest)

    def remove(self) -> None:
        """Remove the file, which a complete run no longer needs."""
        self.path.unlink(missing_ok=True)

    def _fresh(self, identity: RunIdentity) -> Tallies:
        if self.path.exists():
            try:
                done = read(self.path).n_done
            except FileError as error:
                raise FileError(f"{error}; remove the file to start the run from the beginning") from None
            if done:
                raise FileError(
                    f"{self.path} already holds {done} permutations: use --resume to continue from there, or "
                    "remove the file to start from the beginning"
                )
        return Tallies(identity)

    def _resumed(self, identity: RunIdentity) -> Tallies:
        kept = read_to_resume(self.path)
        difference = differences(kept.identity.run, identity.run, ("the checkpoint", "this run"))
        shards = [f"{a.shard[0]}/{a.shard[1]}" if a.shard else "not set" for a in (kept.identity, identity)]
        if shards[0] != shards[1]:
            difference = f"--shard is {shards[0]} in the checkpoint, {shards[1]} in this run"
        if difference:
            raise AnotherRunError(f"{self.path} is the checkpoint of another run: {difference}")
        return Tallies(identity, kept.tests)

    def _added(self, ended: bool) -> None:
        if time.monotonic() >= (self.soonest if ended else self.next):
            self._try_to_write()

    def _try_to_write(self) -> bool:
        """Save; if that fails, the previous file is still complete, and the run continues with a warning."""
        try:
            self.write()
        except FileError as error:
            self.next = self.soonest = time.monotonic() + INTERVAL
            if not self.has_warned:
                self.warn(f"the checkpoint could not be updated; the run continues: {error}")
            self.has_warned = True
            return False
        return True

    def _keep_for_later(self) -> None:
        if not self.tallies.n_done:
            self.remove()
        elif self._try_to_write():
            self.warn(f"the permutations done so far are kept in {self.path}, from which the run can be resumed")
