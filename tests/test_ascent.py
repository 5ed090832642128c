"""`ascent`: labels and edges against the connected components of every level, found by scipy."""

import ast
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import generate_binary_structure, label

from gpuvox import ascent, descent, jit
from gpuvox.grid import Grid
from gpuvox.jit import checked

ORDER = {6: 1, 18: 2, 26: 3}


@checked
def run(blocks, steps, cells, group, code, labels, head_up, ends):
    return ascent.ascend(blocks, steps, cells, group, code, labels, head_up, ends)


class Forest:
    """What `ascend` says of a map of levels: a peak for each voxel, and edges between voxels."""

    def __init__(self, grid: Grid, levels: np.ndarray, connectivity: int, room: int = 1 << 14) -> None:
        layout, scratch = descent.layout_of(grid), descent.scratch_for(grid, 1)
        at = np.concatenate([np.arange(p, p + n) for p, _, n in layout.runs])
        scratch.code[at] = levels
        scratch.label[:] = np.random.default_rng(1).integers(-9, 9, len(scratch.label))  # left by another map
        n_heads, n_edges, ends = run(
            layout.blocks, layout.steps, ascent.neighbour_cells(connectivity), ascent.make_group(), scratch.code,
            scratch.label, scratch.head_up, np.empty((2, room), np.int32),
        )  # fmt: skip
        voxel = np.full(len(scratch.code), -1)
        voxel[at] = np.arange(len(at))
        head = voxel[scratch.head_up[:n_heads]]
        own = scratch.label[at]
        peak = np.full(len(at), -1)
        for v in np.flatnonzero(levels):
            n = own[v]
            while own[head[n]] != n:
                n = own[head[n]]
            peak[v] = head[n]
        self.peak, self.edges = peak, voxel[ends[:, :n_edges]]
        self.levels = levels

    def components(self, lowest: int) -> np.ndarray:
        """Number of the component of each voxel of the levels from this one up (down, if negative); −1 elsewhere."""
        inside = self.levels * np.sign(lowest) >= abs(lowest)
        root = np.arange(len(self.levels))

        def find(v):
            while root[v] != v:
                v = root[v]
            return v

        for one, other in self.edges.T:
            if inside[one]:
                assert inside[other]
                root[find(self.peak[one])] = find(self.peak[other])
        return np.array([find(self.peak[v]) if inside[v] else -1 for v in range(len(root))])


def same_partition(one, other):
    pairs = set(zip(one.tolist(), other.tolist()))
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


def masks():
    rng = np.random.default_rng(0)
    yield np.ones((3, 3, 3), dtype=bool)
    yield np.ones((1, 1, 1), dtype=bool)
    yield np.ones((70, 3, 2), dtype=bool)  # rows of more than a word
    yield np.ones((2, 30, 9), dtype=bool)
    yield rng.random((15, 14, 6)) < 0.7
    yield rng.random((40, 5, 5)) < 0.2


@pytest.mark.parametrize("connectivity", [6, 18, 26])
@pytest.mark.parametrize("mask", list(masks()))
def test_components_of_every_level(mask, connectivity):
    grid = Grid(mask)
    rng = np.random.default_rng(2)
    structure = generate_binary_structure(3, ORDER[connectivity])
    for top in (1, 3, 40, 30000):
        levels = rng.integers(-top, top + 1, grid.n_voxels).astype(np.int16)
        forest = Forest(grid, levels, connectivity)
        volume = grid.to_volume(levels.astype(np.float32))
        for lowest in {1, -1, 2, -2, top // 2, -(top // 2), top, -top} - {0}:
            expected = grid.to_vector(label(volume * np.sign(lowest) >= abs(lowest), structure)[0]) - 1
            assert same_partition(forest.components(lowest), np.asarray(expected, dtype=np.int64))


@pytest.mark.parametrize("connectivity", [6, 18, 26])
def test_room_for_edges_grows(connectivity):
    grid = Grid(np.ones((60, 60, 20), dtype=bool))
    levels = np.random.default_rng(3).integers(1, 30, grid.n_voxels).astype(np.int16)
    few, many = (Forest(grid, levels, connectivity, room) for room in (1, 1 << 20))
    assert few.edges.shape[1] > 1 << 13
    np.testing.assert_array_equal(few.edges, many.edges)


def test_what_is_kept_of_compiled_loops_is_good_for_the_present_versions_of_all():
    """A loop holds what it calls in other modules; numba compares its own module alone."""
    with_loops = set()
    for path in Path(jit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = {each.name for each in node.names} if isinstance(node, ast.ImportFrom) else set()
            if names & {"loop", "inner", "part", "small", "checked", "intrinsic"} and node.module == "gpuvox.jit":
                with_loops.add(path.relative_to(Path(jit.__file__).parent).as_posix().removesuffix(".py"))
    assert with_loops == set(jit.LOOPS)
    if not jit.WHY_NOT_KEPT:
        stamp = descent.enhance_maps._cache._cache_file._source_stamp
        ours = Path(ascent.__file__).stat()
        assert ("ascent", ours.st_mtime, ours.st_size) in stamp
