"""Merging: the tallies of shards are added up to those of the whole run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from gpuvox.checkpoint.file import read
from gpuvox.checkpoint.identity import RunIdentity, differences
from gpuvox.checkpoint.tallies import KeptTest, Tallies
from gpuvox.errors import FileError
from gpuvox.tally import Tally, share, spans


def read_each(names: Sequence[str]) -> dict[str, Tallies]:
    """Files of tallies by name; errors of `read`, and a file that is given twice."""
    for i, name in enumerate(names):
        if any(os.path.realpath(name) == os.path.realpath(other) for other in names[:i]):
            raise FileError(f"{name} is given twice")
    return {name: read(name) for name in names}


def read_all(names: Sequence[str]) -> Tallies:
    """Read files of tallies and add them up; errors of `read_each` and `merge`."""
    return merge(read_each(names))


def merge(parts: Mapping[str, Tallies]) -> Tallies:
    """Add up tallies that together cover a whole run.

    Parameters
    ----------
    parts : dict of Tallies
        By name of the file.

    Returns
    -------
    Tallies
        Shards whose TFCE used fewer steps than another's are left out, because the integer scores of the two cannot be
        combined; their permutations have to be run again.

    Raises
    ------
    FileError
        The files belong to different runs (the message says what differs), or a permutation is in two of them or in
        none.
    """
    if not parts:
        raise FileError("there are no tallies to merge")
    first, *others = parts
    for name in others:
        one, other = parts[first].identity, parts[name].identity
        difference = differences(one.run, other.run, (first, name))
        if one.shuffles != other.shuffles:
            difference = difference or "their tests differ in name or number of permutations"
        if difference:
            raise FileError(f"{first} and {name} belong to different runs: {difference}")
    identity = min(parts.values(), key=lambda tallies: tallies.identity.shard or (0, 0)).identity
    merged = Tallies(RunIdentity(identity.run, identity.shuffles, identity.command))
    for test in identity.shuffles:
        _check_cover(test, parts)
        merged.tests[test] = _sum([tallies.tests[test] for tallies in parts.values() if test in tallies.tests])
    return merged


def _check_cover(test: str, parts: Mapping[str, Tallies]) -> None:
    """Every permutation of a test must be in exactly one file."""
    count = np.zeros(next(iter(parts.values())).identity.shuffles[test], dtype=np.int32)
    for name, tallies in parts.items():
        done = tallies.done(test)
        if (done & (count > 0)).any():
            other = next(key for key in parts if (parts[key].done(test) & done).any())
            start, stop = next(spans(parts[other].done(test) & done))
            raise FileError(f"permutations {start + 1} to {stop} of {test} are both in {other} and in {name}")
        count += done
    missing = [f"{start + 1} to {stop}" for start, stop in spans(count == 0)]
    if missing:
        unfinished = [name for name, tallies in parts.items() if _is_unfinished(tallies, test)]
        shards = ", ".join(
            sorted(f"{t.identity.shard[0]}/{t.identity.shard[1]}" for t in parts.values() if t.identity.shard)
        )
        raise FileError(
            f"{test}: permutations {', '.join(missing[:3])}{' …' * (len(missing) > 3)} of {len(count)} are missing; "
            f"shards given: {shards or 'none'}"
            + (f"; {unfinished[0]} is not finished: run it again with --resume" if unfinished else "")
        )


def _is_unfinished(tallies: Tallies, test: str) -> bool:
    identity = tallies.identity
    start, stop = share(identity.shuffles[test], *(identity.shard or (1, 1)))
    return not tallies.done(test)[start:stop].all()


def _sum(parts: Sequence[KeptTest]) -> KeptTest:
    """The sum of the tallies with the most steps of TFCE."""
    cap = max((test.level_cap for test in parts if test.passes and test.passes[0].done.any()), default=0)
    tallies = [test.passes[0] for test in parts if test.level_cap == cap and test.passes]
    if not tallies:
        return KeptTest()
    total = Tally(tallies[0].n)
    for tally in tallies:
        total.include(tally)
    return KeptTest(cap, [total])
