"""What a front door asks for: the description of one run of randomise.

The command line, the Python function and the study's pipeline fill the same `RunDescription`; nothing below them knows
which of them did.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from gpuvox.analysis import Options
from gpuvox.application.outputs import OutputOptions
from gpuvox.checkpoint import read_to_resume
from gpuvox.device import Device
from gpuvox.distributed.launch import DaskCluster

MOST_PERMUTATIONS = 10**8
"""A run's null distributions are held in memory, and more permutations would take months."""

MatrixSource: TypeAlias = Any
"""Where a matrix comes from: the name of a file, an array, or a DataFrame (which a type cannot say without pandas)."""
ImageSource: TypeAlias = Any
"""Where an image comes from: a name, a list of names, a nibabel image, a list of them, or an array; a mask may be a
`Grid`."""

SOURCES = ("mask", "design", "contrasts", "f_tests", "blocks", "effective_design")


@dataclass(frozen=True, eq=False)
class RunDescription:
    """A run of randomise: where its inputs come from, what is done with them, and what is written.

    Attributes
    ----------
    data : ImageSource
        One volume per row of the design.
    origin : ImageSource, optional
        Files that data in memory come from: their names are compared with the participants of the design.
    root : str
        Output root; empty from Python, where nothing is written.
    mask : ImageSource, optional
        Every voxel that varies, if it is left out. An empty name stands for None here and in the matrices.
    design, contrasts, f_tests, blocks, effective_design : MatrixSource, optional
        Without a design, a one-sample test.
    one_sample : bool
        Whether the design may be left out.
    keep_constant : bool
        Without a mask: voxels that do not vary are kept (``--norcmask``).
    permutations : str
        Root of the files of permutations that replace drawn ones; arrays are in `options.permutations`.
    voxelwise : tuple of (int, ImageSource)
        Columns as of ``--vxl``, from 1 or −N, with their images.
    permuted_maps : bool
        Whether the maps of every permutation are written.
    device : str, Device or tuple of Device, optional
        A name as `cuda.resolve_all` takes it, or devices; None for the CPU.
    checkpoint : str
        File of tallies; empty for a name beside the output, where one is needed.
    checkpoint_option : str
        How the user asks for it, for messages.
    resume : bool
    shard : (int, int), optional
        Part I of N of the permutations, from 1.
    cluster : DaskCluster, optional
        Dask workers that are looked for or started.
    client : distributed.Client, optional
        A Dask client whose workers are used; not with `cluster`.
    options : Options
    outputs : OutputOptions
    line : tuple of str
        The words of the command, for the record.
    shard_line : tuple of str
        Those of the shards that are merged.
    """

    data: ImageSource
    root: str = ""
    mask: ImageSource | None = None
    design: MatrixSource | None = None
    contrasts: MatrixSource | None = None
    f_tests: MatrixSource | None = None
    blocks: MatrixSource | None = None
    effective_design: MatrixSource | None = None
    one_sample: bool = False
    keep_constant: bool = False
    permutations: str = ""
    voxelwise: tuple[tuple[int, ImageSource], ...] = ()
    permuted_maps: bool = False
    device: str | Device | tuple[Device, ...] | None = "auto"
    checkpoint: str = ""
    checkpoint_option: str = "--checkpoint FILE"
    resume: bool = False
    shard: tuple[int, int] | None = None
    cluster: DaskCluster | None = None
    client: Any = None
    origin: ImageSource | None = None
    options: Options = field(default_factory=Options)
    outputs: OutputOptions = field(default_factory=OutputOptions)
    line: tuple[str, ...] = ()
    shard_line: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in SOURCES:
            if isinstance(getattr(self, name), str) and not getattr(self, name):
                object.__setattr__(self, name, None)

    @property
    def has_workers(self) -> bool:
        """Whether other processes run the permutations."""
        return self.cluster is not None or self.client is not None

    @property
    def tally_file(self) -> str:
        """The file of tallies: `checkpoint`, or a name beside the output."""
        if self.checkpoint:
            return self.checkpoint
        part = f"shard{self.shard[0]}of{self.shard[1]}" if self.shard else "checkpoint"
        return f"{self.root}_{part}.tally"

    @property
    def folder(self) -> str:
        """The folder of the results, beside which names are recorded."""
        return os.path.dirname(self.root or self.checkpoint)

    def with_seed(self, seed: int | None) -> RunDescription:
        """With this seed; without one, that of the checkpoint that is resumed, or one that is drawn and recorded.

        Raises
        ------
        FileError
            There is no checkpoint to resume from, or it cannot be read.
        """
        if seed is None:
            seed = read_to_resume(self.tally_file).seed if self.resume else secrets.randbits(32)
        return replace(self, options=replace(self.options, seed=seed))
