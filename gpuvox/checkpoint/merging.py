"""Shards added up to a whole run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from gpuvox.checkpoint.file import read
from gpuvox.checkpoint.identity import RunIdentity, differences
from gpuvox.checkpoint.tallies import KeptTest, Tallies
from gpuvox.errors import FileError
from gpuvox.tally import Tally, share, spans


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
