"""``gpuvox randomise``: permutation tests on the general linear model."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

from gpuvox import __version__
from gpuvox.cli.console import say, terminal, warn
from gpuvox.cli.options import command_line
from gpuvox.cli.randomise_options import TLS, build_parser, parse
from gpuvox.errors import UsageError
from gpuvox.reporter import Reporter

if TYPE_CHECKING:
    from gpuvox.analysis import Options
    from gpuvox.application.command import RunDescription
    from gpuvox.distributed.launch import DaskCluster
    from gpuvox.statistics import Statistics


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

    description = describe_run(options, argv)
    check_root(options.root)
    if options.schedule:
        say(execute.schedule(description))
    elif options.plan:
        from gpuvox.cli.first_run import compile_ahead

        compile_ahead(True, description.options.statistics.connectivity)
        say(plan.plan(description))
    elif options.count:
        say(f"randomise options: {' '.join(argv)} ")
        execute.count_permutations(description, replace(Reporter.silent(), say=say))
        say("Finished, exiting.")
    else:
        with terminal(lines=not options.quiet, bar=not options.quiet) as reporter:
            reporter.say(f"randomise options: {' '.join(argv)} ")
            reporter.say(f"Seeding with {description.options.seed}")
            device = "cpu" if description.cluster else options.device
            open_device(device, options.quiet, description.options.statistics.connectivity)
            execute.execute(description, reporter)
    return 0


def check_root(root: str) -> None:
    """Warn of an output root that is a folder or an image, which FSL accepts too."""
    from gpuvox.files import split_suffix

    if not os.path.basename(root):
        warn(f"the output root {root} ends with a slash: the files are called {root}_tstat1 and so on")
    stem, suffix = split_suffix(root)
    if suffix and os.path.basename(stem):
        warn(
            f"the output root {root} ends in {suffix}: the files are called {root}_tstat1 and so on; the usual root is "
            f"{stem}"
        )


def open_device(name: str, quiet: bool, connectivity: int = 6) -> None:
    """Look for the device, and show its warnings; for the CPU, compile what a run with this connectivity needs."""
    from gpuvox.cli.first_run import compile_ahead
    from gpuvox.cuda import resolve

    with warnings.catch_warnings(record=True) as caught:
        on_cpu = resolve(name) is None
    for warning in caught:
        warn(str(warning.message))
    if on_cpu:
        compile_ahead(quiet, connectivity)


def check(options: argparse.Namespace) -> None:
    """Check the options as far as that is possible without reading a file.

    Raises
    ------
    UsageError
        Options that are missing, or that contradict each other.
    """
    if options.multi:
        raise UsageError(
            "--multi is not supported: it was an experiment in FSL that no version documents", option="--multi"
        )
    for option, value in (("-i", options.data), ("-o", options.root)):
        if not value:
            raise UsageError(
                f"{option} is missing; -i, -o, -d and -t are needed (or -i, -o and -1 for a one-sample test)",
                option=option,
            )
    _check_matrices(options)
    check_shard(options)
    check_workers(options)
    check_shuffles(options)
    if options.two_sided and options.film:
        raise UsageError(
            "--film has a z of one-sided p-values, and cannot be used with --two-sided", option="--film"
        )
    named = {"-T": options.tfce or None, "--tfce_H": options.tfce_H, "--tfce_E": options.tfce_E,
             "--tfce_C": options.tfce_C}  # fmt: skip
    overridden = [option for option, value in named.items() if value is not None]
    if options.tfce_2d and overridden:
        warn(f"--T2 is TFCE with H=2, E=1, C=26, as in FSL: {', '.join(overridden)} has no effect")


def _check_matrices(options: argparse.Namespace) -> None:
    """A design and contrasts, or neither with -1; and what options need them."""
    if options.one_sample and not options.design:
        if options.contrasts or options.f_tests:
            raise UsageError("contrasts (-t) and F tests (-f) need a design (-d), also with -1", option="-d")
    elif not (options.design or options.contrasts):
        raise UsageError(
            "the design (-d) and the t contrasts (-t) are missing; a one-sample test needs -1 instead", option="-d"
        )
    elif not options.design:
        raise UsageError(
            f"the design (-d) is missing, to which the contrasts {options.contrasts} (-t) belong", option="-d"
        )
    elif not options.contrasts:
        raise UsageError(f"the t contrasts (-t) of the design {options.design} (-d) are missing", option="-t")
    if bool(options.vxl) != bool(options.vxf):
        raise UsageError("--vxl and --vxf belong together", option="--vxf" if options.vxl else "--vxl")
    if len(options.vxl) != len(options.vxf):
        raise UsageError(
            f"--vxl names {len(options.vxl)} columns and --vxf {len(options.vxf)} files", option="--vxl"
        )
    if options.permuteBlocks and not options.blocks:
        raise UsageError("--permuteBlocks needs exchangeability blocks (-e)", option="--permuteBlocks")
    if options.fonly and not options.f_tests:
        raise UsageError("--fonly needs F tests (-f)", option="--fonly")


def check_workers(options: argparse.Namespace) -> None:
    """At most one set of Dask workers, and none for maps that stay where they are made."""
    named = {
        "--workers": options.workers, "--scheduler": options.scheduler, "--scheduler-file": options.scheduler_file,
    }  # fmt: skip
    chosen = [option for option, value in named.items() if value]
    if len(chosen) > 1:
        raise UsageError(
            f"{' and '.join(chosen)} name different workers; only one of them can be used", option=chosen[1]
        )
    tls = _tls(options)
    if tls and not (options.scheduler or options.scheduler_file):
        option = next(iter(tls))
        raise UsageError(
            f"{option} is for --scheduler and --scheduler-file; --workers encrypts by itself", option=option
        )
    missing = [option for option in ("--tls-ca-file", "--tls-cert") if tls and option not in tls]
    if missing:
        raise UsageError(
            f"{missing[0]} is missing; --tls-ca-file and --tls-cert belong together", option=missing[0]
        )
    if chosen and options.permout:
        raise _refused_permout(chosen[0])


def check_shuffles(options: argparse.Namespace) -> None:
    """Options that say how permutations are drawn, where they are drawn."""
    drawn = next((name for name in ("ise", "ee", "cmcp", "cmcx") if getattr(options, name)), None)
    if drawn and options.permutations:
        raise UsageError(
            f"--{drawn} says which permutations are drawn, and --permutations has them already; omit one of the two",
            option=f"--{drawn}",
        )


def check_shard(options: argparse.Namespace) -> None:
    """Options that cannot be used for a part of the permutations."""
    for name in ("checkpoint", "resume", "shard"):
        if options.permout and getattr(options, name):
            raise _refused_permout(f"--{name}")
    if options.tail and (options.permout or options.shard):
        other = "--permout" if options.permout else "--shard"
        raise UsageError(
            f"--tail needs all permutations in one run, and cannot be used with {other}", option="--tail"
        )
    if not options.shard:
        return
    if options.twopass and (options.tfce or options.tfce_2d or options.tfce_exact or options.extent):
        raise UsageError(
            "--shard cannot be used with --twopass, whose second pass needs all of the first", option="--shard"
        )
    if options.seed is None and not options.resume:
        raise UsageError(
            "--shard needs --seed, the same for all shards, or each would draw its own permutations",
            option="--seed",
        )


def _refused_permout(option: str) -> UsageError:
    return UsageError(
        f"--permout writes each map as it is computed, and so cannot be used with {option}", option="--permout"
    )


def describe_run(options: argparse.Namespace, argv: list[str]) -> RunDescription:
    """Parsed options → `command.RunDescription`."""
    from gpuvox.application.command import RunDescription
    from gpuvox.application.outputs import OutputOptions

    outputs = OutputOptions(
        options.raw, options.nulls, options.permutation_files, options.glm_output, options.film, options.uncorrp
    )
    names = ("data", "root", "mask", "design", "contrasts", "f_tests", "blocks", "effective_design", "one_sample")
    description = RunDescription(
        **{name: getattr(options, name) for name in names},
        keep_constant=options.norcmask,
        permutations=options.permutations,
        voxelwise=tuple(zip(options.vxl, options.vxf)),
        permuted_maps=options.permout,
        device=options.device,
        checkpoint=options.checkpoint,
        resume=options.resume,
        shard=options.shard,
        cluster=_cluster(options),
        options=_analysis_options(options),
        outputs=outputs,
        line=command_line(*argv),
    )
    return description.with_seed(options.seed)


def _analysis_options(options: argparse.Namespace) -> Options:
    """Parsed options → `analysis.Options`."""
    from gpuvox.analysis import Options
    from gpuvox.glm import Nuisance
    from gpuvox.tail_runs import Tail

    t, f = _statistics(options)
    return Options(
        statistics=t,
        f_statistics=f,
        n_permutations=options.number,
        flip=options.one_sample or options.ise,
        permute_and_flip=options.ee and (options.one_sample or options.ise),
        repeats=options.cmcp,
        distinct_rows=options.cmcx,
        demean=options.demean,
        nuisance=Nuisance(options.nuisance),
        whole_blocks=options.permuteBlocks,
        detect_null=options.detectNull,
        f_only=options.fonly,
        only_test=options.skipTo,
        variance_mm=options.variance,
        tail=Tail(options.tail) if options.tail else None,
        threads=options.threads,
        scratch=os.path.abspath(options.scratch) if options.scratch else "",  # workers have folders of their own
    )


def _cluster(options: argparse.Namespace) -> DaskCluster | None:
    """The Dask cluster that is asked for; None without one."""
    from gpuvox.distributed.launch import DaskCluster
    from gpuvox.runtime.limits import threads_for

    if not (options.workers or options.scheduler or options.scheduler_file):
        return None
    threads = threads_for(options.threads)
    if options.workers > max(threads, 2):
        raise UsageError(
            f"--workers {options.workers}: there are {threads} threads, and at most one worker per thread (--threads)",
            option="--workers",
        )
    return DaskCluster(options.scheduler, options.scheduler_file, options.workers, threads, _tls(options))


def _tls(options: argparse.Namespace) -> dict[str, str]:
    """Option → file, for the certificates that are given."""
    files = {option: getattr(options, option[2:].replace("-", "_")) for option in TLS}
    return {option: path for option, path in files.items() if path}


def _statistics(options: argparse.Namespace) -> tuple[Statistics, Statistics]:
    """The statistics that are asked for, of t and of F tests."""
    from gpuvox.statistics import Statistics
    from gpuvox.tfce import Tfce

    tfce = None
    if options.tfce or options.tfce_2d or options.tfce_exact:
        parameters = {"H": options.tfce_H, "E": options.tfce_E, "connectivity": options.tfce_C}
        if options.tfce_2d:
            parameters = {"H": 2.0, "E": 1.0, "connectivity": 26}
        parameters["delta"] = options.tfce_D
        tfce = Tfce(
            **{name: value for name, value in parameters.items() if value is not None}, exact=options.tfce_exact
        )
    # FILM's zstat is the uncorrected voxelwise value.
    uncorrected = options.uncorrp or (options.film and options.voxel)
    t = Statistics(
        options.voxel, tfce, options.extent, options.mass, uncorrected, options.twopass, options.two_sided
    )
    return t, Statistics(options.voxel, tfce, options.f_extent, options.f_mass, uncorrected)
