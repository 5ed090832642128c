"""Compile the loops of usual tests into the cache of an image: run once while it is built."""

import numpy as np

import gpuvox

if __name__ == "__main__":
    rng = np.random.default_rng(0)
    two_groups = np.repeat(np.eye(2), 6, axis=0)
    gpuvox.randomise(
        rng.normal(size=(9, 9, 9, 12)).astype(np.float32), two_groups, [[1, -1]], voxel=True, tfce=True,
        cluster_extent=2.0, cluster_mass=2.0, n_permutations=20, seed=1, device="cpu",
    )  # fmt: skip
