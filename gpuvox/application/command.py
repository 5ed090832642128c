"""What a front door asks for: a run of randomise, its options parsed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from gpuvox.analysis import (
    Options,
)
from gpuvox.application.outputs import Wanted
from gpuvox.checkpoint import read_to_resume
from gpuvox.distributed.launch import (
    DaskCluster,
)

MOST_SHUFFLES = 10**8
"""A run's null distributions are held in memory, and more would take months."""


@dataclass(frozen=True)
class Command:
    """A ``gpuvox randomise`` command, its options parsed.

    File names are as given; empty for none. `options` holds what the analysis is to do, `wanted` which
    files it writes.
    """

    data: str
    root: str
    mask: str = ""
    design: str = ""
    contrasts: str = ""
    f_tests: str = ""
    blocks: str = ""
    effective_design: str = ""
    one_sample: bool = False
    keep_constant: bool = False
    permutations: str = ""
    voxelwise_columns: tuple[int, ...] = ()
    voxelwise_files: tuple[str, ...] = ()
    permuted_maps: bool = False
    device: str = "auto"
    checkpoint: str = ""
    resume: bool = False
    shard: tuple[int, int] | None = None
    cluster: DaskCluster | None = None
    options: Options = field(default_factory=Options)
    wanted: Wanted = field(default_factory=Wanted)
    line: tuple[str, ...] = ()
    shard_line: tuple[str, ...] = ()


def checkpoint_name(command: Command) -> str:
    """The file of tallies of a command: what ``--checkpoint`` says, or a name beside the output."""
    if command.checkpoint:
        return command.checkpoint
    part = f"shard{command.shard[0]}of{command.shard[1]}" if command.shard else "checkpoint"
    return f"{command.root}_{part}.tally"


def kept_seed(command: Command) -> int:
    """Seed of the run that a command goes on from; a `FileError` if there is none, or it cannot be read."""
    return read_to_resume(checkpoint_name(command)).seed


def draw_seed() -> int:
    """A seed for a run that was given none; it is recorded."""
    return secrets.randbits(32)
