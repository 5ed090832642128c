"""Where the lanes of a warp that have parted at a branch meet again: its immediate post-dominator."""

from __future__ import annotations

from collections.abc import Sequence

END = -1
"""Beyond the last instruction, where everything meets that meets nowhere else."""


def meeting_points(successors: Sequence[tuple[int, ...]]) -> list[int]:
    """Instruction before which all paths from each instruction meet again, or `END`.

    Parameters
    ----------
    successors : sequence of tuple of int
        For each instruction those that may follow it, with `END` for the end of the kernel.

    Notes
    -----
    Cooper, Harvey and Kennedy, A simple, fast dominance algorithm, on the reversed graph.
    """
    order = postorder(successors)
    rank = {node: i for i, node in enumerate(order)}  # the end has the highest rank
    meets: dict[int, int] = {END: END}
    changed = True
    while changed:
        changed = False
        for node in reversed(order[:-1]):
            known = [after for after in successors[node] if after in meets]
            if not known:
                continue
            new = known[0]
            for other in known[1:]:
                new = common(new, other, meets, rank)
            if meets.get(node) != new:
                meets[node] = new
                changed = True
    return [meets.get(node, END) for node in range(len(successors))]


def common(a: int, b: int, meets: dict[int, int], rank: dict[int, int]) -> int:
    """The first point through which paths from both lead."""
    while a != b:
        while rank[a] < rank[b]:
            a = meets[a]
        while rank[b] < rank[a]:
            b = meets[b]
    return a


def postorder(successors: Sequence[tuple[int, ...]]) -> list[int]:
    """Postorder of the reversed graph from its end."""
    before: dict[int, list[int]] = {}
    for node, after in enumerate(successors):
        for one in after:
            before.setdefault(one, []).append(node)
    order, seen, stack = [], {END}, [(END, iter(before.get(END, ())))]
    while stack:
        node, rest = stack[-1]
        for one in rest:
            if one not in seen:
                seen.add(one)
                stack.append((one, iter(before.get(one, ()))))
                break
        else:
            order.append(node)
            stack.pop()
    return order
