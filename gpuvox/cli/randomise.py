"""``gpuvox randomise``: FSL's grammar, option by option."""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from dataclasses import replace
from typing import Any

from gpuvox import __version__
from gpuvox.cli.arguments import (
    Parser,
    at_least_one,
    connectivity,
    count,
    integer,
    not_negative,
    positive,
    tfce_step,
    threads,
)
from gpuvox.cli.console import say, terminal, warn
from gpuvox.cli.foreign import remedy
from gpuvox.errors import UsageError

EPILOG = """\
Options are written as --option value or --option=value. Image names may be given without extension, and FSLOUTPUTTYPE
selects the file type of the outputs. Corrected and uncorrected p-value maps contain 1-p, as in FSL.
<root>_randomise.json records how the maps were made.

examples:
  gpuvox randomise -i maps -o out -m mask -d design.mat -t design.con -T
  gpuvox randomise -i maps -o out -m mask -1 -T                            (one-sample test)
  gpuvox randomise -i maps -o out -m mask -d design.mat -t design.con -f design.fts -T -x -n 10000 --seed 1
"""

TLS = {
    "--tls-ca-file": "certificates to trust, where the scheduler encrypts its connections (tls://)",
    "--tls-cert": "certificate of this command, signed by one of these",
    "--tls-key": "its private key, if the certificate file does not contain it",
}


def _columns(text: str) -> tuple[int, ...]:
    return tuple(integer(part) for part in text.split(","))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N")
    return int(match[1]), int(match[2])


def build_parser() -> Parser:
    """The parser; its destinations are the names that `make_command` reads."""
    parser = Parser(
        prog="gpuvox randomise",
        usage="gpuvox randomise -i <data> -o <root> [-m <mask>] -d <design.mat> -t <design.con> [options]\n"
        "       gpuvox randomise -i <data> -o <root> [-m <mask>] -1 [options]",
        description=f"Permutation tests on the general linear model (gpuvox {__version__}).",
        epilog=EPILOG,
        add_help=False,
    )
    _add_files(parser.add_argument_group("input and output"))
    _add_inference(parser.add_argument_group("inference (at least one of -x -T --T2 -c -C -F -S)"))
    _add_model(parser.add_argument_group("model and permutations"))
    _add_outputs(parser.add_argument_group("further outputs and information"))
    _add_own(parser.add_argument_group("beyond FSL"))
    _add_hidden(parser)
    parser.once = {"vxl", "vxf"}
    return parser


def _add_files(group: Any) -> None:
    group.add_argument(
        "-i",
        dest="data",
        metavar="IMAGE",
        help="4D image with one volume per subject; or 3D images: TABLE:COLUMN, a .txt list, or a quoted pattern",
    )
    group.add_argument("-o", dest="root", metavar="ROOT", help="output root, with which all file names begin")
    group.add_argument(
        "-m", dest="mask", metavar="IMAGE", default="", help="mask (every voxel that varies between subjects)"
    )
    group.add_argument(
        "-d", dest="design", metavar="FILE", default="", help="design matrix (VEST file, CSV or TSV)"
    )
    group.add_argument("-t", dest="contrasts", metavar="FILE", default="", help="t contrasts")
    group.add_argument(
        "-f",
        dest="f_tests",
        metavar="FILE",
        default="",
        help="F tests: each row marks with 1 the t contrasts to combine",
    )
    group.add_argument(
        "-e", dest="blocks", metavar="FILE", default="", help="exchangeability blocks, one number per subject"
    )
    group.add_argument(
        "--effective_design",
        metavar="FILE",
        default="",
        help="design matrix that determines which rows are exchangeable",
    )
    group.add_argument("--vxl", type=_columns, default=(), metavar="1,2", help="columns of voxelwise EVs, from 1")
    group.add_argument(
        "--vxf", type=_names, default=(), metavar="A,B", help="4D images of the voxelwise EVs, in the same order"
    )


def _add_inference(group: Any) -> None:
    group.add_argument("-x", dest="voxel", action="store_true", help="voxelwise test")
    group.add_argument("-T", dest="tfce", action="store_true", help="threshold-free cluster enhancement (TFCE)")
    group.add_argument(
        "--T2", dest="tfce_2d", action="store_true", help="TFCE for skeletonised data (TBSS): H=2, E=1, C=26"
    )
    group.add_argument(
        "-c", dest="extent", type=positive, metavar="T", help="cluster extent, with this threshold for t"
    )
    group.add_argument(
        "-C", dest="mass", type=positive, metavar="T", help="cluster mass, with this threshold for t"
    )
    group.add_argument(
        "-F", dest="f_extent", type=positive, metavar="F", help="cluster extent, with this threshold for F"
    )
    group.add_argument(
        "-S", dest="f_mass", type=positive, metavar="F", help="cluster mass, with this threshold for F"
    )
    group.add_argument("--tfce_H", type=not_negative, metavar="H", help="TFCE: exponent of height (2)")
    group.add_argument("--tfce_E", type=not_negative, metavar="E", help="TFCE: exponent of extent (0.5)")
    group.add_argument("--tfce_C", type=connectivity, metavar="C", help="TFCE: connectivity, 6, 18 or 26 (6)")
    group.add_argument("--tfce_D", type=tfce_step, metavar="D",
                       help="TFCE: step (observed maximum / 100), or robust: not led by outlying voxels")  # fmt: skip
    group.add_argument(
        "--twopass", action="store_true", help="also normalise clusters and TFCE by a first pass (t only)"
    )
    group.add_argument("-v", dest="variance", type=not_negative, default=0.0, metavar="MM",
                       help="variance smoothing with a Gaussian of this standard deviation (t only)")  # fmt: skip
    group.add_argument("--fonly", action="store_true", help="run F tests only")


def _add_model(group: Any) -> None:
    group.add_argument("-n", dest="number", type=count, default=5000, metavar="N",
                       help="number of permutations, counting the unpermuted one; 0 for all (5000)")  # fmt: skip
    group.add_argument("-1", dest="one_sample", action="store_true", help="one-sample test by sign flipping")
    group.add_argument("-D", dest="demean", action="store_true", help="demean data and design")
    group.add_argument(
        "--permuteBlocks", action="store_true", help="permute blocks as wholes rather than within blocks"
    )
    group.add_argument(
        "--detectNull", action="store_true", help="do not permute rows that the contrast does not involve"
    )
    group.add_argument("-U", dest="nuisance", type=integer, choices=(0, 1, 2, 3), default=1, metavar="MODE",
                       help="nuisance: 0 Kennedy, 1 Freedman-Lane, 2 ignored, 3 ter Braak (1)")  # fmt: skip
    group.add_argument("--seed", type=count, metavar="N", help="seed of the random numbers (drawn, and recorded)")
    group.add_argument(
        "--skipTo",
        type=at_least_one,
        default=0,
        metavar="N",
        help="run test number N alone, counting F before t tests",
    )
    group.add_argument("--norcmask", action="store_true", help="without -m: keep voxels that are constant")


def _add_outputs(group: Any) -> None:
    group.add_argument(
        "-R", dest="raw", action="store_true", help="also write the TFCE and cluster maps themselves"
    )
    group.add_argument("--uncorrp", action="store_true", help="also write uncorrected p-values")
    group.add_argument("-P", dest="permutation_files", action="store_true", help="also write the permutations")
    group.add_argument(
        "-N", dest="nulls", action="store_true", help="also write the null distributions of the maximum"
    )
    group.add_argument("--permout", action="store_true", help="also write the maps of every permutation")
    group.add_argument(
        "--glm_output", action="store_true", help="also write parameter estimates, contrasts and variances"
    )
    group.add_argument("--film", action="store_true", help="use FILM's file names")
    group.add_argument(
        "-q", dest="count", action="store_true", help="print the number of possible permutations and exit"
    )
    group.add_argument(
        "-Q",
        dest="schedule",
        action="store_true",
        help="print number of permutations, tests, root and job size for a scheduler, and exit",
    )
    group.add_argument("--quiet", action="store_true", help="print only errors and warnings")
    group.add_argument("-h", "--help", action="store_true", help="show this help and exit")


def _add_own(group: Any) -> None:
    group.add_argument("--permutations", metavar="ROOT", default="",
                       help="use the permutations in ROOT_perm_tstat1.txt and so on, in place of -n")  # fmt: skip
    group.add_argument(
        "--tfce-exact", action="store_true", help="TFCE with its integral in closed form, without steps"
    )
    group.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:i (auto)")
    group.add_argument("--threads", type=threads, metavar="N", help="number of threads (all processors)")
    group.add_argument("--checkpoint", metavar="FILE", default="",
                       help="save progress to FILE (long runs: ROOT_checkpoint.tally)")  # fmt: skip
    group.add_argument("--resume", action="store_true", help="resume from the checkpoint")
    group.add_argument("--shard", type=_shard, metavar="I/N",
                       help="run part I of N of the permutations, and write a file for gpuvox merge")  # fmt: skip
    group.add_argument("--workers", type=at_least_one, default=0, metavar="N",
                       help="run on a Dask cluster of N processes on this machine")  # fmt: skip
    group.add_argument("--scheduler", metavar="ADDRESS", default="",
                       help="run on the workers of the Dask scheduler at ADDRESS")  # fmt: skip
    group.add_argument("--scheduler-file", metavar="FILE", default="",
                       help="the same, with the address in the file that the scheduler wrote")  # fmt: skip
    for name, text in TLS.items():
        group.add_argument(name, metavar="FILE", default="", help=text)
    group.add_argument("--scratch", metavar="DIR", default="",
                       help="keep data that do not fit in memory in a temporary file in DIR")  # fmt: skip
    group.add_argument(
        "--plan", action="store_true", help="show what would be run, with estimates of time and memory, and exit"
    )
    group.add_argument("--version", action="store_true", help="show the version and exit")


def _add_hidden(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-V", dest="verbose", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--multi", action="store_true", help=argparse.SUPPRESS)


def parse(argv: list[str]) -> argparse.Namespace:
    """Parse the arguments.

    Raises
    ------
    UsageError
        Unknown option (the closest one is named), or a value that makes no sense.
    """
    parser = build_parser()
    # argparse takes -5 for an option, since there is an option -1.
    with_value = {name for action in parser._actions if action.nargs is None for name in action.option_strings}
    glued: list[str] = []
    for token in argv:
        if _is_number(token) and glued and glued[-1] in with_value:
            glued[-1] += ("=" if glued[-1].startswith("--") else "") + token
        else:
            _check_token(token, with_value, parser)
            glued.append(token)
    options, rest = parser.parse_known_args(glued)
    if rest:
        raise UsageError(_expanded(rest) or parser.unknown(rest[0]))
    return options


def _expanded(rest: list[str]) -> str:
    """What is said where the shell has made many names of a pattern; empty if that is not so."""
    images = [name for name in rest if name.endswith((".nii.gz", ".nii", ".hdr", ".img"))]
    if not images or images[0] != rest[0]:
        return ""
    return (
        f"{rest[0]} is one image too many: -i and -m take one name each. The images of several files are named by a "
        "pattern in quotation marks, such as -i 'maps/*.nii.gz', by a .txt list, or by a column of a table"
    )


def _is_number(token: str) -> bool:
    return bool(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", token, re.IGNORECASE))


def _check_token(token: str, with_value: set[str], parser: Parser) -> None:
    """argparse would read PALM's -twotail as -t wotail, and -seed as -s of something."""
    name = token.split("=")[0]
    if not token.startswith("-") or len(token) < 2 or name in parser.names or _is_number(token):
        return
    told = remedy(name)
    if not told and f"-{name}" in parser.names:
        told = f"unknown option {name}; it has two dashes here: -{name}"
    short, value = token[:2], token[2:]
    if not told and short in with_value and not (_is_number(value) or value.startswith("=")):
        told = f"unknown option {name}; if {value!r} is the value of {short}, put a blank between them"
    if told:
        raise UsageError(told)


def run(argv: list[str]) -> int:
    """Run the command; returns the exit status."""
    options = parse(argv)
    if options.help or not argv:
        build_parser().print_help(sys.stdout if options.help else sys.stderr)
        return 0 if options.help else 2
    if options.version:
        say(f"gpuvox {__version__}")
        return 0
    check(options)

    from gpuvox.application import execute, plan

    command = make_command(options, argv)
    check_root(options.root)
    if options.schedule:
        say(execute.schedule(command))
    elif options.plan:
        from gpuvox.cli.first_run import compile_ahead

        compile_ahead(quiet=True)
        say(plan.plan(command))
    elif options.count:
        say(f"randomise options: {' '.join(argv)} ")
        execute.count_permutations(command, say)
        say("Finished, exiting.")
    else:
        with terminal(lines=not options.quiet, bar=not options.quiet) as reporter:
            reporter.say(f"randomise options: {' '.join(argv)} ")
            reporter.say(f"Seeding with {command.options.seed}")
            open_device("cpu" if command.cluster else command.device, options.quiet)
            execute.execute(command, reporter.say, reporter.warn, reporter.progress)
    return 0


def check_root(root: str) -> None:
    """Warn of an output root that is a folder or an image, which FSL takes all the same."""
    from gpuvox.files import split_suffix

    if not os.path.basename(root):
        warn(f"the output root {root} ends with a slash: the files are called {root}_tstat1 and so on")
    stem, suffix = split_suffix(root)
    if suffix and os.path.basename(stem):
        warn(
            f"the output root {root} ends in {suffix}: the files are called {root}_tstat1 and so on; a root without "
            f"it, {stem}, is usual"
        )


def open_device(name: str, quiet: bool) -> None:
    """Find the device, with its warnings; for the CPU, compile what every run needs."""
    from gpuvox.cli.first_run import compile_ahead
    from gpuvox.cuda import resolve

    with warnings.catch_warnings(record=True) as caught:
        on_cpu = resolve(name) is None
    for warning in caught:
        warn(str(warning.message))
    if on_cpu:
        compile_ahead(quiet)


def check(options: argparse.Namespace) -> None:
    """What can be said of the options without reading a file."""
    if options.multi:
        raise UsageError("--multi is not supported: it was an experiment of FSL's that no version documents")
    for name, option in (("data", "-i"), ("root", "-o")):
        if not getattr(options, name):
            raise UsageError(
                f"{option} is missing; -i, -o, -d and -t are needed (or -i, -o and -1 for a one-sample test)"
            )
    _check_matrices(options)
    if bool(options.vxl) != bool(options.vxf):
        raise UsageError("--vxl and --vxf belong together")
    if options.permuteBlocks and not options.blocks:
        raise UsageError("--permuteBlocks needs exchangeability blocks (-e)")
    if options.fonly and not options.f_tests:
        raise UsageError("--fonly needs F tests (-f)")
    _check_shard(options)
    _check_cluster(options)
    given = {"-T": options.tfce or None, "--tfce_H": options.tfce_H, "--tfce_E": options.tfce_E,
             "--tfce_C": options.tfce_C}  # fmt: skip
    beaten = [name for name, value in given.items() if value is not None]
    if options.tfce_2d and beaten:
        warn(f"--T2 is TFCE with H=2, E=1, C=26, as in FSL: it leaves no effect to {', '.join(beaten)}")


def _check_matrices(options: argparse.Namespace) -> None:
    """A design and contrasts, or neither with -1."""
    if options.one_sample and not options.design:
        if options.contrasts or options.f_tests:
            raise UsageError("contrasts (-t) and F tests (-f) need a design (-d), also with -1")
        return
    if not (options.design or options.contrasts):
        raise UsageError(
            "the design (-d) and the t contrasts (-t) are missing; a one-sample test needs -1 instead"
        )
    if not options.design:
        raise UsageError(f"the design (-d) is missing, to which the contrasts {options.contrasts} (-t) belong")
    if not options.contrasts:
        raise UsageError(f"the t contrasts (-t) of the design {options.design} (-d) are missing")


def _check_cluster(options: argparse.Namespace) -> None:
    """At most one cluster, and none for maps that stay where they are made."""
    named = {
        "--workers": options.workers, "--scheduler": options.scheduler, "--scheduler-file": options.scheduler_file,
    }  # fmt: skip
    wanted = [name for name, value in named.items() if value]
    if len(wanted) > 1:
        raise UsageError(f"{' and '.join(wanted)} name different clusters; only one of them can be used")
    tls = _tls(options)
    if tls and not (options.scheduler or options.scheduler_file):
        raise UsageError(
            f"{next(iter(tls))} is for --scheduler and --scheduler-file; --workers encrypts by itself"
        )
    missing = [name for name in ("--tls-ca-file", "--tls-cert") if tls and name not in tls]
    if missing:
        raise UsageError(f"{missing[0]} is missing; --tls-ca-file and --tls-cert belong together")
    if wanted and options.permout:
        raise UsageError(f"--permout writes maps as they are made, and so cannot be done with {wanted[0]}")


def _check_shard(options: argparse.Namespace) -> None:
    """What cannot be done in parts."""
    for name in ("checkpoint", "resume", "shard"):
        if options.permout and getattr(options, name):
            raise UsageError(f"--permout writes maps as they are made, and so cannot be done with --{name}")
    if not options.shard:
        return
    if options.twopass and (options.tfce or options.tfce_2d or options.tfce_exact or options.extent):
        raise UsageError("--shard cannot be used with --twopass, whose second pass needs all of the first")
    if options.seed is None and not options.resume:
        raise UsageError("--shard needs --seed, the same for all shards, or each would draw its own permutations")


def make_command(options: argparse.Namespace, argv: list[str]) -> Any:
    """Parsed options → `command.Command`."""
    from gpuvox.analysis import Options
    from gpuvox.application import command as app
    from gpuvox.application.outputs import Wanted
    from gpuvox.glm import Nuisance

    t, f = _statistics(options)
    settings = Options(
        statistics=t,
        f_statistics=f,
        n_permutations=options.number,
        seed=options.seed or 0,
        flip=options.one_sample,
        demean=options.demean,
        nuisance=Nuisance(options.nuisance),
        whole_blocks=options.permuteBlocks,
        detect_null=options.detectNull,
        f_only=options.fonly,
        only_test=options.skipTo,
        variance_mm=options.variance,
        threads=options.threads,
        scratch=os.path.abspath(options.scratch) if options.scratch else "",  # workers have folders of their own
    )
    wanted = Wanted(
        options.raw, options.nulls, options.permutation_files, options.glm_output, options.film, options.uncorrp
    )
    names = ("data", "root", "mask", "design", "contrasts", "f_tests", "blocks", "effective_design", "one_sample")
    command = app.Command(
        **{name: getattr(options, name) for name in names},
        keep_constant=options.norcmask,
        permutations=options.permutations,
        voxelwise_columns=options.vxl,
        voxelwise_files=options.vxf,
        permuted_maps=options.permout,
        device=options.device,
        checkpoint=options.checkpoint,
        resume=options.resume,
        shard=options.shard,
        cluster=_cluster(options),
        options=settings,
        wanted=wanted,
        line=(os.path.basename(sys.argv[0]) or "gpuvox", *argv),
    )
    if options.seed is not None:
        return command
    seed = app.kept_seed(command) if options.resume else app.draw_seed()
    return replace(command, options=replace(settings, seed=seed))


def _cluster(options: argparse.Namespace) -> Any:
    """The Dask cluster that is asked for, if one is."""
    from gpuvox.distributed.launch import DaskCluster
    from gpuvox.runtime.limits import threads_for

    if not (options.workers or options.scheduler or options.scheduler_file):
        return None
    threads = threads_for(options.threads)
    if options.workers > max(threads, 2):
        raise UsageError(
            f"--workers {options.workers}: there are {threads} threads; at most a worker a thread (--threads)"
        )
    return DaskCluster(options.scheduler, options.scheduler_file, options.workers, threads, _tls(options))


def _tls(options: argparse.Namespace) -> dict[str, str]:
    """Option → file, of those that are given."""
    given = {name: getattr(options, name[2:].replace("-", "_")) for name in TLS}
    return {name: path for name, path in given.items() if path}


def _statistics(options: argparse.Namespace) -> tuple[Any, Any]:
    """What is wanted of t and of F tests."""
    from gpuvox.statistics import Statistics
    from gpuvox.tfce import Tfce

    tfce = None
    if options.tfce or options.tfce_2d or options.tfce_exact:
        given = {"H": options.tfce_H, "E": options.tfce_E, "connectivity": options.tfce_C}
        if options.tfce_2d:
            given = {"H": 2.0, "E": 1.0, "connectivity": 26}
        given["delta"] = options.tfce_D
        tfce = Tfce(**{k: v for k, v in given.items() if v is not None}, exact=options.tfce_exact)
    # FILM's zstat is the uncorrected voxelwise value.
    uncorrected = options.uncorrp or (options.film and options.voxel)
    t = Statistics(options.voxel, tfce, options.extent, options.mass, uncorrected, options.twopass)
    return t, Statistics(options.voxel, tfce, options.f_extent, options.f_mass, uncorrected)
