"""The tallies of a run in memory, by test and by pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from gpuvox.checkpoint.identity import RunIdentity
from gpuvox.errors import FileError
from gpuvox.permtest import ObservedTest
from gpuvox.tally import Tally


@dataclass(eq=False)
class KeptTest:
    """The tallies of one permutation test, one for each pass; an `executors.TallyStore`.

    Attributes
    ----------
    level_cap : int
        Steps of TFCE that they were made with; scores of different caps cannot be combined. 0 before the first.
    passes : list of Tally
    """

    level_cap: int = 0
    passes: list[Tally] = field(default_factory=list)
    on_added: Callable[[bool], None] = lambda ended: None

    def tally(self, observed: ObservedTest, fresh: Tally) -> Tally:
        """The stored tally of a pass, or the fresh one, which is then stored.

        Raises
        ------
        FileError
            The stored tally does not belong to this test.
        """
        cap, number = observed.test.level_cap, int(observed.is_second)
        if cap != self.level_cap:
            self.passes, self.level_cap = [], cap
        if number == len(self.passes):
            self.passes.append(fresh)
            return fresh
        kept = self.passes[number]
        kept.start, kept.stop = fresh.start, fresh.stop
        if kept.n != fresh.n or not _fits(kept, observed):
            raise FileError(
                "the stored tally does not belong to this test: its statistics or its number of voxels differ"
            )
        return kept

    def added(self) -> None:
        """Report that a result has been added."""
        self.on_added(self.passes[-1].is_complete)


def _fits(tally: Tally, observed: ObservedTest) -> bool:
    """Whether a tally that was read has the statistics of the test, and a column for each voxel."""
    if not tally.done.any():
        return True
    return all(
        set(getattr(tally, group)) == expected
        and (
            group == "maxima" or all(a.shape[1] == len(observed.statistic) for a in getattr(tally, group).values())
        )
        for group, expected in observed.names_of_results.items()
    )


@dataclass(eq=False)
class Tallies:
    """The tallies of a run, by test."""

    identity: RunIdentity
    tests: dict[str, KeptTest] = field(default_factory=dict)
    on_added: Callable[[bool], None] = lambda ended: None

    def store(self, name: str) -> KeptTest:
        """The tallies of a test; none at first."""
        test = self.tests.setdefault(name, KeptTest())
        test.on_added = self.on_added
        return test

    @property
    def n_done(self) -> int:
        """Number of permutations counted, including those of second passes."""
        return sum(tally.n_done for test in self.tests.values() for tally in test.passes)

    @property
    def is_consistent(self) -> bool:
        """False if a signal arrived while a result was being added."""
        return all(tally.is_consistent for test in self.tests.values() for tally in test.passes)

    @property
    def seed(self) -> int:
        """Seed of the run; `FileError` if the file has none."""
        seed = self.identity.run["options"].get("--seed")
        if not isinstance(seed, int):
            raise FileError(f"the tallies have no valid seed: {seed!r}")
        return seed

    def done(self, name: str) -> np.ndarray:
        """(n,) bool: the permutations of a test that its first pass has counted."""
        passes = self.tests[name].passes if name in self.tests else []
        return passes[0].done if passes else np.zeros(self.identity.shuffles[name], dtype=bool)
