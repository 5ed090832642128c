"""What FSL prints before and after the permutations of a test."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpuvox.analysis import Begin, PreparedTest, TestResult
from gpuvox.application.outputs import Writer
from gpuvox.device import Device
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.movement import extent, movement
from gpuvox.plain import format_count
from gpuvox.shuffle import Shuffler
from gpuvox.tally import share

Say = Callable[[str], None]


def describe_device(device: Device) -> str:
    """A line about a device: its name, memory and precision."""
    return f"{device.title} ({device.name}); float32, and float64 where float32 is not enough"


def announce_count(prepared: PreparedTest, say: Say) -> None:
    """Print the number of possible permutations."""
    test, shuffler = prepared.test, prepared.shuffler
    if isinstance(shuffler, Shuffler):
        if shuffler.flips and not shuffler.permutes and not test.is_f and not np.any(shuffler.labels):
            say("One-sample design detected; sign-flipping instead of permuting.")
        say(f"{format_count(shuffler.n_distinct)} {shuffler.kind} required for exhaustive test of {test.number}")


def announce_run(prepared: PreparedTest, say: Say) -> None:
    """Print FSL's lines before the permutations of a test, after a line with its name."""
    shuffler = prepared.shuffler
    announce_count(prepared, say)
    if isinstance(shuffler, ImportedShuffler):
        say(f"Doing {shuffler.n} permutations of {prepared.test.title}, as imported")
    elif shuffler.exhaustive:
        say(f"Doing all {shuffler.n} unique permutations")
    else:
        say(f"Doing {shuffler.n} random permutations")
    say(f"Exchangeability: {movement(shuffler)}; {extent(shuffler)}")


def announcer_of_part(shard: tuple[int, int], say: Say) -> Begin:
    """The callback at the beginning of the permutations of a shard."""

    def begin(prepared: PreparedTest) -> None:
        n = prepared.shuffler.n
        start, stop = share(n, *shard)
        say(f"Doing {stop - start} of the {n} permutations of {prepared.test.title}")

    return begin


def announce_critical(result: TestResult, writer: Writer, say: Say) -> None:
    """Print FSL's lines after the permutations: the critical values."""
    for kind in result.nulls:
        name = writer.name(result.test.name if writer.outputs.film else f"{kind}_{result.test.name}")
        say(f"Critical Value for: {name} is: {result.critical(kind):g}")
