"""The statistics that are computed of each permutation, one file each.

`Statistics` is what the user asked for. It lists `Setting` objects (a cluster-forming threshold, the parameters of
TFCE), each of which the unpermuted map turns into a `Statistic` (steps of TFCE fixed). A statistic knows its values
and maxima, its ties, its units and its names; `permtest` computes whatever statistics it is given, and `outputs`
writes them under their names.
"""

from __future__ import annotations

from gpuvox.statistics.base import (
    Normalisable,
    Normalised,
    Setting,
    Statistic,
    StatisticInfo,
)
from gpuvox.statistics.batch import Batch, Edge, StatisticModel, Unpermuted
from gpuvox.statistics.options import Statistics

__all__ = [
    "Batch",
    "Edge",
    "Normalisable",
    "Normalised",
    "Setting",
    "Statistic",
    "StatisticInfo",
    "StatisticModel",
    "Statistics",
    "Unpermuted",
]
