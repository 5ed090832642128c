"""``gpuvox study``: a whole study, from a file that describes it to a report."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser
from gpuvox.cli.console import say, terminal
from gpuvox.errors import UsageError

EPILOG = """\
Stages whose settings and inputs have not changed since they were run are skipped, and an interrupted study resumes
where it stopped.

to begin:
  gpuvox phantom cohort
  gpuvox study --example > cohort/study.toml     # every key, explained
  gpuvox study cohort/study.toml --dry-run
  gpuvox study cohort/study.toml
"""


def build_parser() -> Parser:
    """The parser of the command."""
    parser = Parser(
        prog="gpuvox study",
        description=f"Run a whole study, from maps to a report (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    add = parser.add_argument
    add("config", metavar="CONFIG.toml", nargs="?", default="", help="file that describes the study")
    add("--dry-run", action="store_true", help="list the stages that would be run, and why")
    add("--example", action="store_true", help="print an example of CONFIG.toml in which every key is explained")
    add("--quiet", action="store_true", help="show no progress bar")
    return parser


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    options = build_parser().parse_args(argv)
    if options.example:
        from gpuvox.study.pipeline.config import example

        sys.stdout.write(example())
        return 0
    if not options.config:
        raise UsageError("CONFIG.toml is missing; gpuvox study --example prints one")
    from gpuvox.cli.first_run import compile_ahead
    from gpuvox.study.pipeline.config import read_config
    from gpuvox.study.pipeline.pipeline import Pipeline, execute, listing

    line = (os.path.basename(sys.argv[0]) or "gpuvox", "study", *argv)
    pipeline = Pipeline(read_config(options.config), line)
    if options.dry_run:
        say("\n".join(listing(pipeline)))
        return 0
    compile_ahead(options.quiet)
    with terminal(bar=not options.quiet) as reporter:
        execute(pipeline, reporter)
    return 0
