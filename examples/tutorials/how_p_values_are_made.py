"""
How p-values are made
=====================

A p-value of gpuvox is a count: in how many of the permutations was the result at least as large as in the data?
This page makes every step visible on one slice of a brain. The numbers are computed by gpuvox and, beside it, by a
few lines of NumPy, so that you can check them.
"""

# sphinx_gallery_thumbnail_number = 4
import matplotlib.pyplot as plt
import numpy as np
from cohorts import MM, ball, noise
from nilearn.datasets import load_mni152_gm_template

import gpuvox

rng = np.random.default_rng(7)
grey = load_mni152_gm_template(resolution=MM).get_fdata()[:, :, 20:21]
mask = grey > 0.3
n = 20
group = np.repeat([1, 0], n // 2)  # ten patients, ten controls
effect = ball((*grey.shape[:2], 48), (-28, -60, 8), (32, 20, 8), radius=14)[:, :, 20:21]
images = np.stack([noise(grey.shape, rng) + 2.0 * g * effect for g in group], axis=-1)


def show(axis, values, title, colours="RdBu_r", limit=None):
    """A slice, with what is outside the mask left blank."""
    limit = np.nanmax(np.abs(values[mask])) if limit is None else limit
    low = -limit if colours == "RdBu_r" else 0
    picture = axis.imshow(np.rot90(np.where(mask, values, np.nan)[:, :, 0]), cmap=colours, vmin=low, vmax=limit)
    axis.set_title(title, fontsize=9)
    axis.set_axis_off()
    return picture


# %%
# 1. A statistic at every voxel
# -----------------------------
#
# At each voxel the general linear model compares the groups: t is the difference of the means, divided by its
# standard error. There are hundreds of voxels, so some t are large by chance.

design = np.column_stack([group, 1 - group]).astype(float)


def t_map(labels):
    """(V,) t of patients − controls for a labelling of the rows."""
    values = images[mask]
    first, second = values[:, labels == 1], values[:, labels == 0]
    pooled = (first.var(axis=1, ddof=1) + second.var(axis=1, ddof=1)) / 2
    return (first.mean(axis=1) - second.mean(axis=1)) / np.sqrt(pooled * 2 / (n // 2))


result = gpuvox.randomise(images, design, [[1, -1]], mask=mask, voxel=True, tfce=True, n_permutations=2000, seed=1)
observed = np.zeros(mask.shape)
observed[mask] = t_map(group)
theirs = result.image("tstat1", "t").get_fdata()
print("largest difference from gpuvox's t:", np.abs(observed - theirs).max())
figure, axis = plt.subplots(figsize=(4, 3.6))
bar = figure.colorbar(show(axis, observed, f"t of the data; largest {observed.max():.2f}"), ax=axis)

# %%
# 2. What could have happened otherwise
# -------------------------------------
#
# If the groups do not differ, it does not matter who is called a patient: the labels are *exchangeable*. So
# shuffle them, and compute the map again. Every shuffled map is one that could equally have been found if nothing
# were there.

figure, axes = plt.subplots(1, 4, figsize=(10, 2.8))
for axis in axes:
    shuffled = np.zeros(mask.shape)
    shuffled[mask] = t_map(rng.permutation(group))
    show(axis, shuffled, f"shuffled; largest {shuffled.max():.2f}", limit=6)

# %%
# Which rows may be exchanged is the one assumption of the test, and it is yours: visits of a person belong
# together, and people of one scanner may. That is what ``--paired``, ``--whole`` and ``--blocks`` say. With
# nuisance variables the residuals are permuted instead of the data (Freedman and Lane), so that their effect stays
# where it is.
#
# 3. The largest value of each map
# --------------------------------
#
# A corrected p-value answers: *how often does chance produce, anywhere in the brain, a value as large as this
# one?* For that one needs only the largest value of each permutation. Their histogram is the null distribution of
# the maximum. The unpermuted data are one of the permutations: they count too.

maxima = result.nulls["vox_tstat1"]
critical = np.sort(maxima)[int(np.ceil(0.95 * len(maxima))) - 1]
figure, axis = plt.subplots(figsize=(6.5, 3))
axis.hist(maxima, bins=50, color="0.7")
axis.axvline(critical, color="k", linestyle="--", label=f"95th percentile: {critical:.2f}")
axis.axvline(observed.max(), color="C3", label=f"largest t of the data: {observed.max():.2f}")
axis.set(xlabel="largest t of a permutation", ylabel="permutations")
axis.legend(frameon=False)
figure.tight_layout()

# %%
# The corrected p of a voxel is the share of these maxima that are at least as large as its t. Files of randomise
# hold 1 − p: the share of maxima that are *below* it.

by_hand = np.array([(maxima >= t).mean() for t in result["tstat1"]])
print("the same p:", np.allclose(1 - by_hand, result["vox_corrp_tstat1"], atol=1e-6))
print("smallest p:", by_hand.min(), "- with 2000 permutations it cannot be below", 1 / 2000)

# %%
# 4. Neighbours help: TFCE
# ------------------------
#
# Real effects are rarely one voxel wide. Threshold-free cluster enhancement (Smith and Nichols 2009) gives each
# voxel the support of its neighbours: for every height below its t, the extent of the cluster that it belongs to
# at that height, to the power E = 0.5, times the height to the power H = 2, summed. It is then tested exactly as t
# was: by the largest value of each permutation.

line = np.concatenate([np.zeros(8), [3.5], np.zeros(8), 2.8 * np.hanning(19), np.zeros(8)])
enhanced = np.zeros(len(line))
for height in np.arange(0.1, line.max(), 0.1):
    start = 0
    for run in np.split(np.arange(len(line)), np.flatnonzero(np.diff(line > height)) + 1):
        if line[run[0]] > height:
            enhanced[run] += len(run) ** 0.5 * height**2 * 0.1
figure, axes = plt.subplots(2, 1, figsize=(6.5, 3.6), sharex=True)
axes[0].bar(range(len(line)), line, color="C0")
axes[0].set(ylabel="t", title="a lone peak, and a lower but wider one")
axes[1].bar(range(len(line)), enhanced, color="C3")
axes[1].set(ylabel="TFCE", xlabel="voxels in a line")
figure.tight_layout()

# %%
# The wide peak is lower, and gets the higher score. On the slice:

corrected = {}
for kind in ("vox", "tfce"):
    log_p = result.image("tstat1", f"{kind}FWE").get_fdata()
    corrected[kind] = np.where(mask, 1 - 10**-log_p, 0)
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2))
show(axes[0], observed, "t")
show(axes[1], corrected["vox"] * (corrected["vox"] > 0.95), "p < 0.05 by t", "hot_r", 1)
show(axes[2], corrected["tfce"] * (corrected["tfce"] > 0.95), "p < 0.05 by TFCE", "hot_r", 1)
print({kind: int((values > 0.95).sum()) for kind, values in corrected.items()}, "voxels survive")

# %%
# Clusters (``-c``, ``-C``) are tested in the same way: the largest cluster of each permutation makes the
# distribution. Their p belongs to a whole cluster, for a threshold that you chose beforehand, and says nothing
# about any voxel in it.
#
# 5. How exact is it?
# -------------------
#
# With N permutations p is a multiple of 1/N, and if the true value is 0.05 its standard error is √(0.05 · 0.95 /
# N): 0.003 with 5,000 permutations. If there are fewer distinct permutations than you ask for, all are used, once
# each, and p is exact. Values that are equal count as equal: gpuvox computes what nearly ties with the data again
# in double precision, so that p does not depend on the last bit.

for N in (500, 1000, 5000, 10000):
    print(f"{N:6d} permutations: p = 0.05 ± {np.sqrt(0.05 * 0.95 / N):.4f}")

# %%
# What p does not say: how large an effect is (look at the maps of effect sizes and their confidence intervals), or
# that voxels with a large p have none.
