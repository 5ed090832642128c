"""Checks of the maps of a study: implausible values of single participants."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from gpuvox import files, participants
from gpuvox.errors import FileError
from gpuvox.participants import Rows
from gpuvox.plain import several

FAR = 5.0
"""Robust standard deviations from the median beyond which a participant's mean triggers a warning."""


def check_maps(images: Mapping[str, str], mask: str, names: list[str]) -> pd.DataFrame:
    """Summarise every participant's maps within a mask.

    Parameters
    ----------
    images : dict of str to path
        4D images by the names of the maps.
    mask : path
    names : list of str
        Participants, in the order of the volumes.

    Returns
    -------
    DataFrame
        ``map``, ``participant_id``, ``zero`` and ``not_finite`` (voxels), ``mean``, ``distance``: its distance
        from the median of all participants, in units of 1.4826 times the median absolute deviation; ``constant``: 1 if
        all voxels have the same value; ``same_as``: the first participant with an identical map, None if there is none.

    Raises
    ------
    FileError
        An image is not on the grid of the mask, or has another number of volumes.
    """
    headers = [files.read_header(image) for image in images.values()]
    grid = files.read_mask(mask, headers[0] if headers else None)
    rows = []
    for kind, image in images.items():
        header = files.read_header(image)
        files.check_grid(header, grid, mask)
        if header.shape[3] != len(names):
            raise FileError(
                f"{header.path} has {several(header.shape[3], 'volume')}; expected {several(len(names), 'participant')}"
            )
        participants.compare(Rows(tuple(names), "the table of participants"), participants.of_volumes(image))
        seen: dict[bytes, str] = {}
        for name, values in zip(names, files.read_volumes(image)):
            inside = values[grid.index]
            finite = np.isfinite(inside)
            mean = float(inside[finite].mean(dtype=np.float64)) if finite.any() else float("nan")
            constant = int((inside == inside[0]).all())
            first = seen.setdefault(hashlib.blake2b(inside.tobytes()).digest(), name)
            counts = (int((inside == 0).sum()), int((~finite).sum()))
            rows.append((kind, name, *counts, mean, constant, None if first == name else first))
    columns = ["map", "participant_id", "zero", "not_finite", "mean", "constant", "same_as"]
    table = pd.DataFrame(rows, columns=columns)
    middle = table.groupby("map")["mean"].transform("median")
    spread = 1.4826 * (table["mean"] - middle).abs().groupby(table["map"]).transform("median")
    table.insert(5, "distance", (table["mean"] - middle) / spread.where(spread > 0))
    return table


def warnings_about_maps(table: pd.DataFrame) -> list[str]:
    """Warnings, one sentence each, on implausible values in the table of `check_maps`."""
    texts = []
    for kind, name, zero, missing, mean, distance, constant, same_as in table.itertuples(index=False, name=None):
        if constant:
            texts.append(f"{kind} of {name} is {mean:.4g} in every voxel of the mask")
            continue
        if isinstance(same_as, str):
            texts.append(f"{kind} of {name} equals that of {same_as} in every voxel of the mask")
        if missing:
            texts.append(f"{kind} of {name} is not finite in {missing} voxels of the mask")
        if zero:
            texts.append(f"{kind} of {name} is 0 in {zero} voxels of the mask")
        if abs(distance) > FAR:
            texts.append(
                f"{kind} of {name} has mean {mean:.4g} in the mask, {abs(distance):.1f} robust standard deviations "
                "from the median of all participants"
            )
    return texts
