"""Warnings about volumes of the data: constant volumes, and identical ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from gpuvox.scratch import Data, pieces
from gpuvox.types import AnyArray

MOST_NAMED = 6
"""Number of volumes that a sentence names."""


def constant_rows(data: Data) -> dict[int, float]:
    """Rows that have one value in all voxels: number of the row → that value."""
    first: AnyArray | None = None
    same = np.ones(data.shape[0], dtype=bool)
    for start, values in pieces(data):
        width = min(values.shape[1], data.shape[1] - start)
        first = values[:, 0].copy() if first is None else first
        for i in np.flatnonzero(same):
            same[i] = (values[i, :width] == first[i]).all()
    return {} if first is None else {int(i): float(first[i]) for i in np.flatnonzero(same)}


def duplicate_rows(data: Data) -> list[list[int]]:
    """Groups of identical rows, found by the digest of their bytes."""
    digests = [hashlib.blake2b(digest_size=16) for _ in range(data.shape[0])]
    for start, values in pieces(data):
        width = min(values.shape[1], data.shape[1] - start)
        for row, digest in zip(values, digests):
            digest.update(np.ascontiguousarray(row[:width]).tobytes())
    sorted_digests = sorted((digest.digest(), i) for i, digest in enumerate(digests))
    groups = [[i for _, i in group] for _, group in groupby(sorted_digests, key=lambda item: item[0])]
    return sorted(group for group in groups if len(group) > 1)


def volume_warnings(data: Data, titles: Sequence[str]) -> Iterator[str]:
    """Sentences on volumes that are constant within the mask, or identical to another.

    Parameters
    ----------
    data : (n, V) float32
    titles : (n,) sequence of str
        What a sentence calls each volume, such as "volume 3 (sub-03)".
    """
    if data.shape[1] < 2:
        return
    constant = constant_rows(data)
    for value in dict.fromkeys(constant.values()):
        rows = [i for i, of_row in constant.items() if of_row == value]
        has = "has" if len(rows) == 1 else "have"
        yield f"{_named(rows, titles)} {has} the value {value:g} in all {data.shape[1]} voxels that are analysed"
    for rows in duplicate_rows(data):
        if rows[0] not in constant:
            yield f"{_named(rows, titles)} are identical in all {data.shape[1]} voxels that are analysed"


def _named(rows: Sequence[int], titles: Sequence[str]) -> str:
    names = [titles[i] for i in rows[:MOST_NAMED]]
    if len(rows) > MOST_NAMED:
        return f"{', '.join(names)} and {len(rows) - MOST_NAMED} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
