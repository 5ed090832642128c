"""What FSL prints before and after the permutations of a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuvox.analysis import (
    Test,
    TestResult,
)
from gpuvox.application.outputs import Writer
from gpuvox.device import Device
from gpuvox.plain import in_short
from gpuvox.shuffle import ImportedShuffler
from gpuvox.tally import share

Say = Callable[[str], None]


def describe(device: Device) -> str:
    """A device in a line: what it is, its memory, and the precision of the arithmetic."""
    return f"{device.title} ({device.name}); float32, and float64 where float32 is not enough"


def announce_shuffles(shuffler: Any, test: Test, say: Say) -> None:
    """The lines that tell how many permutations there are."""
    if getattr(shuffler, "exhaustive", False) or shuffler.n_distinct != shuffler.n:
        if shuffler.flips and not test.is_f:
            say("One-sample design detected; sign-flipping instead of permuting.")
        kind = "sign-flips" if shuffler.flips else "permutations"
        say(f"{in_short(shuffler.n_distinct)} {kind} required for exhaustive test of {test.number}")


def announce_run(shuffler: Any, test: Test, say: Say) -> None:
    """What FSL prints before the permutations of a test; the line before names the test."""
    announce_shuffles(shuffler, test, say)
    if isinstance(shuffler, ImportedShuffler):
        say(f"Doing {shuffler.n} permutations of {test.title}, as imported")
    elif shuffler.exhaustive:
        say(f"Doing all {shuffler.n} unique permutations")
    else:
        say(f"Doing {shuffler.n} random permutations")


def announce_part(shard: tuple[int, int], say: Say) -> Callable[[Test, Any], None]:
    """Announces the part of a shard."""

    def begin(test: Test, shuffler: Any) -> None:
        start, stop = share(shuffler.n, *shard)
        say(f"Doing {stop - start} of the {shuffler.n} permutations of {test.title}")

    return begin


def announce_critical(result: TestResult, writer: Writer, say: Say) -> None:
    """What FSL prints after them: the critical values."""
    for kind in result.nulls:
        name = writer.name(result.test.name if writer.wanted.film else f"{kind}_{result.test.name}")
        say(f"Critical Value for: {name} is: {result.critical(kind):g}")
