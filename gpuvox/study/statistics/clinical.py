"""Clinical models of a study: from tables of participants to tables of regressions, correlations and sample sizes.

Variables are columns of the table of participants, of regions (`gpuvox rois`) and of clusters (`gpuvox clusters`); see
`tables.gather` for their names. The computations are in `gpuvox.study.statistics.least_squares`.
"""

from __future__ import annotations

from gpuvox import files
from gpuvox.files.targets import check_root_name, check_targets
from gpuvox.reporter import Reporter
from gpuvox.study.statistics.correlation import Correlations, correlations
from gpuvox.study.statistics.mixed import Mixed, mixed
from gpuvox.study.statistics.regression import Regression, regression
from gpuvox.study.statistics.sample_size import SampleSizes, sample_sizes
from gpuvox.study.statistics.sources import Result, Source, write

__all__ = [
    "Correlations", "Mixed", "Regression", "Result", "SampleSizes", "Source", "correlations", "execute", "mixed",
    "regression",    "sample_sizes", "write",
]  # fmt: skip


ENDINGS = ("_coefficients.tsv", "_data.tsv", "_diagnostics.tsv", "_ladder.tsv", "_trial.tsv", ".tsv", ".json")


def execute(command: Regression | Correlations | Mixed | SampleSizes, out: str, reporter: Reporter) -> None:
    """Run a command and write its results: ``OUT.tsv`` and other tables, ``OUT.json``.

    Parameters
    ----------
    command : Regression, Correlations, Mixed or SampleSizes
    out : str
        Root of the output names; empty to write nothing.
    reporter : Reporter
        Receives a summary, and warnings about what may be a mistake.

    Raises
    ------
    InputError
        The message is one sentence; nothing is written.
    """
    if out:
        check_root_name(out, "--out", "models")
        check_targets(out, ENDINGS)
    if isinstance(command, Regression):
        result = regression(command)
    elif isinstance(command, Correlations):
        result = correlations(command)
    elif isinstance(command, Mixed):
        result = mixed(command)
    else:
        result = sample_sizes(command)
    if out:
        files.check_not_read([*(f"{out}{suffix}.tsv" for suffix in result.tables), f"{out}.json"], command.inputs)
        write(result, out)
    for text in result.warnings:
        reporter.warn(text)
    for line in result.messages:
        reporter.say(line)
