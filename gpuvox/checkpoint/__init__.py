"""Tallies in a file: a checkpoint that a run resumes from, or a shard that `merge` adds to others."""

from gpuvox.checkpoint.file import read, read_to_resume, write
from gpuvox.checkpoint.identity import Run, RunIdentity, differences
from gpuvox.checkpoint.merging import merge, read_all, read_each
from gpuvox.checkpoint.resumable import ENDINGS, Checkpoint
from gpuvox.checkpoint.tallies import KeptTest, Tallies

__all__ = [
    "ENDINGS",
    "Checkpoint",
    "KeptTest",
    "Run",
    "RunIdentity",
    "Tallies",
    "differences",
    "merge",
    "read",
    "read_all",
    "read_each",
    "read_to_resume",
    "write",
]
