"""``gpuvox report``: the report of a run, or of a study: one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuvox import __version__
from gpuvox.cli.arguments import Parser
from gpuvox.cli.console import terminal
from gpuvox.cli.options import add_atlas, add_clusters, add_peaks, add_text
from gpuvox.errors import UsageError

EPILOG = """\
RUN is the folder of gpuvox voxelwise; the output root of gpuvox randomise or of FSL's randomise (ROOT_tstat1 and so
on), or a folder with one of these; or study.json, which gpuvox study writes. The report is a single file that needs
neither a network nor other files: findings, maps, an orthogonal viewer, tables of clusters, values of participants,
methods with citations. It has the parts for which there are files. Tables (TSV) and figures (PNG at 300 dpi, and SVG)
are written into a folder of the same name beside it.

Values of participants are read from the images that the run analysed, if they are still there and unchanged; --data
names them for a run of FSL, together with --design and --contrasts.

The paths in study.json are relative to its folder. If you ran the study yourself, and it was not moved or edited since,
the report may read every file of the study. For any other study, it reads no file outside the folder of study.json,
unless --within names a larger folder (for instance because a mask is beside the results).

examples:
  gpuvox report results/vbm --atlas HarvardOxford-sub.xml --underlay mni152
  gpuvox report tbss/fa --data all_FA_skeletonised --design design.mat --contrasts design.con
  gpuvox report results/study.json
  gpuvox report received/results/study.json --within received --out report.html
"""
OF_RUNS = (
    "correction", "p", "extent", "connectivity", "subpeaks", "distance", "mask", "underlay", "atlas", "names", "data",
    "design", "contrasts",
)  # fmt: skip
"""Options that a study takes from its configuration."""


def build_parser() -> Parser:
    """The parser."""
    parser = Parser(
        prog="gpuvox report",
        description=f"Write the report of a run or of a study as one HTML file (gpuvox {__version__}).",
        epilog=EPILOG,
    )
    parser.add_argument(
        "run", metavar="RUN", help="folder of gpuvox voxelwise, output root of randomise, or study.json"
    )
    parser.add_argument(
        "--out", metavar="FILE", default=None,
        help="report to write (report.html in the folder, ROOT_report.html, or report.html beside study.json)",
    )  # fmt: skip
    add_results(parser.add_argument_group("of a run"))
    study = parser.add_argument_group("of a study")
    study.add_argument(
        "--within", metavar="DIR", default=None,
        help="folder that must contain all files of the study, links resolved (the folder of study.json; not needed "
        "for your own study)",
    )  # fmt: skip
    return parser


def add_results(group: Any) -> None:
    """Add the options of a run."""
    add_text(group, "--correction", "NAME", "p-values to report, such as tfceFWE, voxFWE or tfceFDR (tfceFWE)")
    add_clusters(group)
    add_peaks(group, 3)
    add_atlas(group)
    add_text(group, "--underlay", "IMAGE", "anatomy under the maps, on their grid")
    add_text(group, "--mask", "IMAGE", "mask of the analysis (voxels with a statistic)")
    add_text(group, "--data", "IMAGE", "images of the participants, as -i of randomise (those that were analysed)")
    add_text(group, "--design", "FILE", "design of a run of FSL, for values of participants")
    add_text(group, "--contrasts", "FILE", "its contrasts")


def run(argv: Sequence[str]) -> int:
    """Exit status 0."""
    parser = build_parser()
    options = parser.parse_args(argv)
    from gpuvox.front_door import study_record

    study = study_record(options.run)
    if study is not None:
        for name in OF_RUNS:
            if getattr(options, name) != parser.get_default(name):
                raise UsageError(
                    f"--{name} is for the report of a run; a study has it in its configuration", option=f"--{name}"
                )
        from gpuvox.study.report import execute as execute_study

        with terminal(bar=False) as reporter:
            execute_study(study, options.out, reporter, options.within)
        return 0
    if options.within is not None:
        raise UsageError("--within is for the report of a study", option="--within")
    from gpuvox.findings.report import execute, options_of

    with terminal(bar=False) as reporter:
        execute(
            options.run, options.out, options_of(**{name: getattr(options, name) for name in OF_RUNS}), reporter
        )
    return 0
