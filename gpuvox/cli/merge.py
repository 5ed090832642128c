"""``gpuvox merge``: combine the shards of ``gpuvox randomise`` or ``gpuvox voxelwise`` into maps of the whole run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpuvox import __version__
from gpuvox.cli.arguments import Parser
from gpuvox.cli.console import terminal
from gpuvox.cli.options import add_device, add_quiet, add_scratch, add_text, add_threads, command_line
from gpuvox.errors import FileError, UsageError

if TYPE_CHECKING:
    from gpuvox.checkpoint import Tallies

EPILOG = """\
Each shard records its command and checksums of the input files, which are read again under the same names. The maps
are bitwise identical to those of a single run.

example, on three machines and then on one:
  gpuvox randomise -i maps -o out -m mask -d design.mat -t design.con -T --seed 1 --shard 1/3     (2/3, 3/3)
  gpuvox merge out_shard*.tally

The shards of gpuvox voxelwise are in its folder: gpuvox merge OUT/randomise/*_shard*.tally
"""


def build_parser() -> Parser:
    """The parser."""
    parser = Parser(
        prog="gpuvox merge",
        usage="gpuvox merge TALLY [TALLY ...] [options]",
        description=f"Combine the shards of a run of randomise or voxelwise into its maps (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    parser.add_argument("tallies", nargs="*", metavar="TALLY", help="files written with --shard, in any order")
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
    from gpuvox.checkpoint import read_each

    parts, line = read_each(options.tallies), command_line("merge", *argv)
    commands = [tallies.identity.command[:1] for tallies in parts.values()]
    merge = _merge_voxelwise if ("voxelwise",) in commands else _merge_randomise
    try:
        merge(parts, options, line)
    except FileError as error:
        raise FileError(
            f"{error} (names are those of the shards' command: merge in the folder where it ran)"
        ) from None
    return 0


def _merge_randomise(parts: Mapping[str, Tallies], options: argparse.Namespace, line: tuple[str, ...]) -> None:
    from gpuvox.application.execute import write_merged
    from gpuvox.checkpoint import merge
    from gpuvox.cli.randomise import check_root, open_device

    merged = merge(parts)
    description = replace(_description(merged, options), line=line, shard_line=merged.identity.command)
    with terminal(lines=not options.quiet, bar=not options.quiet) as reporter:
        check_root(description.root)
        reporter.say(f"Merging to {description.root}")
        open_device(options.device, options.quiet)
        write_merged(description, merged, reporter)


def _merge_voxelwise(parts: Mapping[str, Tallies], options: argparse.Namespace, line: tuple[str, ...]) -> None:
    """The shards of ``gpuvox voxelwise``, of all of its runs of randomise."""
    from gpuvox.application.voxelwise.execute import Output, merge
    from gpuvox.cli.randomise import open_device
    from gpuvox.cli.voxelwise import describe, parse, report_results

    commands = {tallies.identity.command for tallies in parts.values()}
    first = min(commands)
    theirs = parse(list(first[1:])) if first[:1] == ("voxelwise",) else None
    if theirs is None or len({_without_shard(command) for command in commands}) > 1:
        raise FileError(
            f"{' and '.join(list(parts)[:2])} are not all of one gpuvox voxelwise command; the shards of one are merged"
        )
    _here(theirs, next(iter(parts.values())), options)
    if options.out:
        theirs.out = options.out
    elif not _is_here(theirs.out):
        raise _not_here(theirs.out)
    with terminal(lines=not options.quiet, bar=not options.quiet) as reporter:
        reporter.say(f"Merging to {theirs.out}")
        open_device(options.device, options.quiet)
        merge(describe(theirs), Output(theirs.out, theirs.fsl_names, line, first), reporter, parts)
        if not theirs.no_report:
            report_results(theirs, reporter)


SWITCHES = {
    "--shard": 2,
    "--resume": 1,
    "--quiet": 1,
    "--device": 2,
    "--threads": 2,
    "--workers": 2,
    "--scratch": 2,
}
"""Options in which the shards of one command may differ, with the words that each takes."""


def _without_shard(command: Sequence[str]) -> tuple[str, ...]:
    """The words of a command without the options in which its shards may differ."""
    kept: list[str] = []
    skipped = 0
    for word in command:
        option = word.split("=")[0]
        if skipped:
            skipped -= 1
        elif option in SWITCHES:
            skipped = 0 if "=" in word else SWITCHES[option] - 1
        else:
            kept.append(word)
    return tuple(kept)


def _description(merged: Any, options: argparse.Namespace) -> Any:
    """The run that the shards describe, with their seed, and the output root and device of this command."""
    from gpuvox.cli.randomise import check, describe_run, parse

    arguments = list(merged.identity.command)
    theirs = parse(arguments)
    _here(theirs, merged, options)
    check(theirs)
    if options.out:
        theirs.root = options.out
    elif not _is_here(theirs.root):
        raise _not_here(theirs.root)
    return describe_run(theirs, arguments)


def _here(theirs: argparse.Namespace, merged: Tallies, options: argparse.Namespace) -> None:
    """Put the seed of the shards, and what this command says of device and so on, among the options of the shards."""
    theirs.seed, theirs.device, theirs.threads = merged.seed, options.device, options.threads
    theirs.checkpoint, theirs.resume, theirs.shard = "", False, None
    theirs.workers, theirs.scheduler, theirs.scheduler_file = 0, "", ""
    theirs.tls_ca_file, theirs.tls_cert, theirs.tls_key = "", "", ""
    theirs.scratch = options.scratch  # the folder of a shard may be on another machine


def _not_here(root: str) -> UsageError:
    return UsageError(
        f"the output root of the shards, {root}, is not in the current folder; --out names another", option="--out"
    )


def _is_here(root: str) -> bool:
    """Whether an output root is in the current folder: shards made by others must not write anywhere else."""
    here = os.path.realpath(os.curdir)
    return os.path.commonpath([here, os.path.realpath(os.path.dirname(root) or os.curdir)]) == here
