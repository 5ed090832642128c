"""The clinical models of a study: tables of participants in, tables of regressions, correlations, sample sizes out.

Variables are columns of the table of participants, of regions (`gpuvox rois`) and of clusters (`gpuvox clusters`); see
`tables.gather` for their names. What is computed stands in `gpuvox.study.statistics.least_squares`.
"""

from __future__ import annotations

from gpuvox import files
from gpuvox.files.targets import check_root_name, check_targets
from gpuvox.reporter import Reporter
from gpuvox.study.statistics.correlation import Correlations, correlations
from gpuvox.study.statistics.regression import Regression, regression
from gpuvox.study.statistics.sample_size import SampleSizes, sample_sizes
from gpuvox.study.statistics.sources import Result, Source, write

__all__ = [
    "Correlations", "Regression", "Result", "SampleSizes", "Source", "correlations", "execute", "regression",
    "sample_sizes", "write",
]  # fmt: skip


def execute(command: Regression | Correlations | SampleSizes, out: str, reporter: Reporter) -> None:
    """Run a command and write what it finds: ``OUT.tsv`` and other tables, ``OUT.json``.

    Parameters
    ----------
    command : Regression, Correlations or SampleSizes
    out : str
        Root of the files; empty: nothing is written.
    reporter : Reporter
        Receives a summary.

    Raises
    ------
    InputError
        One sentence that says what is wrong; nothing is written then.
    """
    if out:
        check_root_name(out, "--out", "models")
        check_targets(out, ("_coefficients.tsv", "_data.tsv", ".tsv", ".json"))
    if isinstance(command, Regression):
        result = regression(command)
    elif isinstance(command, Correlations):
        result = correlations(command)
    else:
        result = sample_sizes(command)
    if out:
        files.check_not_read([*(f"{out}{suffix}.tsv" for suffix in result.tables), f"{out}.json"], command.inputs)
        write(result, out)
    for line in result.messages:
        reporter.say(line)
