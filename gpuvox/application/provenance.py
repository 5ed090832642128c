"""The record of a run, ``<root>_randomise.json``."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from gpuvox import __version__, private
from gpuvox.analysis import (
    Analysis,
    Inputs,
    Options,
    TestResult,
)
from gpuvox.application.command import RunDescription
from gpuvox.application.fingerprint import Hashes
from gpuvox.application.outputs import Writer
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.info import versions
from gpuvox.movement import movement
from gpuvox.plain import format_count
from gpuvox.runtime.limits import threads_for


def provenance(
    description: RunDescription,
    analysis: Analysis,
    results: Sequence[TestResult],
    writer: Writer,
    hashes: Hashes,
) -> dict[str, Any]:
    """The record of a run that has an output root."""
    content = {
        "software": software_record(),
        "command": list(description.line),
        **({"command_of_shards": list(description.shard_line)} if description.shard_line else {}),
        **run_record(analysis.inputs, analysis.options, results, hashes, describe_processor(analysis.options)),
        "maps": writer.written,
        "files": writer.files,
    }
    return private.record(content, description.folder)


def software_record() -> dict[str, str]:
    """Versions of the software."""
    return {"gpuvox": __version__, "python": platform.python_version(), **versions()}


def run_record(
    inputs: Inputs, options: Options, results: Sequence[TestResult], hashes: Hashes, device: str
) -> dict[str, Any]:
    """Inputs, options and tests of a run."""
    return {
        "device": device,
        "threads": threads_for(options.threads),
        "seed": options.seed,
        "inputs": {name: {"sha256": digest} for named in hashes.values() for name, digest in named},
        "volumes": inputs.data.shape[0],
        "voxels": inputs.grid.n_voxels,
        "design": inputs.design,
        "contrasts": inputs.contrasts,
        "f_tests": inputs.f_tests,
        "names": asdict(inputs.names),
        "nuisance": options.nuisance.name.lower(),
        "demeaned": options.demean,
        "variance_smoothing_mm": options.variance_mm,
        "statistics": {"t": asdict(options.statistics), "F": asdict(options.f_statistics)},
        "tests": [test_record(result) for result in results],
    }


def describe_processor(options: Options) -> str:
    """The device, or the devices or workers, on which the permutations ran."""
    if options.workers is not None:
        return options.workers.description
    return "cpu" if options.device is None else f"{options.device.name} ({options.device.title})"


def test_record(result: TestResult) -> dict[str, Any]:
    """The results of one test except its maps."""
    shuffler = result.shuffler
    return {
        "name": result.test.name,
        "contrast_name": result.test.label,
        "contrast": result.test.contrast,
        "degrees_of_freedom": result.f_dfs or result.df,
        "method": shuffler.kind,
        "exchangeability": movement(shuffler),
        "repeats": not isinstance(shuffler, ImportedShuffler)
        and shuffler.options.repeats
        and not shuffler.exhaustive,
        "permutations": shuffler.n if result.nulls else 0,
        "distinct": str(shuffler.n_distinct)
        if shuffler.n_distinct < 10**4000
        else format_count(shuffler.n_distinct),
        "exhaustive": bool(shuffler.exhaustive),
        **({} if result.tail is not None else {"smallest_possible_p": 1 / shuffler.n}),
        **result.records,
        "critical_values": {kind: result.critical(kind) for kind in result.nulls},
        "seconds": round(result.seconds, 3),
        "warnings": list(result.warnings),
    }
