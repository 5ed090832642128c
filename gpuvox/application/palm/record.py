"""The record of a run: what its files depend on, by which a later run knows those that are no longer valid."""

from __future__ import annotations

import contextlib
import glob
import os
import re
from collections.abc import Iterator
from dataclasses import asdict

from gpuvox import __version__, files, private
from gpuvox.application.earlier import remove_earlier
from gpuvox.application.palm.description import PalmDescription
from gpuvox.errors import FileError
from gpuvox.reporter import Reporter

RECORD = "_palm.json"
"""End of the name of the record."""
OURS = re.compile(
    r"_((vox|dat|tfce|clustere|clusterm)_\w+|(\w+_)?permidx|mask(_m\d+)?)(\.nii\.gz|\.csv|\.txt)", re.ASCII
)
"""Ends of the names of the files of a run; a record may come from others and list any file."""


def write_record(description: PalmDescription, written: list[str], reporter: Reporter) -> None:
    """Remove the files of an earlier run with other inputs or another model, and write the JSON record.

    Parameters
    ----------
    description : PalmDescription
    written : list of str
        The files of the run, to which the record is added.
    reporter : Reporter
        Warned of what is removed.
    """
    path = f"{description.prefix}{RECORD}"
    read = dict.fromkeys(_files_read(description))
    inputs = {name: {"sha256": files.hash_file(name)} for name in read}
    record = {
        "software": {"gpuvox": __version__},
        "inputs": private.keys(inputs, os.path.dirname(path)),
        "model": _model(description),
        "files": [os.path.basename(name) for name in written],
    }
    removed = remove_earlier(description.prefix, record, read, path, OURS)
    if removed:
        reporter.warn(f"removed what an earlier run of other inputs or options had left: {', '.join(removed)}")
    files.write_json(path, record)
    written.append(path)


def _model(description: PalmDescription) -> dict[str, object]:
    """The options by which statistics and exchangeability follow from the inputs.

    Not those that choose statistics of space, corrections and further files: one prefix may be filled by several runs.
    """
    shuffled = asdict(description.exchangeability)
    for name in ("blocks", "permutations", "number", "seed", "together"):  # files are known by their content
        del shuffled[name]
    shuffled["groups"] = "auto" if description.exchangeability.groups == "auto" else ""
    names = ("design_per_input", "acceleration", "transpose", "reverse_masks")
    columns = [[each.column, each.design] for each in description.regressors]
    statistic = asdict(description.statistic)
    return {**statistic, **shuffled, **{name: getattr(description, name) for name in names}, "regressors": columns}


def _files_read(description: PalmDescription) -> Iterator[str]:
    """The files that a run reads, both of a pair of header and image."""
    named = [*description.inputs, *description.masks, *description.designs, *description.contrasts]
    named += [*description.f_contrasts, *(each.file for each in description.regressors)]
    named += [*description.missing, *description.missing_designs, description.subjects]
    shuffled = description.exchangeability
    named += [shuffled.blocks, *([shuffled.groups] if shuffled.groups != "auto" else [])]
    for name in filter(None, named):
        if os.path.isfile(name):
            yield name
            continue
        with contextlib.suppress(FileError):
            yield from map(os.fspath, files.image_files(name))
    if shuffled.permutations:
        yield from sorted(glob.glob(f"{glob.escape(shuffled.permutations)}*_permidx.csv"))
