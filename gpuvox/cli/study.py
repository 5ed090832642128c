"""``gpuvox study``: a whole study, from a file that describes it to a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from gpuvox import __version__
from gpuvox.cli.arguments import Parser
from gpuvox.cli.console import say, terminal
from gpuvox.cli.options import add_flag, add_plan, add_quiet, command_line
from gpuvox.errors import UsageError

EPILOG = """\
Stages whose settings and inputs have not changed since they were run are skipped, and an interrupted study resumes
where it stopped.

to begin:
  gpuvox phantom cohort
  gpuvox study --example > cohort/study.toml     # every key, explained
  gpuvox study cohort/study.toml --plan
  gpuvox study cohort/study.toml
"""


def build_parser() -> Parser:
    """The parser of the command."""
    parser = Parser(
        prog="gpuvox study",
        description=f"Run a whole study, from maps to a report (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    parser.add_argument(
        "config", metavar="CONFIG.toml", nargs="?", default="", help="file that describes the study"
    )
    add_plan(parser, "list the stages that would be run, and why")
    add_flag(parser, "--example", "print an example of CONFIG.toml in which every key is explained")
    add_quiet(parser)
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

    pipeline = Pipeline(read_config(options.config), command_line("study", *argv))
    if options.plan:
        say("\n".join(listing(pipeline)))
        return 0
    compile_ahead(options.quiet)
    with terminal(bar=not options.quiet) as reporter:
        execute(pipeline, reporter)
    return 0
