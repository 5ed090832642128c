"""The truth that gpuvox is measured against: permutation inference as the textbook writes it.

Nothing here comes from gpuvox, and nothing is clever. All is float64; every shuffle makes new data, and a
full least-squares fit of the unpermuted design follows (Winkler et al., NeuroImage 92:381-397, 2014, table
2): with H_Z the projection onto the nuisance regressors Z and R_Z = I - H_Z, Freedman & Lane's data are

    Y* = (P' R_Z + H_Z) Y,

fitted with [X Z]. A row p of a permutation file says that row i of the permuted design is row p[i] of the
design, (P A)[i] = A[p[i]], times -1 where p[i] is negative; a row of -1 and +1 only flips signs. Arrays of maps
are (shuffles, voxels), voxels run x fastest.

What differs from FSL randomise on purpose: an F is divided by the rank of its contrast; uncorrected cluster
values are counted, not zero; TFCE does not leave out the outermost shell of the grid.
"""

from __future__ import annotations

import argparse
import math
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage, stats

KENNEDY, FREEDMAN_LANE, RAW, TER_BRAAK = 0, 1, 2, 3


# --- files --------------------------------------------------------------------------------------------------


def read_vest(path):
    """Rows under /Matrix of an FSL .mat, .con, .fts or .grp file."""
    lines = Path(path).read_text().split("/Matrix", 1)[1].splitlines()
    return np.array([[float(word) for word in line.split()] for line in lines if line.strip()])


def read_text(path):
    """Rows of a permutation or null file of FSL."""
    return np.loadtxt(path, ndmin=2)


def read_image(path):
    path = path if Path(path).exists() else f"{path}.nii.gz"
    return np.asarray(nib.load(path).dataobj, dtype=float)


def flat(image, mask):
    """Voxels of the mask, x fastest: (voxels,) of an image, (images, voxels) of a 4D one."""
    inside = mask.ravel(order="F")
    return image.reshape(mask.size, *image.shape[3:], order="F")[inside].T


def unflat(values, mask):
    """The image of a vector of voxels, 0 outside the mask."""
    image = np.zeros(mask.size)
    image[mask.ravel(order="F")] = values
    return image.reshape(mask.shape, order="F")


# --- the model ----------------------------------------------------------------------------------------------


def partition(M, C):
    """Effect X and nuisance Z (orthonormal columns) of a design M for the rows of a contrast C."""
    C = np.atleast_2d(C)
    X = M @ np.linalg.pinv(C)
    U, s, _ = np.linalg.svd(M - M @ C.T @ np.linalg.pinv(C).T, full_matrices=False)
    tiny = 1e-10 * max(s.max(initial=0), np.abs(X).max())
    return X, U[:, s > tiny]


def are_flips(shuffles):
    return bool((np.abs(shuffles) == 1).all())


def back(shuffle, Y, flips):
    """P'Y."""
    shuffle = np.asarray(shuffle)
    if flips:
        return shuffle[:, None] * Y
    moved = np.empty_like(Y)
    moved[np.abs(shuffle.astype(int)) - 1] = np.sign(shuffle)[:, None] * Y
    return moved


def split(Y, X, Z, mode=FREEDMAN_LANE):
    """(moving, fixed): a shuffle's data are Y* = P' moving + fixed."""
    XZ = np.hstack([X, Z])
    H_Z, H_XZ = Z @ np.linalg.pinv(Z), XZ @ np.linalg.pinv(XZ)
    zero = np.zeros_like(Y)
    return {
        KENNEDY: (Y - H_Z @ Y, zero),
        FREEDMAN_LANE: (Y - H_Z @ Y, H_Z @ Y),
        RAW: (Y, zero),
        TER_BRAAK: (Y - H_XZ @ Y, zero),
    }[mode]


def fitted_model(X, Z, mode):
    """The model that is fitted: [X Z], and R_Z X alone by Kennedy's scheme; as (effect, nuisance)."""
    if mode == KENNEDY:
        return X - Z @ np.linalg.pinv(Z) @ X, Z[:, :0]
    return X, Z


def degrees_of_freedom(model, demean=False):
    return len(model) - np.linalg.matrix_rank(model) - int(demean)


def ratio(a, b):
    """a / b, 0 where b is 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=np.asarray(b) != 0)


class LeastSquares:
    """Ordinary least squares with one design: fit(Y) gives coefficients and sums of squared errors."""

    def __init__(self, M):
        self.M = M
        self.inverse = np.linalg.pinv(M)
        self.covariance = np.linalg.pinv(M.T @ M)
        self.rank = np.linalg.matrix_rank(M) if M.size else 0

    def fit(self, Y):
        B = self.inverse @ Y
        return B, ((Y - self.M @ B) ** 2).sum(axis=0)


def t_map(Y, full, df, smooth=None):
    """The first coefficient over its standard error."""
    B, sse = full.fit(Y)
    variance = sse / df if smooth is None else smooth(sse / df)
    return ratio(B[0], np.sqrt(full.covariance[0, 0] * variance))


def F_map(Y, full, nuisance, df):
    """Extra sum of squares of the effect beside the nuisance, per degree of freedom, over the variance."""
    _, sse = full.fit(Y)
    _, sse_without = nuisance.fit(Y)
    return ratio((sse_without - sse) / (full.rank - nuisance.rank), sse / df)


def statistic_maps(Y, M, C, shuffles, mode=FREEDMAN_LANE, demean=False, smooth=None, is_f=False):
    """t (C one row) or F (C several rows, or is_f) of every shuffle, (shuffles, voxels).

    Data Y (subjects, voxels), design M (subjects, columns), contrast C, shuffles as in FSL's permutation
    files, nuisance scheme, whether means are removed first (and one degree of freedom with them), and for t a
    function that smooths a map of variances.
    """
    Y, M, C = np.asarray(Y, float), np.asarray(M, float), np.atleast_2d(C)
    if demean:
        Y, M = Y - Y.mean(axis=0), M - M.mean(axis=0)
    X, Z = partition(M, C)
    moving, fixed = split(Y, X, Z, mode)
    effect, nuisance = fitted_model(X, Z, mode)
    full, reduced = LeastSquares(np.hstack([effect, nuisance])), LeastSquares(nuisance)
    df = degrees_of_freedom(full.M, demean)
    flips = are_flips(shuffles)
    maps = np.empty((len(shuffles), Y.shape[1]))
    for i, shuffle in enumerate(shuffles):
        Y_star = back(shuffle, moving, flips) + fixed
        maps[i] = F_map(Y_star, full, reduced, df) if is_f or len(C) > 1 else t_map(Y_star, full, df, smooth)
    return maps


def voxelwise_maps(Y, M, C, shuffles, columns, **options):
    """The same where columns of the design differ by voxel: `columns` is {column: (subjects, voxels)}.

    Under -N the values of a voxel are the diagonal of columns N, N + 1, ... (from 1), one for each subject.
    """
    maps = np.empty((len(shuffles), Y.shape[1]))
    for voxel in range(Y.shape[1]):
        M_voxel = np.array(M, float)
        for column, values in columns.items():
            if column < 0:
                M_voxel[:, -column - 1 : -column - 1 + len(M)] = np.diag(values[:, voxel])
            else:
                M_voxel[:, column] = values[:, voxel]
        maps[:, [voxel]] = statistic_maps(Y[:, [voxel]], M_voxel, C, shuffles, **options)
    return maps


def F_to_z(F, rank, df):
    """Normal quantile of the F distribution function, 0 where F is not positive."""
    return np.where(F > 0, stats.norm.isf(stats.f.sf(np.maximum(F, 0), rank, df)), 0.0)


def glm(Y, M, C):
    """pe, cope, varcope (a row each) and sigmasqr of the whole design."""
    whole = LeastSquares(M)
    B, sse = whole.fit(Y)
    variance = sse / degrees_of_freedom(M)
    spread = np.array([c @ whole.covariance @ c for c in C])
    return {"pe": B, "cope": C @ B, "varcope": spread[:, None] * variance, "sigmasqr": variance}


def smooth_variance(variance, mask, sigma_mm, voxel_size):
    """Gaussian of sigma_mm within the mask: smoothed image over smoothed mask, zeros beyond the grid."""
    image, weight = unflat(variance, mask), mask.astype(float)
    for axis, size in enumerate(voxel_size):
        sigma = sigma_mm / size
        half = 2 * int(sigma - 0.001) + 3
        kernel = np.exp(-(np.arange(-half, half + 1) ** 2) / (2 * sigma**2))
        image = ndimage.correlate1d(image, kernel, axis=axis, mode="constant")
        weight = ndimage.correlate1d(weight, kernel, axis=axis, mode="constant")
    return flat(image, mask) / flat(weight, mask)


# --- neighbourhoods -----------------------------------------------------------------------------------------


_STRUCTURE = {c: ndimage.generate_binary_structure(3, reach) for reach, c in ((1, 6), (2, 18), (3, 26))}


def components(inside, connectivity=26):
    """Labels of the components of an image of booleans, and the number of voxels of each (0 for label 0)."""
    labels, _ = ndimage.label(inside, _STRUCTURE[connectivity])
    sizes = np.bincount(labels.ravel()).astype(float)
    sizes[0] = 0
    return labels, sizes


def cluster_extent(statistic, mask, threshold):
    """Voxels of the cluster (statistic >= threshold, 26 neighbours) of each voxel, 0 outside."""
    labels, sizes = components(mask & (unflat(statistic, mask) >= threshold))
    return flat(sizes[labels], mask)


def cluster_mass(statistic, mask, threshold):
    """Sum of the statistic over the cluster of each voxel, 0 outside."""
    image = unflat(statistic, mask)
    labels, _ = components(mask & (image >= threshold))
    masses = np.bincount(labels.ravel(), image.ravel())
    masses[0] = 0
    return flat(masses[labels], mask)


def cluster_normed_extent(statistic, mask, threshold, local_mean):
    """Extent of the cluster of each voxel over the mean of a map on that cluster."""
    labels, sizes = components(mask & (unflat(statistic, mask) >= threshold))
    sums = np.bincount(labels.ravel(), unflat(local_mean, mask).ravel())
    normed = sizes * ratio(sizes, sums)
    return flat(normed[labels], mask)


def tfce(statistic, mask, delta, H=2.0, E=0.5, connectivity=6):
    """TFCE (Smith & Nichols 2009) of the positive part of a map, in steps of delta.

    Thresholds are summed in float32, and there is no factor delta, as in FSL.
    """
    box = ndimage.find_objects(mask.astype(int))[0]
    inside = mask[box]
    image = unflat(statistic, mask)[box].astype(np.float32)
    enhanced = np.zeros(image.shape)
    delta, height = np.float32(delta), np.float32(0)
    while delta > 0 and (image > height).any():
        labels, sizes = components(image > height, connectivity)
        enhanced += (sizes**E * float(height) ** H)[labels]
        height = np.float32(height + delta)
    return flat(enhanced, inside)


def local_mean(maps, floor=False):
    """First of two passes: (sum, number of shuffles where not zero, their quotient) per voxel.

    With `floor`, quotients are raised to their 2nd percentile: the ceil(0.02 voxels)-th smallest.
    """
    total, samples = maps.sum(axis=0), (maps != 0).sum(axis=0)
    mean = ratio(total, samples)
    if floor:
        mean = np.maximum(mean, np.sort(mean)[math.ceil(0.02 * mean.size) - 1])
    return total, samples, mean


# --- inference ----------------------------------------------------------------------------------------------


def corrected(observed, null):
    """1 - p, family-wise: share of null maxima strictly below the observed value; compared in float32."""
    null, observed = np.sort(np.float32(null)), np.float32(observed)
    return np.searchsorted(null, observed, side="left") / np.float32(len(null))


def uncorrected(maps):
    """1 - p per voxel: share of shuffles whose value is strictly below the first; compared in float32."""
    maps = np.float32(maps)
    return (maps < maps[0]).sum(axis=0) / np.float32(len(maps))


def film_z(share):
    """zstat of --film: normal quantile of an uncorrected 1 - p, 0 where that is 0 or 1."""
    share = np.asarray(share, float)
    inside = (share > 0) & (share < 1)
    return np.where(inside, stats.norm.ppf(np.where(inside, share, 0.5)), 0.0)


def critical_value(null, level=0.05):
    """The ceil((1 - level) N)-th smallest null maximum."""
    return np.sort(np.ravel(null))[math.ceil(round((1 - level) * np.size(null), 9)) - 1]


def _multinomial(labels):
    ways = math.factorial(len(labels))
    for repeats in Counter(labels).values():
        ways //= math.factorial(repeats)
    return ways


def number_of_labellings(M, C, groups=None, whole=False, force_flips=False, is_f=False):
    """(distinct shuffles, whether they are sign flips), identity included.

    Rows with equal effective regressor are interchangeable; a t contrast of one weight whose rows are all
    equal flips signs instead. `groups`: exchangeability blocks, from 1; rows of block 0 stay.
    """
    C = np.atleast_2d(C)
    n = len(M)
    groups = np.ones(n, int) if groups is None else np.asarray(groups, int).ravel()
    rows = [tuple(row) for row in np.round((M - M.mean(axis=0)) @ C.T, 9) + 0.0]
    flat_rows = len(set(rows)) == 1 and len(set(groups)) == 1 and (C != 0).sum() == 1 and not is_f
    if force_flips or flat_rows:
        return 2**n, True
    blocks = [[rows[i] for i in np.flatnonzero(groups == g)] for g in sorted(set(groups) - {0})]
    if whole:
        return _multinomial([tuple(block) for block in blocks]), False
    return math.prod(_multinomial(block) for block in blocks), False


# --- the cases ----------------------------------------------------------------------------------------------


def _parser():
    """The options of randomise that the cases use."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("-1", "-D", "-q", "-x", "-T", "-R", "-N", "-P"):
        parser.add_argument(flag, action="store_true", dest=flag.strip("-"))
    for flag in ("T2", "fonly", "twopass", "uncorrp", "permuteBlocks", "glm_output", "film"):
        parser.add_argument(f"--{flag}", action="store_true")
    for name in "iomdtfe":
        parser.add_argument(f"-{name}")
    for name in "cCFSv":
        parser.add_argument(f"-{name}", type=float)
    parser.add_argument("-n", type=int, default=5000)
    parser.add_argument("-U", type=int, default=FREEDMAN_LANE)
    for name in ("seed", "skipTo"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("tfce_H", "tfce_E", "tfce_C", "tfce_D"):
        parser.add_argument(f"--{name}", type=float)
    for name in ("vxl", "vxf"):
        parser.add_argument(f"--{name}", type=lambda text: text.split(","))
    return parser


@dataclass
class Case:
    """Inputs of one reference run: options, data (subjects, voxels), mask, design, contrasts."""

    folder: Path
    options: argparse.Namespace
    data: np.ndarray
    mask: np.ndarray
    voxel_size: tuple[float, ...]
    design: np.ndarray
    contrasts: np.ndarray
    f_rows: np.ndarray
    groups: np.ndarray | None
    voxelwise: dict[int, np.ndarray]

    @property
    def statistics(self):
        """Names in the order of FSL: fstat1 ..., tstat1 ...; --skipTo counts F first."""
        f = [f"fstat{k + 1}" for k in range(len(self.f_rows))]
        t = [] if self.options.fonly else [f"tstat{k + 1}" for k in range(len(self.contrasts))]
        skip = self.options.skipTo
        return (f + t) if skip is None else (f + t)[skip - 1 : skip]

    def contrast(self, name):
        """Rows of the contrast of a statistic."""
        k = int(name[5:]) - 1
        return self.contrasts[[k]] if name[0] == "t" else self.contrasts[self.f_rows[k] != 0]

    def path(self, kind, name):
        """Where FSL wrote something of a statistic, without extension: kind `vox_corrp`, `perm`, `` ..."""
        underscore = "" if self.options.film else "_"
        middle = f"{kind}_" if kind else ""
        return self.folder / f"fsl{underscore}{middle}{name}"

    def shuffles(self, name):
        """FSL's own permutations, (shuffles, subjects)."""
        return read_text(self.path("perm", name).with_suffix(".txt"))

    def image(self, kind, name):
        return flat(read_image(f"{self.path(kind, name)}.nii.gz"), self.mask)

    def null(self, kind, name):
        return read_text(f"{self.path(f'{kind}_corrp', name)}.txt").ravel()


def load_case(folder):
    """One of the reference cases, by its folder."""
    folder = Path(folder)
    options = _parser().parse_args(shlex.split((folder / "command.txt").read_text())[1:])
    data_image = nib.load(folder / options.i)
    images = np.asarray(data_image.dataobj, dtype=float)
    mask = read_image(folder / options.m) > 0 if options.m else automatic_mask(images)
    n = images.shape[-1]
    design = read_vest(folder / options.d) if options.d else np.ones((n, 1))
    columns = zip(options.vxl or [], options.vxf or [])
    return Case(
        folder=folder,
        options=options,
        data=flat(images, mask),
        mask=mask,
        voxel_size=tuple(float(size) for size in data_image.header.get_zooms()[:3]),
        design=design,
        contrasts=read_vest(folder / options.t) if options.t else np.ones((1, 1)),
        f_rows=read_vest(folder / options.f) if options.f else np.zeros((0, 0)),
        groups=read_vest(folder / options.e) if options.e else None,
        voxelwise={int(column) - 1: flat(read_image(folder / name), mask) for column, name in columns},
    )


def automatic_mask(images):
    """Voxels that differ between subjects."""
    return (images != images[..., :1]).any(axis=-1)


def case_maps(case, name, shuffles):
    """t or F of the shuffles, as the options of the case ask."""
    options = {"mode": case.options.U, "demean": case.options.D, "is_f": name[0] == "f"}
    if case.voxelwise:
        model = (case.data, case.design, case.contrast(name), shuffles, case.voxelwise)
        return voxelwise_maps(*model, **options)
    if case.options.v and name[0] == "t":
        options["smooth"] = lambda variance: smooth_variance(variance, case.mask, case.options.v, case.voxel_size)
    return statistic_maps(case.data, case.design, case.contrast(name), shuffles, **options)


def case_tfce(case, name, maps, delta=None):
    """TFCE of t maps, or of the z equivalent of F maps; the first map must be the unpermuted one.

    delta is, unless given, a hundredth of the first map's maximum.
    """
    options = case.options
    H, E, C = (2, 1, 26) if options.T2 else (2, 0.5, 6)
    H, E, C = options.tfce_H or H, options.tfce_E or E, int(options.tfce_C or C)
    if name[0] == "f":
        X, Z = fitted_model(*partition(case.design, case.contrast(name)), options.U)
        df = degrees_of_freedom(np.hstack([X, Z]), options.D)
        maps = F_to_z(maps, np.linalg.matrix_rank(case.contrast(name)), df)
    delta = delta or options.tfce_D or maps[0].max() / 100
    return np.array([tfce(one, case.mask, delta, H, E, C) for one in maps])


def case_voxels_and_clusters(case, name, maps):
    """{kind: maps} of vox, clustere and clusterm, those that a case asks for."""
    options = case.options
    extent_at, mass_at = (options.c, options.C) if name[0] == "t" else (options.F, options.S)
    kinds = {}
    if options.x:
        kinds["vox"] = maps
    if extent_at:
        kinds["clustere"] = np.array([cluster_extent(one, case.mask, extent_at) for one in maps])
    if mass_at:
        kinds["clusterm"] = np.array([cluster_mass(one, case.mask, mass_at) for one in maps])
    return kinds


def case_second_pass(case, maps, kinds):
    """Of --twopass: {kind: maps} of clustern and tfcen, {kind: (sum, samp, post)} of the first pass."""
    first = {"cluster": local_mean(kinds["clustere"]), "tfce": local_mean(kinds["tfce"], floor=True)}
    mean = first["cluster"][2]
    clusters = [cluster_normed_extent(one, case.mask, case.options.c, mean) for one in maps]
    second = {"clustern": np.array(clusters), "tfcen": ratio(kinds["tfce"], first["tfce"][2])}
    return second, first
