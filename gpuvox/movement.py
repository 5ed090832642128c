"""What the shuffles of a test may move, and how many there are, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from gpuvox.block_tree import Node, TreeShuffler
from gpuvox.imported_shuffles import ImportedShuffler
from gpuvox.plain import format_count, several
from gpuvox.shuffle import Shuffler, check_blocks

FREELY = "all rows may trade places"
"""What permutations without exchangeability blocks may do."""
EXACT = 10**15
"""Numbers of shuffles below this are printed to the last digit."""


def movement(shuffler: Shuffler | ImportedShuffler) -> str:
    """A clause that says which rows trade places, which signs change, and what stays as it is."""
    if isinstance(shuffler, ImportedShuffler):
        moves = ["rows trade places"] * shuffler.permutes + ["signs change"] * shuffler.flips
        return f"{' and '.join(moves)} as in the given file"
    permuted = list(_permuted(shuffler)) if shuffler.permutes else []
    return "; ".join([*permuted, *_flipped(shuffler), *_fixed(shuffler)]) or "no two rows may trade places"


def extent(shuffler: Shuffler | ImportedShuffler) -> str:
    """A clause that says how many distinct shuffles are possible, and how many of them are used."""
    kind = shuffler.kind.replace("sign-flips", "sign flips")
    if isinstance(shuffler, ImportedShuffler):
        return f"{shuffler.n:,} {kind}, all of which are used"
    n = shuffler.n_distinct
    if n == 1:
        return "there is nothing to shuffle"
    number = f"{n:,}" if n < EXACT else format_count(n)
    return f"{number} distinct {kind}, of which {_used(shuffler)} are used"


def _used(shuffler: Shuffler) -> str:
    if shuffler.exhaustive:
        return "all"
    return f"{shuffler.n:,} drawn with repeats" if shuffler.options.repeats else f"{shuffler.n}"


def _permuted(shuffler: Shuffler) -> Iterator[str]:
    """Which rows trade places."""
    if isinstance(shuffler, TreeShuffler):
        yield from _permuted_in_tree(shuffler.tree)
    elif shuffler.options.blocks is None:
        yield FREELY
    elif shuffler.options.whole_blocks:
        yield "exchangeability blocks may trade places as wholes, with the order of their rows kept"
    else:
        yield "rows may trade places within their exchangeability block"


def _permuted_in_tree(root: Node) -> Iterator[str]:
    """The same, a clause for each level of the tree, which is a column of the table of blocks."""
    levels = [[root]]
    while levels[-1][0].children:
        levels.append([child for node in levels[-1] for child in node.children])
    for number, (nodes, below) in enumerate(pairwise(levels), start=1):
        level = f" of level {number}" if len(levels) > 3 else ""
        blocks = f"the blocks of level {number + 1}" if len(levels) > 3 else "the blocks"
        what = blocks if below[0].children else "the rows"
        inside = f" within each block{level}" if number > 1 else ""
        as_wholes = " as wholes" if below[0].children else ""
        counts = Counter(node.trades for node in nodes if len(node.children) > 1)
        if counts[True] and counts[False]:
            some = f"{counts[True]} of the {len(nodes)} blocks{level}"
            yield f"{what} may trade places{as_wholes} within {some}, and stay in place within the others"
        elif counts[True]:
            yield f"{what} may trade places{as_wholes}{inside}"
        elif counts[False]:
            yield f"{what} stay in place{inside}"


def _flipped(shuffler: Shuffler) -> Iterator[str]:
    """Which signs change."""
    sizes = [len(rows) for rows in shuffler.flip_units]
    if not shuffler.flips or not sizes:
        return
    if set(sizes) == {1}:
        yield "the sign of each row may change by itself"
    elif isinstance(shuffler, TreeShuffler):
        yield (
            f"signs may change in {several(len(sizes), 'unit')} of {_range(sizes)} rows, those of all rows of a unit "
            "together"
        )
    else:
        yield "the rows of an exchangeability block may change their sign together"


def _range(sizes: list[int]) -> str:
    return f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"


def _fixed(shuffler: Shuffler) -> Iterator[str]:
    """Which rows stay as they are."""
    if isinstance(shuffler, TreeShuffler) or shuffler.options.blocks is None:
        return
    n = int(np.count_nonzero(check_blocks(shuffler.options.blocks, shuffler.n_rows) == 0))
    if n:
        yield "the row of block 0 stays as it is" if n == 1 else f"the {n} rows of block 0 stay as they are"
