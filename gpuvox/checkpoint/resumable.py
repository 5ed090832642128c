"""The checkpoint of a run: its tallies, written to a file from time to time while it goes on."""

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
"""Seconds between two writings of a checkpoint."""
SHARE_OF_TIME = 0.02
"""Most of the time that writing may take: large checkpoints are written less often."""
ENDINGS = "", ".lock", f".{0:016x}.new"
"""What follows its name in those of a checkpoint's files; the last is random."""
NOT_TALLIES = (".nii", ".gz", ".hdr", ".img", ".txt", ".json", ".mat", ".con", ".fts", ".grp", ".tsv", ".csv")
"""What a run reads and writes: its checkpoint, which is removed at the end, is none of them."""


class Checkpoint:
    """Tallies of a run that are kept in a file while it goes on; used in a ``with`` statement.

    Leaving it through an exception or a signal writes them once more, unless nothing is done yet. A second process
    on the same file is refused; the lock ends with its process, however that ends.

    Parameters
    ----------
    path : path
    identity : RunIdentity
    resume : bool
        Go on from what the file holds.
    warn : callable
        Receives one sentence, for instance where the disk is full: the run goes on.

    Raises
    ------
    FileError
        The file is in use; it holds results and `resume` is not set; with `resume`, there is none, or it is of
        another run, in which case the sentence says what differs; it cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], identity: RunIdentity, resume: bool, warn: Callable[[str], None]
    ) -> None:
        self.path, self.warn = Path(path), warn
        self.has_warned = False
        if self.path.suffix.lower() in NOT_TALLIES:
            raise FileError(f"{self.path} is the name of another kind of file; a checkpoint is best called .tally")
        check_is_no_link(self.path)
        if self.path.exists():
            check_kind(self.path)  # before a lock stands beside it
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
        """Keeps the tallies of one test; see `executors.TallyStore`."""
        return self.tallies.store(name)

    def write(self) -> None:
        """Write the file; a `FileError` if that cannot be done."""
        start = time.monotonic()
        if self.tallies.is_consistent:
            write(self.path, self.tallies)
        end = time.monotonic()
        self.soonest = end + (end - start) / SHARE_OF_TIME
        self.next = max(end + INTERVAL, self.soonest)

    def remove(self) -> None:
        """Remove the file: all that it is for has been done."""
        self.path.unlink(missing_ok=True)

    def _fresh(self, identity: RunIdentity) -> Tallies:
        if self.path.exists():
            try:
                done = read(self.path).n_done
            except FileError as error:
                raise FileError(f"{error}; remove it to start the run from the beginning") from None
            if done:
                raise FileError(
                    f"{self.path} holds {done} shuffles that are done: go on from there with --resume, or remove it "
                    "to start from the beginning"
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
        """Write; where that fails the file of before is still whole, and worth more than the end of the run."""
        try:
            self.write()
        except FileError as error:
            self.next = self.soonest = time.monotonic() + INTERVAL
            if not self.has_warned:
                self.warn(f"the checkpoint is not up to date, and the run goes on: {error}")
            self.has_warned = True
            return False
        return True

    def _keep_for_later(self) -> None:
        if not self.tallies.n_done:
            self.remove()
        elif self._try_to_write():
            self.warn(f"what is done is kept in {self.path}, from which the run can be resumed")
