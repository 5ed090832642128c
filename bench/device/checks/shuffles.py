"""Checks of permutations and sign flips made on the device."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.device.checks.compare import Check
from gpuvox.block_tree import shuffler_of
from gpuvox.device import Device
from gpuvox.shuffle import Permutations, Shuffler

FEW, MANY = np.arange(12) % 3, np.arange(40.0)
TREE = np.column_stack([-np.ones(12), np.repeat([1, 2, 3], 4), np.arange(1, 13)])
CASES: dict[str, tuple[NDArray, dict[str, Any]]] = {
    "by rank": (FEW, {}),
    "without ranks": (MANY, {}),
    "within blocks": (FEW, {"blocks": np.repeat([1, 2], 6)}),
    "whole blocks": (MANY[:12], {"blocks": np.repeat([1, 2, 3, 4], 3), "whole_blocks": True}),
    "multi-level blocks": (FEW, {"blocks": TREE}),
}
"""Labels of rows, and options."""


def shuffle_checks() -> Iterator[Check]:
    """Rows, blocks and trees of blocks, permuted, with their signs flipped, and both."""
    for name in CASES:
        for way, options in (("", {}), (", and sign flips", {"permute_and_flip": True})):
            yield Check(f"permutations, {name}{way}", partial(shuffles_of, *CASES[name], options))
    yield Check("sign flips", partial(shuffles_of, FEW, {}, {"flip": True}))
    yield Check("sign flips without ranks", partial(shuffles_of, MANY, {}, {"flip": True}))


def shuffles_of(labels: NDArray, blocks: dict, options: dict, device: Device | None) -> NDArray:
    """The first 40."""
    shuffler: Shuffler = shuffler_of(labels, Permutations(40, 5, **blocks, **options))
    number = shuffler.n
    return shuffler.shuffles(0, number) if device is None else shuffler.on_device(0, number, device).on_host()
