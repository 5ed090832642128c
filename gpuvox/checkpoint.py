"""Tallies in a file: a checkpoint that a run goes on from, a shard that `merge` adds to others.

A file of format 1 is::

    gpuvox tally 1\\n
    SHA-256 of all that follows this line, in hexadecimal\\n
    a line of JSON: what run it is; of every test and pass its level cap, the shuffles done, its arrays\\n
    the arrays, little-endian, one after the other

It holds numbers and text, never code. It is written under another name and renamed, so that it is whole or not there;
what was cut or edited since does not fit the checksum and is refused. What makes two runs one run
(`RunIdentity.run`) is compared word for word, so that the message can say what differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpuvox.errors import AnotherRunError, FileError
from gpuvox.files.locks import hold, open_own
from gpuvox.permtest import ObservedTest
from gpuvox.runtime.limits import available_bytes
from gpuvox.tally import Tally, share, spans

INTERVAL = 60.0
"""Seconds between two writings of a checkpoint."""
SHARE_OF_TIME = 0.02
"""Most of the time that writing may take: large checkpoints are written less often."""

ENDINGS = "", ".lock", f".{0:016x}.new"
"""What follows its name in those of a checkpoint's files; the last is random."""
MAGIC = b"gpuvox tally "
FORMAT = 1
DIGITS = 64
"""Of a SHA-256 in hexadecimal."""
DTYPES = ("<f4", "<f8", "<i4", "<i8", "<u4", "<u8")
GROUPS = ("maxima", "below", "total", "nonzero")
"""The dictionaries of arrays of a `permtest.Tally`."""
MOST_SHUFFLES = 2**31
CORRUPT_CONTENT = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError, MemoryError,
)  # fmt: skip
"""What a file may cause whose checksum is right and whose content is not."""

Run = dict[str, Any]
"""What makes two runs one run: ``software`` (name → version), ``files`` (option → list of [name, SHA-256]),
``options`` (option → value)."""


NOT_TALLIES = (".nii", ".gz", ".hdr", ".img", ".txt", ".json", ".mat", ".con", ".fts", ".grp", ".tsv", ".csv")
"""What a run reads and writes: its checkpoint, which is removed at the end, is none of them."""


@dataclass(frozen=True)
class RunIdentity:
    """What a file of tallies belongs to.

    Attributes
    ----------
    run : dict
        See `Run`.
    shuffles : dict of int
        Shuffles of the whole run by test.
    command : tuple of str
        The arguments that the run was started with; empty from Python.
    shard : (int, int) or None
        Shard i of n, from 1.
    """

    run: Run
    shuffles: dict[str, int]
    command: tuple[str, ...] = ()
    shard: tuple[int, int] | None = None


@dataclass(eq=False)
class KeptTest:
    """The tallies of one permutation test, a pass each; an `executors.TallyStore`.

    Attributes
    ----------
    level_cap : int
        Steps of TFCE they were made with (the scores of two caps do not mix); 0 before the first.
    passes : list of Tally
    """

    level_cap: int = 0
    passes: list[Tally] = field(default_factory=list)
    on_added: Callable[[bool], None] = lambda ended: None

    def tally(self, observed: ObservedTest, fresh: Tally) -> Tally:
        """The kept tally of a pass, or the fresh one, kept from now on.

        Raises
        ------
        FileError
            What is kept is not a tally of this test.
        """
        cap, number = observed.test.level_cap, int(bool(observed.local_mean))
        if cap != self.level_cap:
            self.passes, self.level_cap = [], cap
        if number == len(self.passes):
            self.passes.append(fresh)
            return fresh
        kept = self.passes[number]
        kept.start, kept.stop = fresh.start, fresh.stop
        if kept.n != fresh.n or not _fits(kept, observed):
            raise FileError("the tally that is kept does not fit this test")
        return kept

    def added(self) -> None:
        """A result was added."""
        self.on_added(self.passes[-1].is_complete)


def _fits(tally: Tally, observed: ObservedTest) -> bool:
    """Whether a tally that was read has the statistics of a test, and a column a voxel."""
    if not tally.done.any():
        return True
    first, counted = not observed.local_mean, set(observed.kinds)
    wanted = observed.test.statistics
    sums = {"clustere", "tfce"} & counted if wanted.two_pass and first else set()
    names = {
        "maxima": counted, "below": counted if wanted.uncorrected else set(), "total": sums, "nonzero": sums,
    }  # fmt: skip
    return all(
        set(getattr(tally, group)) == expected
        and (
            group == "maxima" or all(a.shape[1] == len(observed.statistic) for a in getattr(tally, group).values())
        )
        for group, expected in names.items()
    )


@dataclass(eq=False)
class Tallies:
    """The tallies of a run, by test."""

    identity: RunIdentity
    tests: dict[str, KeptTest] = field(default_factory=dict)
    on_added: Callable[[bool], None] = lambda ended: None

    def store(self, name: str) -> KeptTest:
        """The tallies of a test, none at first."""
        test = self.tests.setdefault(name, KeptTest())
        test.on_added = self.on_added
        return test

    @property
    def n_done(self) -> int:
        """Shuffles that are counted, those of second passes too."""
        return sum(tally.n_done for test in self.tests.values() for tally in test.passes)

    @property
    def is_consistent(self) -> bool:
        """False if a signal came while a result was being added."""
        return all(tally.is_consistent for test in self.tests.values() for tally in test.passes)

    @property
    def seed(self) -> int:
        """Seed of the run; a `FileError` if the file has none."""
        seed = self.identity.run["options"].get("--seed")
        if not isinstance(seed, int):
            raise FileError(f"the tallies have {seed!r} for a seed")
        return seed

    def done(self, name: str) -> np.ndarray:
        """(n,) bool Shuffles of a test that are counted, in its first pass."""
        passes = self.tests[name].passes if name in self.tests else []
        return passes[0].done if passes else np.zeros(self.identity.shuffles[name], dtype=bool)


# --------------------------------------------------------------------------------------------------------- the file


def write(path: str | os.PathLike[str], tallies: Tallies) -> None:
    """Write tallies whole or not at all.

    Raises
    ------
    FileError
        Disk full, no such folder, no permission.
    """
    arrays: list[np.ndarray] = []
    tests = [
        {"name": name, "level_cap": test.level_cap, "passes": [_described(tally, arrays) for tally in test.passes]}
        for name, test in tallies.tests.items()
    ]
    identity = tallies.identity
    header = {
        "run": identity.run,
        "shuffles": identity.shuffles,
        "command": identity.command,
        "shard": identity.shard,
    }
    parts: list[Any] = [json.dumps(header | {"tests": tests}, allow_nan=False).encode() + b"\n", *arrays]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    _replace(Path(path), [MAGIC + b"%d\n" % FORMAT + digest.hexdigest().encode() + b"\n", *parts])


def _replace(path: Path, parts: Sequence[Any]) -> None:
    """As `files.atomic`, but what a killed process leaves behind is known by its name, and the next run removes it."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
    try:
        with os.fdopen(open_own(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _remove_unfinished(path: Path) -> None:
    """What processes that were killed while they wrote this file have left behind; it is locked now."""
    left = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.new")
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if left.fullmatch(name):
                path.with_name(name).unlink(missing_ok=True)


def _described(tally: Tally, arrays: list[np.ndarray]) -> dict[str, Any]:
    """A tally in JSON; its arrays are appended to the list."""
    entries = []
    for group in GROUPS:
        for kind, values in getattr(tally, group).items():
            kept = values[:, tally.done] if group == "maxima" else values
            arrays.append(np.ascontiguousarray(kept, dtype=values.dtype.newbyteorder("<")))
            entries.append([group, kind, arrays[-1].dtype.str, arrays[-1].shape[1]])
    return {
        "n": tally.n, "done": list(spans(tally.done)), "finished": tally.is_complete, "arrays": entries,
    }  # fmt: skip


def read(path: str | os.PathLike[str]) -> Tallies:
    """Read tallies.

    Raises
    ------
    FileError
        It cannot be read, or is larger than the memory; it is no such file, or of another format; it is damaged: cut
        short, or edited.
    """
    _check_kind(Path(path))
    content = _content(path)
    first, _, digest = content[:200].partition(b"\n")
    if first != MAGIC + b"%d" % FORMAT:
        number = first[len(MAGIC) :][:20].decode(errors="replace")
        raise FileError(f"{os.fspath(path)} is of format {number!r}; this version of gpuvox reads format {FORMAT}")
    start = len(first) + 2 + DIGITS
    body = memoryview(content)[start:]
    if hashlib.sha256(body).hexdigest().encode() + b"\n" != digest[: DIGITS + 1]:
        raise FileError(f"{os.fspath(path)} is damaged: its content does not fit its checksum")
    line = content[start : content.find(b"\n", start)]
    try:
        return _parsed(line, body[len(line) + 1 :])
    except CORRUPT_CONTENT as error:
        raise FileError(f"{os.fspath(path)} has no content that makes sense: {error}") from error


def _content(path: str | os.PathLike[str]) -> bytes:
    """All that is in a file, whose size is seen first: it may come from others."""
    try:
        with open(path, "rb") as file:
            size, free = os.fstat(file.fileno()).st_size, available_bytes()
            if free is None or size <= free:
                return file.read(size)
    except OSError as error:
        raise FileError(f"{os.fspath(path)} cannot be read: {error.strerror}") from error
    raise FileError(
        f"{os.fspath(path)} has {size >> 20} MiB, more than the memory that is free ({free >> 20} MiB)"
    )


def _check_kind(path: Path) -> None:
    """Raise `FileError` for other files, which may be large, and for devices and pipes, which may have no end."""
    try:
        if path.exists() and not path.is_file():
            raise FileError(f"{path} is a {'folder' if path.is_dir() else 'device or a pipe'}; a file expected")
        with path.open("rb") as file:
            begins = file.read(len(MAGIC)) == MAGIC
    except OSError as error:
        raise FileError(f"{path} cannot be read: {error.strerror}") from error
    if not begins:
        raise FileError(f"{path} is not a file of tallies, as --checkpoint and --shard write it")


def _check_is_no_link(path: Path) -> None:
    if path.is_symlink():
        raise FileError(f"{path} is a link; a checkpoint is a file of its own, which is replaced and removed")


def read_to_resume(path: str | os.PathLike[str]) -> Tallies:
    """Read the checkpoint that a run is to go on from; errors of `read`, and where there is none."""
    _check_is_no_link(Path(path))
    if not os.path.exists(path):
        raise FileError(f"--resume: there is no checkpoint {os.fspath(path)}")
    return read(path)


def _parsed(line: bytes, rest: memoryview) -> Tallies:
    header = json.loads(line)
    run = {part: dict(header["run"][part]) for part in ("software", "files", "options")}
    shuffles = {str(name): _count(n, MOST_SHUFFLES) for name, n in header["shuffles"].items()}
    shard = None if header["shard"] is None else (_count(header["shard"][0]), _count(header["shard"][1]))
    tallies = Tallies(RunIdentity(run, shuffles, tuple(map(str, header["command"])), shard))
    at = 0
    for test in header["tests"]:
        passes = []
        for described in test["passes"]:
            tally, at = _tally(described, rest, at)
            passes.append(tally)
        if test["name"] not in shuffles or any(tally.n != shuffles[test["name"]] for tally in passes[:2]):
            raise ValueError(f"{test['name']!r} is not a test of the run")
        tallies.tests[test["name"]] = KeptTest(_count(test["level_cap"], MOST_SHUFFLES), passes)
    if at != len(rest):
        raise ValueError(f"{len(rest) - at} bytes are left over")
    return tallies


def _tally(described: Mapping[str, Any], rest: memoryview, at: int) -> tuple[Tally, int]:
    """A tally, and where in the file it ends."""
    tally = Tally(_count(described["n"], MOST_SHUFFLES))
    for start, stop in described["done"]:
        if not 0 <= _count(start) < _count(stop) <= tally.n or tally.done[start:stop].any():
            raise ValueError(f"shuffles {start} to {stop} of {tally.n}")
        tally.done[start:stop] = True
    for group, kind, dtype, columns in described["arrays"]:
        if group not in GROUPS or dtype not in DTYPES or not isinstance(kind, str):
            raise ValueError(f"an array {group!r} of type {dtype!r}")
        values = np.frombuffer(rest, np.dtype(dtype), 2 * _count(columns), at).reshape(2, columns)
        at += values.nbytes
        values = values.astype(values.dtype.newbyteorder("="))
        if group == "maxima":
            values, given = np.zeros((2, tally.n), values.dtype), values
            values[:, tally.done] = given
        getattr(tally, group)[kind] = values
    return tally, at


def _count(value: Any, most: float = math.inf) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{value!r} is not a count")
    return value


# --------------------------------------------------------------------------------------------- which run is it


def differences(one: Run, other: Run, names: tuple[str, str]) -> str:
    """What differs between two runs, in words; empty if they are one.

    Parameters
    ----------
    one, other : dict
        See `Run`.
    names : (str, str)
        What the two are called.
    """
    found = []
    for software, (a, b) in _unequal(one["software"], other["software"]):
        found.append(f"{software} is {_said(a)} in {names[0]}, {_said(b)} in {names[1]}")
    for option, (a, b) in _unequal(one["files"], other["files"]):
        found += _file_differences(option, a or [], b or [], names)
    for option, (a, b) in _unequal(one["options"], other["options"]):
        found.append(f"{option} is {_said(a)} in {names[0]}, {_said(b)} in {names[1]}")
    return "; ".join(found)


def _unequal(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    for key in [*one, *(key for key in other if key not in one)]:
        if one.get(key) != other.get(key):
            yield key, (one.get(key), other.get(key))


def _file_differences(
    option: str, one: Sequence[Sequence[str]], other: Sequence[Sequence[str]], names: tuple[str, str]
) -> Iterator[str]:
    """Files are told apart by their content, not by their names."""
    if len(one) != len(other):
        yield f"{option} has {len(one) or 'no'} file{'s' * (len(one) != 1)} in {names[0]}, {len(other)} in {names[1]}"
        return
    for (mine, a), (theirs, b) in zip(one, other):
        if a != b:
            name = mine if mine == theirs else f"{mine} and {theirs}"
            yield f"the content of {name} ({option}) is not the same in {names[0]} and in {names[1]}"


def _said(value: Any) -> str:
    if value is None:
        return "not set"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


# ------------------------------------------------------------------------------------------------ the checkpoint


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
        _check_is_no_link(self.path)
        if self.path.exists():
            _check_kind(self.path)  # before a lock stands beside it
        self.lock = hold(self.path.with_name(self.path.name + ".lock"), str(self.path), warn)
        try:
            if self.lock.is_held:
                _remove_unfinished(self.path)
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
            self.warn(f"what is done is kept in {self.path}; --resume goes on from there")


# ------------------------------------------------------------------------------------------------------- merging


def read_all(names: Sequence[str]) -> Tallies:
    """Read tallies and add them up; errors of `read` and `merge`, and a file that is named twice."""
    for i, name in enumerate(names):
        if any(os.path.realpath(name) == os.path.realpath(other) for other in names[:i]):
            raise FileError(f"{name} is named twice")
    return merge({name: read(name) for name in names})


def merge(found: Mapping[str, Tallies]) -> Tallies:
    """Add up tallies that together are a whole run.

    Parameters
    ----------
    found : dict of Tallies
        By name of the file.

    Returns
    -------
    Tallies
        Of shards whose TFCE had fewer steps than another's nothing is taken over: the integer scores of the two do
        not mix, and what is left out is to be run again.

    Raises
    ------
    FileError
        They are of different runs, and what differs; shuffles that are in two of them, or in none.
    """
    if not found:
        raise FileError("there are no tallies to merge")
    first, *others = found
    for name in others:
        one, other = found[first].identity, found[name].identity
        difference = differences(one.run, other.run, (first, name))
        if one.shuffles != other.shuffles:
            difference = difference or "their tests have not the same names and numbers of shuffles"
        if difference:
            raise FileError(f"{first} and {name} are of different runs: {difference}")
    identity = min(found.values(), key=lambda tallies: tallies.identity.shard or (0, 0)).identity
    merged = Tallies(RunIdentity(identity.run, identity.shuffles, identity.command))
    for test in identity.shuffles:
        _check_cover(test, found)
        merged.tests[test] = _sum([tallies.tests[test] for tallies in found.values() if test in tallies.tests])
    return merged


def _check_cover(test: str, found: Mapping[str, Tallies]) -> None:
    """Every shuffle of a test must be in one file, and in one only."""
    count = np.zeros(next(iter(found.values())).identity.shuffles[test], dtype=np.int32)
    for name, tallies in found.items():
        done = tallies.done(test)
        if (done & (count > 0)).any():
            other = next(key for key in found if (found[key].done(test) & done).any())
            start, stop = next(spans(found[other].done(test) & done))
            raise FileError(f"shuffles {start + 1} to {stop} of {test} are in {other} and again in {name}")
        count += done
    missing = [f"{start + 1} to {stop}" for start, stop in spans(count == 0)]
    if missing:
        unfinished = [name for name, tallies in found.items() if _is_unfinished(tallies, test)]
        given = ", ".join(
            sorted(f"{t.identity.shard[0]}/{t.identity.shard[1]}" for t in found.values() if t.identity.shard)
        )
        raise FileError(
            f"of {test} shuffles {', '.join(missing[:3])}{' …' * (len(missing) > 3)} of {len(count)} are missing; "
            f"the shards are {given or 'none'}"
            + (f", and {unfinished[0]} is not finished: run it again with --resume" if unfinished else "")
        )


def _is_unfinished(tallies: Tallies, test: str) -> bool:
    identity = tallies.identity
    start, stop = share(identity.shuffles[test], *(identity.shard or (1, 1)))
    return not tallies.done(test)[start:stop].all()


def _sum(parts: Sequence[KeptTest]) -> KeptTest:
    """The tallies with the most steps of TFCE, added up."""
    cap = max((test.level_cap for test in parts if test.passes and test.passes[0].done.any()), default=0)
    tallies = [test.passes[0] for test in parts if test.level_cap == cap and test.passes]
    if not tallies:
        return KeptTest()
    total = Tally(tallies[0].n)
    for tally in tallies:
        total.include(tally)
    return KeptTest(cap, [total])
