"""``gpuvox volumes``: volumes that FreeSurfer and FSL measured, as a table of participants."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser
from gpuvox.cli.console import terminal
from gpuvox.cli.options import add_pairs, add_table, add_text, require, unique
from gpuvox.errors import UsageError

EPILOG = """\
--stats names a table of FreeSurfer's asegstats2table, joined by participant. --file names a column of the table of
participants with a file for each: aseg.stats, report.sienax, report.siena, or what fslstats -V printed. Variables are
called NAME.left_thalamus, NAME.thalamus (both sides), and so on; volumes are in mL.

example:
  gpuvox volumes --table participants.tsv --stats aseg=aseg.tsv --file sienax=sienax --out volumes.tsv
"""


def build_parser() -> Parser:
    """The parser; its destinations are the fields of `volumetry.Command`."""
    parser = Parser(
        prog="gpuvox volumes",
        description=f"Read the volumes that FreeSurfer and FSL measured (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add_table(parser)
    add_pairs(parser, "--stats", "NAME=FILE", "table of asegstats2table", dest="tables")
    add_pairs(parser, "--file", "NAME=COLUMN", "column with the file of each participant", dest="columns")
    add_text(parser, "--out", "FILE", "table to write (required)")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = vars(build_parser().parse_args(argv))
    require(options, "--table", "--out")
    options["tables"] = unique(options["tables"], "--stats")
    options["columns"] = unique(options["columns"], "--file")
    if not (options["tables"] or options["columns"]):
        raise UsageError("there are no volumes: --stats NAME=FILE or --file NAME=COLUMN is needed")
    if set(options["tables"]) & set(options["columns"]):
        raise UsageError("--stats and --file have a name in common; choose another", option="--file")
    from gpuvox.study.measures.volumetry import Command, execute

    with terminal(bar=False) as reporter:
        execute(Command(**options), reporter)
    return 0
