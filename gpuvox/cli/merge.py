"""``gpuvox merge``: combine the shards of a ``gpuvox randomise`` run into the maps of the whole run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gpuvox import __version__
from gpuvox.cli.arguments import Parser
from gpuvox.cli.console import terminal
from gpuvox.cli.options import add_device, add_quiet, add_scratch, add_text, add_threads, command_line
from gpuvox.errors import UsageError

EPILOG = """\
Each shard records its command and checksums of the input files, which are read again under the same names. The maps
are bitwise identical to those of a single run.

example, on three machines and then on one:
  gpuvox randomise -i maps -o out -m mask -d design.mat -t design.con -T --seed 1 --shard 1/3     (2/3, 3/3)
  gpuvox merge out_shard*.tally
"""


def build_parser() -> Parser:
    """The parser."""
    parser = Parser(
        prog="gpuvox merge",
        usage="gpuvox merge TALLY [TALLY ...] [options]",
        description=f"Combine the shards of a randomise run into its maps (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    parser.add_argument(
        "tallies", nargs="*", metavar="TALLY", help="files written by gpuvox randomise --shard, in any order"
    )
    add_text(parser, "--out", "ROOT", "output root (that of the shards, if it is in the current folder)")
    add_device(parser)
    add_threads(parser)
    add_scratch(parser)
    add_quiet(parser, "print only errors and warnings")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = build_parser().parse_args(argv)
    if not options.tallies:
        raise UsageError("the files to merge are missing: gpuvox merge TALLY [TALLY ...]")
    from gpuvox.application.execute import write_merged
    from gpuvox.checkpoint import read_all
    from gpuvox.cli.randomise import check_root, open_device
    from gpuvox.errors import FileError

    merged = read_all(options.tallies)
    line = command_line("merge", *argv)
    description = replace(_description(merged, options), line=line, shard_line=merged.identity.command)
    try:
        with terminal(lines=not options.quiet, bar=not options.quiet) as reporter:
            check_root(description.root)
            reporter.say(f"Merging to {description.root}")
            open_device(options.device, options.quiet)
            write_merged(description, merged, reporter)
    except FileError as error:
        raise FileError(
            f"{error} (names are those of the shards' command: merge in the folder where it ran)"
        ) from None
    return 0


def _description(merged: Any, options: argparse.Namespace) -> Any:
    """The run that the shards describe, with their seed, and the output root and device of this command."""
    from gpuvox.cli.randomise import check, describe_run, parse

    arguments = list(merged.identity.command)
    theirs = parse(arguments)
    theirs.seed, theirs.device, theirs.threads = merged.seed, options.device, options.threads
    theirs.checkpoint, theirs.resume, theirs.shard = "", False, None
    theirs.workers, theirs.scheduler, theirs.scheduler_file = 0, "", ""
    theirs.tls_ca_file, theirs.tls_cert, theirs.tls_key = "", "", ""
    theirs.scratch = options.scratch  # the folder of a shard may be on another machine
    check(theirs)
    if options.out:
        theirs.root = options.out
    elif not _is_here(theirs.root):
        raise UsageError(
            f"the output root of the shards, {theirs.root}, is not in the current folder; --out names another",
            option="--out",
        )
    return describe_run(theirs, arguments)


def _is_here(root: str) -> bool:
    """Whether an output root is in the current folder: shards made by others must not write anywhere else."""
    here = os.path.realpath(os.curdir)
    return os.path.commonpath([here, os.path.realpath(os.path.dirname(root) or os.curdir)]) == here
