"""``gpuvox voxelwise``: from a table of participants and a formula to maps and what they show."""

from __future__ import annotations

import argparse
import re
from typing import Any

from gpuvox import __version__
from gpuvox.cli.arguments import Parser, positive
from gpuvox.cli.console import terminal
from gpuvox.cli.options import (
    add_atlas,
    add_flag,
    add_list,
    add_pairs,
    add_quiet,
    add_subset,
    add_text,
    command_line,
    require,
    unique,
)
from gpuvox.cli.randomise import check_shard, check_workers, describe_run, open_device
from gpuvox.cli.randomise_options import (
    add_computing,
    add_further_outputs,
    add_permutations,
    add_statistics,
    add_workers,
)
from gpuvox.errors import UsageError
from gpuvox.reporter import Reporter

SET_NAME = re.compile(r"[A-Za-z0-9{}.]+")
"""The name of a set of images; a range in it stands for several sets."""
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")

EPILOG = """\
Images are joined with the table by participant. --images is a template, in which {column} stands for the cell of that
column and * and ? match any letters; or a column of the table with a path for each row; or a 4D image with a table or a
JSON file of the same name that lists the participants of its volumes. Several sets of images have names, --images
fa=... --images md=...; 'ic{00..09}=ic{00..09}.nii.gz' names ten. Each is tested; --across-tests corrects over all.

--model is a formula: 'group + age + sex', 'group * age', 'C(site) + poly(age, 2)'. It has an intercept unless it ends
in '- 1'. Columns of numbers are centred. Without --model, the mean of all images is tested.

--test may be repeated; a name before a colon names the test ('atrophy: HC - MS'):
  'MS - HC', 'RRMS + SPMS - 2*HC'   means of levels, adjusted for the rest of the model
  age, -age                         whether values rise, or fall, with a covariate
  'age[MS] - age[HC]'               a difference of slopes
  group, group:sex, group:age       F tests: any difference, any interaction
  mean, MS                          whether a mean is above 0, by sign flips
t tests are one-sided. For both directions give both, 'MS - HC' and 'HC - MS' (the second takes hardly any time), or
--two-sided, which has one p for the two.

OUT is a folder, a BIDS derivative. Maps of p-values hold -log10(p): above 1.301 is p < 0.05.

examples:
  gpuvox voxelwise participants.tsv --images 'vbm/{participant_id}_*probseg.nii.gz' --mask gm --out results/vbm \\
    --model 'group + age + sex + tiv' --test 'HC - MS'
  gpuvox voxelwise participants.tsv --images fa_skeletons.nii.gz --mask skeleton --out results/tbss --T2 \\
    --model 'group * age' --test 'age[HC] - age[MS]' --test group:age
  gpuvox voxelwise sessions.tsv --images 'cbf/{participant_id}_{session}_cbf.nii.gz' --mask gm --out results/cbf \\
    --model session --paired participant_id --test 'post - pre'
  gpuvox voxelwise sessions.tsv --images 'gm/{participant_id}_{session}_gm.nii.gz' --mask gm --out results/rates \\
    --longitudinal participant_id --visit session --years time --model 'group + age' --test 'HC - MS'
"""
NOT_HERE = {
    "data": "", "root": "", "design": "", "contrasts": "", "f_tests": "", "effective_design": "",
    "one_sample": False, "demean": False, "permuteBlocks": False, "fonly": False, "skipTo": 0, "permutations": "",
    "vxl": (), "vxf": (), "permout": False, "film": False, "checkpoint": "",
}  # fmt: skip
"""Options of ``gpuvox randomise`` that the table, the model and the tests take the place of, or that are not there."""


def build_parser() -> Parser:
    """The parser; its destinations are those of ``gpuvox randomise``, and the fields of `VoxelwiseDescription`."""
    parser = Parser(
        prog="gpuvox voxelwise",
        usage="gpuvox voxelwise TABLE --images TEMPLATE --out DIR [--model FORMULA --test TEST ...] [options]",
        description="Permutation tests at every voxel, from a table of participants and a formula "
        f"(gpuvox {__version__}).",
        epilog=EPILOG,
    )
    parser.add_argument("table", metavar="TABLE", help="table of participants, with a column participant_id")
    _add_model(parser.add_argument_group("images and model"))
    _add_longitudinal(parser.add_argument_group("visits (one image for each subject, made of its rows)"))
    _add_exchangeability(parser.add_argument_group("exchangeability (columns of the table)"))
    inference = parser.add_argument_group("inference (TFCE unless another statistic is chosen)")
    add_statistics(inference)
    _add_thresholds(inference)
    add_permutations(parser.add_argument_group("permutations"))
    outputs = parser.add_argument_group("further outputs")
    add_further_outputs(outputs)
    add_flag(outputs, "--across-tests", "also write p-values that are corrected over all tests and sets of images")
    add_flag(outputs, "--fdr", "also write p-values of voxels that control the false discovery rate")
    add_flag(outputs, "--fdr-adaptive", "the same by the adaptive procedure of Benjamini, Krieger and Yekutieli")
    add_flag(outputs, "--fsl-names", "also write the maps under FSL's names, in DIR/randomise")
    add_quiet(outputs, "print only errors and warnings")
    _add_report(parser.add_argument_group("report, tables and figures (DIR/report.html and DIR/report)"))
    add_computing(parser.add_argument_group("computing"))
    add_workers(parser.add_argument_group("runs on Dask workers"))
    parser.set_defaults(**NOT_HERE)
    return parser


def _add_model(group: Any) -> None:
    group.add_argument("--images", metavar="[NAME=]TEMPLATE", action="append", default=[],
                       help="images: a template, a column of the table, or a 4D image (required); with names, several "
                       "sets, each of which is tested")  # fmt: skip
    add_text(group, "--out", "DIR", "folder of the results (required)")
    add_text(group, "--model", "FORMULA", "model, such as 'group + age' (the mean alone)")
    add_pairs(group, "--voxelwise-covariate", "NAME=TEMPLATE", "covariate with an image for each row, called NAME in "
              "the model and the tests", dest="covariates")  # fmt: skip
    group.add_argument("--test", metavar="TEST", action="append", default=[], dest="tests",
                       help="what is tested, such as 'MS - HC'; may be repeated")  # fmt: skip
    add_text(group, "--mask", "IMAGE", "mask (every voxel that varies between images)")
    add_flag(group, "--norcmask", "without --mask: keep voxels that are constant")
    add_subset(group, 'use only these rows, for example "age >= 18"')
    group.add_argument("--missing", choices=("refuse", "drop", "voxelwise"), default="refuse",
                       help="what is done with rows that lack an image or a value (refuse); voxelwise: images may be "
                       "NaN at voxels where a row has no data, and z is tested")  # fmt: skip


def _add_longitudinal(group: Any) -> None:
    add_text(group, "--longitudinal", "COLUMN", "column that identifies the subject; subjects are then analysed")
    add_text(group, "--visit", "COLUMN", "column that identifies the visit (required with --longitudinal)")
    add_list(
        group, "--visits", "A,B,C", "visits that count, in temporal order (all, by the numbers in their names)"
    )
    add_text(group, "--years", "COLUMN", "time of each visit in years: the change is a slope per year")
    group.add_argument("--summary", choices=("change", "mean"), default="change",
                       help="the change from the first to the last visit, or the mean of all (change)")  # fmt: skip


def _add_report(group: Any) -> None:
    add_flag(group, "--no-report", "do not write them; gpuvox report DIR does so later", dest="no_report")
    add_atlas(group)
    add_text(group, "--underlay", "IMAGE", "anatomy under the maps, on their grid")


def _add_exchangeability(group: Any) -> None:
    add_text(
        group, "--paired", "COLUMN", "permute rows within each subject, with a mean for each subject in the model"
    )
    add_list(group, "--within", "A,B", "permute rows within each value of these columns only")
    add_list(group, "--blocks", "A,B", "the same, for sites, scanners and the like; columns are nested")
    add_text(
        group,
        "--whole",
        "COLUMN",
        "permute families, or subjects, as wholes, with all of their rows (within --blocks)",
    )
    add_list(
        group,
        "--variance-groups",
        "A,B|auto",
        "columns whose values may differ in variance (auto: rows that permutations leave apart); tests v and G, as z",
    )


def _add_thresholds(group: Any) -> None:
    add_flag(group, "--voxel", "the same as -x", dest="voxel")
    group.add_argument("--cluster-t", dest="extent", type=positive, metavar="T", help="the same as -c")
    group.add_argument("--cluster-z", type=positive, metavar="Z",
                       help="cluster extent, with this threshold as a z, for t and F")  # fmt: skip
    group.add_argument("--cluster-p", type=positive, metavar="P",
                       help="cluster extent, with this one-sided p as threshold, for t and F")  # fmt: skip
    add_flag(group, "--cluster-mass", "mass in place of extent, for --cluster-z and --cluster-p")


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments.

    Raises
    ------
    UsageError
        An option is unknown or missing, or its value is wrong.
    """
    glued: list[str] = []
    for token in argv:
        if glued and glued[-1] in ("--test", "--model") and token.startswith("-") and not token.startswith("--"):
            glued[-1] += f"={token}"  # -age
        else:
            glued.append(token)
    options = build_parser().parse_args(glued)
    require(vars(options), "--images", "--out")
    check_workers(options)
    check_shard(options)
    _check_longitudinal(options)
    if options.model and not options.tests:
        raise UsageError("--test is missing: say what is tested, such as 'MS - HC'", option="--test")
    if options.cluster_z and options.cluster_p:
        raise UsageError("--cluster-z and --cluster-p are two thresholds; one is expected", option="--cluster-p")
    if options.cluster_p and options.cluster_p >= 0.5:
        raise UsageError(f"--cluster-p is {options.cluster_p:g}; a p below 0.5 is expected", option="--cluster-p")
    if options.cluster_mass and not (options.cluster_z or options.cluster_p):
        raise UsageError("--cluster-mass needs --cluster-z or --cluster-p", option="--cluster-mass")
    chosen = (
        "voxel",
        "tfce",
        "tfce_2d",
        "tfce_exact",
        "extent",
        "mass",
        "f_extent",
        "f_mass",
        "cluster_z",
        "cluster_p",
    )
    if not any(getattr(options, name) for name in chosen):
        options.tfce = True
    return options


def _check_longitudinal(options: argparse.Namespace) -> None:
    if options.longitudinal and not options.visit:
        raise UsageError("--visit is missing: the column that tells the rows of a subject apart", option="--visit")
    named = {"--visit": options.visit, "--visits": options.visits, "--years": options.years}
    alone = next((option for option, value in named.items() if value), None)
    if alone and not options.longitudinal:
        raise UsageError(f"{alone} needs --longitudinal, the column that identifies the subject", option=alone)
    if options.years and options.summary == "mean":
        raise UsageError("--years is the time over which a change is taken; a mean has none", option="--years")


def run(argv: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(argv)

    from gpuvox.application.voxelwise.execute import Output, execute, plan

    description = describe(options)
    if not options.no_report:
        _check_report(options)
    with terminal(lines=not options.quiet, bar=not options.quiet) as reporter:
        if options.plan:
            plan(description, reporter)
            return 0
        open_device("cpu" if description.run.cluster else options.device, options.quiet)
        output = Output(options.out, options.fsl_names, command_line("voxelwise", *argv))
        execute(description, output, reporter, options.seed)
        if not (options.no_report or description.run.shard):
            report_results(options, reporter)
    return 0


def _check_report(options: argparse.Namespace) -> None:
    """Find what is wrong with the images of the report before the analysis is run."""
    from gpuvox.files import read_header
    from gpuvox.findings.atlas import check_atlas

    if options.underlay:
        read_header(options.underlay)
    if options.atlas:
        check_atlas(options.atlas, options.names)


def report_results(options: argparse.Namespace, reporter: Reporter) -> None:
    """Write the report; without matplotlib, say how it is written."""
    try:
        from gpuvox.findings.report import ReportOptions
        from gpuvox.findings.report import execute as write_report
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("matplotlib", "jinja2"):
            raise
        reporter.warn(
            f"the report needs {error.name}, which is not installed; once it is, gpuvox report {options.out} writes it"
        )
        return
    settings = ReportOptions(underlay=options.underlay, atlas=options.atlas, names=options.names)
    write_report(options.out, None, settings, reporter)


def _images(texts: list[str]) -> str | dict[str, str]:
    """The images, or several sets of them by name: ``ic{00..09}=ic{00..09}.nii.gz`` names ten."""
    named: list[tuple[str, str]] = []
    for text in texts:
        name, sign, source = text.partition("=")
        if not sign or not SET_NAME.fullmatch(name):
            named.append(("", text))
        else:
            named += zip(_counted(name, text), _counted(source, text))
    if len(named) == 1 and not named[0][0]:
        return named[0][1]
    unnamed = next((source for name, source in named if not name), None)
    if unnamed is not None:
        raise UsageError(
            f"--images {unnamed} is one of several sets of images, so it needs a name, as in --images gm={unnamed}",
            option="--images",
        )
    return unique(named, "--images")


def _counted(text: str, whole: str) -> list[str]:
    """The text once for each number of the range in it, which is written {00..09}; `whole` has the same range."""
    ranges = set(RANGE.findall(whole))
    if not ranges:
        return [text]
    (first, last), *more = ranges
    if more or int(first) > int(last):
        raise UsageError(f"--images {whole}: one range such as {{00..09}} is expected in it", option="--images")
    return [RANGE.sub(f"{number:0{len(first)}d}", text) for number in range(int(first), int(last) + 1)]


def describe(options: argparse.Namespace) -> Any:
    """Parsed options → `VoxelwiseDescription`."""
    from gpuvox.application.voxelwise.description import ClusterThreshold, VoxelwiseDescription
    from gpuvox.cohort.exchangeability import Columns
    from gpuvox.cohort.longitudinal import Longitudinal

    of_run = argparse.Namespace(**{**vars(options), "blocks": "", "seed": options.seed or 0})
    thresholds = []
    if options.cluster_z:
        thresholds.append(ClusterThreshold(options.cluster_z, "z", options.cluster_mass))
    if options.cluster_p:
        thresholds.append(ClusterThreshold(options.cluster_p, "p", options.cluster_mass))
    return VoxelwiseDescription(
        table=options.table,
        images=_images(options.images),
        model=options.model,
        tests=tuple(options.tests),
        subset=options.subset,
        missing=options.missing,
        columns=Columns(options.paired, options.within, options.blocks, options.whole),
        variance_groups=options.variance_groups,
        covariates=unique(options.covariates, "--voxelwise-covariate"),
        longitudinal=Longitudinal(
            options.longitudinal, options.visit, options.visits, options.years, options.summary
        )
        if options.longitudinal
        else None,
        fdr="bky" if options.fdr_adaptive else "bh" if options.fdr else "",
        across_tests=options.across_tests,
        thresholds=tuple(thresholds),
        run=describe_run(of_run, []),
    )
