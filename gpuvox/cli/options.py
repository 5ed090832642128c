"""Options that several commands share, each defined once, and checks that every command makes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpuvox.cli.arguments import Parser, at_least_one, count, integer, names, pair, positive, threads
from gpuvox.errors import UsageError
from gpuvox.plain import composed

NAMES_IN_TABLES = {"COLUMN", "VISIT", "VALUE", "CONDITION", "FORMULA"}
"""Metavars of the options that say what a table has."""

# ------------------------------------------------------------------------------------------------ shapes of options


def add_text(parser: Any, option: str, metavar: str, text: str, **settings: Any) -> None:
    """Add an option whose value is text, empty by default; columns, levels and conditions get composed accents."""
    made = {"default": ""} | ({"type": composed} if metavar in NAMES_IN_TABLES else {})
    parser.add_argument(option, metavar=metavar, help=text, **{**made, **settings})


def add_flag(parser: Any, option: str, text: str, **settings: Any) -> None:
    """Add an option without a value."""
    parser.add_argument(option, action="store_true", help=text, **settings)


def add_list(
    parser: Any, option: str, metavar: str, text: str, kind: Callable[[str], Any] = names, **settings: Any
) -> None:
    """Add an option whose values are separated by commas; none by default."""
    parser.add_argument(option, metavar=metavar, type=kind, default=(), help=text, **settings)


def add_pairs(
    parser: Any, option: str, metavar: str, text: str, kind: Callable[[str], Any] = pair, **settings: Any
) -> None:
    """Add an option ``NAME=VALUE`` that may be repeated; see `unique`."""
    parser.add_argument(
        option,
        metavar=metavar,
        type=kind,
        action="append",
        default=[],
        help=f"{text}; may be repeated",
        **settings,
    )


# ------------------------------------------------------------------------------------------------ tables of studies


def add_table(parser: Parser, text: str = "table of participants (required)") -> None:
    """Add ``--table``."""
    add_text(parser, "--table", "FILE", text)


def add_groups(parser: Parser, group: str, order: str = "order of the groups (alphabetical)") -> None:
    """Add ``--group`` and ``--order``."""
    add_text(parser, "--group", "COLUMN", group)
    add_list(parser, "--order", "A,B", order)


def add_atlas(parser: Any) -> None:
    """Add ``--atlas`` and ``--names``."""
    add_text(parser, "--atlas", "IMAGE", "label image of an atlas, on any grid; or an FSL atlas in XML")
    add_text(
        parser, "--names", "FILE", "names of its labels: a _dseg.tsv, FSL XML, FreeSurfer or ITK-SNAP table, or lines "
        "with number and name (a .tsv of the name of the image, if it is there)",
    )  # fmt: skip


def add_clusters(parser: Any) -> None:
    """Add ``--p``, ``--extent`` and ``--connectivity``."""
    parser.add_argument("--p", type=positive, metavar="P", default=0.05, help="significance level (0.05)")
    parser.add_argument(
        "--extent", type=at_least_one, metavar="N", default=1, help="smallest cluster to list, in voxels (1)"
    )
    parser.add_argument(
        "--connectivity",
        type=integer,
        choices=(6, 18, 26),
        default=26,
        help="number of neighbours of a voxel (26)",
    )


def add_peaks(parser: Any, subpeaks: int) -> None:
    """Add ``--subpeaks`` and ``--distance``."""
    parser.add_argument(
        "--subpeaks", type=count, metavar="N", default=subpeaks,
        help=f"list up to N further peaks of each cluster ({subpeaks})",
    )  # fmt: skip
    parser.add_argument(
        "--distance",
        type=positive,
        metavar="MM",
        default=8.0,
        help="least distance between peaks of a cluster (8)",
    )


def add_covariates(parser: Parser, text: str = "columns to adjust for") -> None:
    """Add ``--covariates``."""
    add_list(parser, "--covariates", "A,B", text)


def add_subset(parser: Parser, text: str = 'include only these participants, for example "age <= 50"') -> None:
    """Add ``--subset``."""
    add_text(parser, "--subset", "CONDITION", text)


def add_measurements(parser: Parser) -> None:
    """Add ``--rois`` and ``--clusters``, the tables of other commands whose columns can be analysed."""
    add_text(parser, "--rois", "FILE", "table written by gpuvox rois")
    add_pairs(parser, "--clusters", "NAME=FILE", "table OUT_subjects.tsv written by gpuvox clusters")


def add_correction(parser: Parser, text: str) -> None:
    """Add ``--correction``."""
    parser.add_argument("--correction", choices=("fdr_bh", "bonferroni", "none"), default="fdr_bh", help=text)


# ------------------------------------------------------------------------------------------------- output, computing


def add_root(parser: Parser, text: str = "root of the output names (required)") -> None:
    """Add ``--out`` for commands that write several files."""
    add_text(parser, "--out", "OUT", text)


def add_quiet(parser: Any, text: str = "show no progress bar") -> None:
    """Add ``--quiet``."""
    add_flag(parser, "--quiet", text)


def add_device(parser: Any) -> None:
    """Add ``--device``."""
    add_text(parser, "--device", "NAME", "auto, cpu, cuda (all GPUs), cuda:i or cuda:i,j (auto)", default="auto")


def add_threads(parser: Any) -> None:
    """Add ``--threads``."""
    parser.add_argument("--threads", type=threads, metavar="N", help="number of threads (all processors)")


def add_scratch(parser: Any) -> None:
    """Add ``--scratch``."""
    add_text(parser, "--scratch", "DIR", "keep data that do not fit in memory in a temporary file in DIR")


def add_plan(parser: Any, text: str) -> None:
    """Add ``--plan``, and ``--dry-run``, which means the same."""
    add_flag(parser, "--plan", f"{text}, and exit")
    add_flag(parser, "--dry-run", argparse.SUPPRESS, dest="plan")


# ------------------------------------------------------------------------------------------------------------ checks


def require(options: Mapping[str, Any], *option_names: str) -> None:
    """Make sure that options have a value.

    Parameters
    ----------
    options : dict
        Destination → value.
    *option_names : str
        Options as they are written, whose destination is their name without dashes; or ``--map:maps`` for an option
        with the destination ``maps``.

    Raises
    ------
    UsageError
        The first option that is missing.
    """
    for text in option_names:
        option, _, destination = text.partition(":")
        if not options[destination or option.lstrip("-").replace("-", "_")]:
            raise UsageError(f"{option} is missing", option=option)


def check_order(options: Mapping[str, Any]) -> None:
    """Make sure that ``--order`` has groups to put in order."""
    if options["order"] and not options["group"]:
        raise UsageError("--order is the order of the groups, and needs --group", option="--order")


def unique(pairs: Sequence[tuple[str, Any]], option: str) -> dict[str, Any]:
    """The pairs of a repeated option as a dict; `UsageError` if a name occurs twice."""
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise UsageError(f"{option} {name} is given twice", option=option)
        values[name] = value
    return values


def command_line(*words: str) -> tuple[str, ...]:
    """The command as it was called, for records.

    Parameters
    ----------
    *words : str
        What follows the name of the program.
    """
    return (os.path.basename(sys.argv[0]) or "gpuvox", *words)
