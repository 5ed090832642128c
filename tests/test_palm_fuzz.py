"""``gpuvox palm`` on random small studies, held against refits of every voxel and shuffling.

A study has one or two inputs (images with masks, or tables), one or two designs, t contrasts and F, and random options:
what is shuffled and how, blocks, the regression method, regressors with values for each voxel, variance groups, missing
data, r and R², centred data, corrections over tests, TFCE and clusters. The shufflings are those that the run saved;
all that it wrote of statistics, maxima and p is computed from them by the formulas alone (`palm.naive`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import stats

from gpuvox.cli import main
from tests.palm import naive
from tests.selection import few

SHAPE = (3, 3, 2)
METHODS = ("Freedman-Lane", "Draper-Stoneman", "Manly", "terBraak", "Kennedy", "Dekker", "Still-White", "Huh-Jhun")
TIE = 1e-6
"""Values of z that differ by less are equal."""


@dataclass
class Study:
    """A run: its words, and what its files hold."""

    rng: np.random.Generator
    folder: Path
    n: int
    words: list[str] = field(default_factory=list)
    inputs: list[np.ndarray] = field(default_factory=list)
    masks: list[np.ndarray | None] = field(default_factory=list)
    designs: list[np.ndarray] = field(default_factory=list)
    tests: list[tuple[int, int, np.ndarray, bool]] = field(default_factory=list)
    evs: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    missing: list[np.ndarray] = field(default_factory=list)
    unknown: list[np.ndarray] = field(default_factory=list)
    groups: np.ndarray | None = None
    blocks: np.ndarray | None = None
    made: dict[str, int] = field(default_factory=dict)
    per_input: bool = False
    method: str = "Freedman-Lane"
    partition: str = "Beckmann"

    def __contains__(self, option: str) -> bool:
        return option in self.words

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def table(self, name: str, values: np.ndarray) -> str:
        np.savetxt(self.folder / name, values, delimiter=",", fmt="%.9g")
        return str(self.folder / name)


# -- a random study -------------------------------------------------------------------------------------------------


def random_study(seed: int, folder: Path) -> Study:
    rng = np.random.default_rng(seed)
    study = Study(rng, folder, int(rng.choice([8, 9, 10, 12])))
    is_table = study.chance(0.5)
    study.words += ["-o", str(folder / "o"), "-quiet", "--device", "cpu", "-saveperms", "-savemax", "-savedof"]
    study.words += ["-n", str(rng.choice([1, 7, 12])), "-seed", str(seed)]
    add_designs(study, 2 if study.chance(0.3) else 1)
    add_inputs(study, is_table)
    add_shuffling(study)
    add_model(study, is_table)
    others = [("-saveparametric", 0.3)] * ("-pearson" not in study)
    for option, p in (("-twotail", 0.3), ("-corrcon", 0.4), ("-corrmod", 0.4), ("-zstat", 0.2), *others):
        study.words += [option] * study.chance(p)
    study.words += [["-save1-p"], ["-logp"], []][rng.choice(3, p=[0.15, 0.15, 0.7])]
    study.words += [["-fdr", "BH"], ["-fdr"], []][rng.choice(3, p=[0.15, 0.15, 0.7])]
    if not is_table:
        study.words += ["-T"] * study.chance(0.3)
        study.words += [["-C", "0.8"], ["-C", "0.8", "-Cstat", "mass"], []][rng.choice(3, p=[0.15, 0.15, 0.7])]
    if study.chance(0.15):
        leave_out(study)
    return study


def leave_out(study: Study) -> None:
    """Analyse some of the observations alone; where there are blocks, a block less."""
    kept = np.arange(study.n) > 0 if study.blocks is None else study.blocks != study.blocks[-1]
    study.words += ["-subjidx", study.table("subjects.csv", np.flatnonzero(kept) + 1)]
    study.n = int(kept.sum())
    study.inputs = [data[kept] for data in study.inputs]
    study.designs = [design[kept] for design in study.designs]
    study.evs = {key: values[kept] for key, values in study.evs.items()}
    study.missing = [gone[kept] for gone in study.missing]
    study.unknown = [gone[kept] for gone in study.unknown]
    study.groups = None if study.groups is None else study.groups[kept]
    study.blocks = None if study.blocks is None else study.blocks[kept]


def add_designs(study: Study, count: int) -> None:
    rng, n = study.rng, study.n
    study.per_input = count == 2 and study.chance(0.5)
    group = rng.permutation(np.arange(n) % 2).astype(float)
    for number in range(count):
        kind = rng.choice(["groups", "regression", "mean", "deficient"], p=[0.4, 0.35, 0.1, 0.15])
        x = rng.normal(size=(n, 2)).round(2)
        M, C = {
            "groups": (np.c_[group, 1 - group, x[:, :1]], [[1, -1, 0], [0, 0, 1], [-1, 1, 0]]),
            "regression": (np.c_[np.ones(n), x], [[0, 1, 0], [0, 0, 2], [0, 1, -1]]),
            "mean": (np.c_[np.ones(n), x[:, :1]], [[1, 0], [0, 1]]),
            "deficient": (np.c_[np.ones(n), group, 1 - group, x[:, :1]], [[0, 1, -1, 0], [0, 0, 0, 1]]),
        }[kind]
        C = np.array(C, float)[: rng.integers(1, len(C) + 1)]
        study.designs.append(M)
        study.words += ["-d", study.table(f"design{number}.csv", M), "-t", study.table(f"con{number}.csv", C)]
        study.tests += [(number, c + 1, row[None], True) for c, row in enumerate(C)]
        if len(C) > 1 and study.chance(0.6) and (number == 0 or "-f" in study.words):
            rows = np.ones((1, len(C)))
            rows[0, 2:] = 0
            study.words += ["-f", study.table(f"fcon{number}.csv", rows)]
            study.tests.append((number, len(C) + 1, C[rows[0] > 0], False))


def add_inputs(study: Study, is_table: bool) -> None:
    rng, n = study.rng, study.n
    count = 2 if study.per_input or study.chance(0.4) else 1
    one_mask, given = study.chance(0.4), np.ones(SHAPE, bool)
    study.words += ["-designperinput"] * study.per_input
    for number in range(count):
        shape = (int(rng.integers(2, 6)), 1, 1) if is_table else SHAPE
        data = rng.normal(size=(n, *shape)) * rng.choice([1, 30]) + rng.choice([0, 2, 100])
        if study.chance(0.25):
            data = data.round()
        data = data.astype(np.float32)
        if is_table:
            study.words += ["-i", study.table(f"data{number}.csv", data.reshape(n, -1))]
            study.inputs.append(data.reshape(n, -1).astype(float))
            study.masks.append(None)
            continue
        mask = np.ones(SHAPE, bool)
        if study.chance(0.6) or (one_mask and number):
            mask = rng.random(SHAPE) < 0.8
        if one_mask and number:
            mask = given
        if study.chance(0.3):
            data[:, 1, 1, 1] = 3
        affine = np.diag([2.0, 2, 2, 1])
        nib.save(nib.Nifti1Image(np.moveaxis(data, 0, -1), affine), study.folder / f"data{number}.nii.gz")
        study.words += ["-i", str(study.folder / f"data{number}.nii.gz")]
        if number == 0 or not one_mask:
            nib.save(nib.Nifti1Image(mask.astype(np.uint8), affine), study.folder / f"mask{number}.nii.gz")
            study.words += ["-m", str(study.folder / f"mask{number}.nii.gz")]
        given = mask
        mask = mask & (np.ptp(data, axis=0) > 0)
        study.masks.append(mask)
        study.inputs.append(data[:, mask].astype(float))


def add_shuffling(study: Study) -> None:
    rng, n = study.rng, study.n
    study.words += [[], ["-ise"], ["-ee", "-ise"]][rng.choice(3, p=[0.5, 0.3, 0.2])]
    if any("mean" in word for word in study.words):
        return
    kind = rng.choice(["none", "within", "whole", "both", "tree"], p=[0.5, 0.2, 0.1, 0.1, 0.1])
    size = 2 if n % 2 == 0 else 3
    block = np.repeat(np.arange(n // size), size) * 3 + 2
    study.words += ["-cmcx"] * study.chance(0.1)
    if kind == "none":
        return
    study.blocks = block
    values = np.c_[-np.ones(n), -block, np.arange(n) + 1] if kind == "tree" else block
    if kind == "tree":
        values = np.c_[np.full(n, -1), block, np.arange(n) + 1]
    study.words += ["-eb", study.table("eb.csv", values)]
    study.words += {"whole": ["-whole"], "both": ["-whole", "-within"]}.get(kind, [])


def add_model(study: Study, is_table: bool) -> None:
    """At most one of the models that exclude each other, and the regression method."""
    rng, n = study.rng, study.n
    kind = rng.choice(["method", "evs", "groups", "missing", "pearson"], p=[0.4, 0.25, 0.12, 0.13, 0.1])
    centred = study.chance(0.3)
    if kind == "pearson":
        study.words += ["-pearson"]
    if kind == "groups":
        study.groups = rng.permutation(np.arange(n) % 2) * 4 + 1
        study.words += ["-vg", study.table("vg.csv", study.groups)]
    if kind == "missing":
        add_missing(study, is_table)
    if kind == "evs":
        add_regressors(study, is_table)
    if kind in ("evs", "method") and study.chance(0.8):
        allowed = METHODS if kind == "method" and study.blocks is None and "-ee" not in study else METHODS[:-1]
        study.method = str(rng.choice(allowed))
        study.words += ["-rmethod", study.method]
    if kind == "method" and study.chance(0.3):
        study.partition = "Guttman"
        study.words += ["-pmethodr", "Guttman"]
    if centred:
        study.words += ["-demean"]


def add_regressors(study: Study, is_table: bool) -> None:
    rng, n = study.rng, study.n
    for number, M in enumerate(study.designs):
        if number and study.chance(0.5):
            continue
        for column in ([M.shape[1]] if study.chance(0.5) else [M.shape[1] + 1])[:1]:
            if is_table and len({data.shape[1] for data in study.inputs}) > 1 and not study.per_input:
                return
            shape = study.inputs[number if study.per_input else 0].shape[1:] if is_table else SHAPE
            values = rng.normal(size=(n, *shape)).astype(np.float32)
            if study.chance(0.3):
                values[:, 0] = 1.5
            name = f"ev{number}.csv"
            if is_table:
                path = study.table(name, values)
            else:
                path = str(study.folder / f"ev{number}.nii.gz")
                nib.save(nib.Nifti1Image(np.moveaxis(values, 0, -1), np.diag([2.0, 2, 2, 1])), path)
            study.words += ["-evperdat", path, str(column), str(number + 1)]
            for modality, mask in enumerate(study.masks):
                study.evs[number, modality] = values if mask is None else values[:, mask]
            if column > M.shape[1]:
                widen(study, number)


def widen(study: Study, number: int) -> None:
    """Contrasts of a design with one column more, the last of them of that column."""
    study.designs[number] = np.c_[study.designs[number], np.zeros(study.n)]
    study.tests = [(d, c, np.c_[C, np.zeros(len(C))] if d == number else C, is_t) for d, c, C, is_t in study.tests]
    path = study.folder / f"con{number}.csv"
    C = np.loadtxt(path, delimiter=",", ndmin=2)
    C = np.c_[C, np.zeros(len(C))]
    C[0] = 0
    C[0, -1] = 1
    study.table(path.name, C)
    changed = []
    for d, c, weights, is_t in study.tests:
        if d == number and is_t and c == 1:
            weights = C[:1]
        elif d == number and not is_t:
            weights = C[:2]
        changed.append((d, c, weights, is_t))
    study.tests = changed


def add_missing(study: Study, is_table: bool) -> None:
    rng, n = study.rng, study.n
    for number, data in enumerate(study.inputs):
        gone = rng.random(data.shape if is_table and study.chance(0.6) else (n, 1)) < 0.15
        study.words += ["-imiss", study.table(f"imiss{number}.csv", gone.astype(int))]
        study.missing.append(np.broadcast_to(gone, data.shape))
    study.words += ["-mcar"]
    if study.chance(0.4):
        for number in range(len(study.designs)):
            gone = np.zeros(n, bool)
            gone[rng.choice(n, 1)] = True
            study.unknown.append(gone)
            study.words += ["-dmiss", study.table(f"dmiss{number}.csv", gone.astype(int))]


# -- its statistics, by the formulas --------------------------------------------------------------------------------


def statistics(study: Study, p: np.ndarray, modality: int, test) -> tuple[np.ndarray, np.ndarray]:
    """The statistic and z of every column of data in one shuffling."""
    Y = study.inputs[modality]
    raw, z = np.transpose([one_statistic(study, p, Y[:, v], modality, test, v) for v in range(Y.shape[1])])
    return raw, z


def one_statistic(study, p, y, modality, test, v):
    number, _, C, is_t = test
    M = study.designs[number].copy()
    if (number, modality) in study.evs:
        M[:, -1] = study.evs[number, modality][:, v]
    if study.missing:
        gone = study.missing[modality][:, v]
        unknown = study.unknown[number] if study.unknown else np.zeros(study.n, bool)
        return of_missing(study, p, y, M, C, is_t, gone, unknown)
    if np.ptp(y) == 0:
        return 0.0, 0.0
    demean = "-demean" in study
    if demean:
        y, M = y - y.mean(), M - M.mean(axis=0)
    M = np.where(np.abs(M) < 1e-6 * np.abs(M).max(axis=0, initial=1e-300) * 1e-3, 0, M)
    if np.linalg.matrix_rank(np.vstack([M, C]), tol=1e-6) > np.linalg.matrix_rank(M, tol=1e-6) and is_t:
        return 0.0, 0.0
    X, Z = partitioned(M, C, study.partition)
    df = study.n - np.linalg.matrix_rank(np.c_[X, Z], tol=1e-6) - demean
    if "-pearson" in study:
        Z = np.c_[Z, np.ones(study.n)] if demean else Z
        found = naive.correlation(p, y[:, None], naive.Model(X, Z), is_t)
        return found.raw[0], found.z[0]
    if study.groups is not None:
        Z = np.c_[Z, np.ones(study.n)] if demean else Z
        found = naive.v_or_g(p, y[:, None], naive.Model(X, Z), study.groups, is_t, third=False)
        return found.raw[0], found.z[0]
    return refit(study, p, y, X, Z, contrast_of(X, C, study), df, is_t, demean)


def partitioned(M, C, how):
    if how == "Guttman":
        used = C.any(axis=0)
        return M[:, used], M[:, ~used]
    # X = M C⁺ and Z = M − M C⁺ C span what Beckmann's partition does, for designs of any rank.
    Z = M - M @ np.linalg.pinv(C) @ C
    u, size, _ = np.linalg.svd(Z, full_matrices=False)
    Z = u[:, size > 1e-9 * max(np.abs(M).max(), size[0])]
    return naive.residuals(Z, M @ np.linalg.pinv(C)), Z


def contrast_of(X, C, study):
    return C[:, C.any(axis=0)] if study.partition == "Guttman" else np.eye(X.shape[1])


def refit(study, p, y, X, Z, C, df, is_t, demean):
    """Every method from the table of Winkler et al. 2014; a mean that was removed is nuisance."""
    method, one = study.method, np.ones((study.n, 1))
    Y = y[:, None]
    if method == "Huh-Jhun":
        Q = rotation(np.c_[Z, one] if demean else Z)
        data, A = Q.T @ Y, naive.moved(p, Q.T @ X)
    else:
        if demean:
            Z = np.c_[Z, one]
        if method == "Kennedy":
            data, A = naive.residuals(Z, Y), naive.moved(p, naive.residuals(Z, X))
        else:
            data, moved, rest = naive.permuted(p, Y, naive.Model(X, Z), method)
            A = np.c_[moved, rest]
        if demean and method in ("Kennedy", "Still-White"):
            A = np.c_[A, naive.moved(p, one)]
    weights = np.c_[C, np.zeros((len(C), A.shape[1] - C.shape[1]))]
    return fitted(data, A, weights, df, is_t)


def fitted(data, A, C, df, is_t):
    scale = np.abs(A).max(axis=0)
    is_rounding = scale < 1e-7 * scale.max()
    scale = np.where(is_rounding, 1, scale)
    A, C = np.where(is_rounding, 0, A) / scale, C / scale
    inverse = np.linalg.pinv(A, rcond=1e-7)
    b = inverse @ data
    b = np.where(
        np.abs(b) < 1e-12 * np.abs(b).max(initial=0), 0, b
    )  # 0 / 0 is no statistic, not rounding over rounding
    variance = ((data - A @ b) ** 2).sum() / df
    covariance = C @ inverse @ inverse.T @ C.T
    effect = (C @ b)[:, 0]
    if is_t:
        t = effect[0] / np.sqrt(variance * covariance[0, 0]) if covariance[0, 0] > 1e-12 else 0.0
        return t, float(naive.t_to_z(np.array(t), df))
    rank = np.linalg.matrix_rank(covariance, tol=1e-8)
    if not rank:
        return 0.0, 0.0
    f = effect @ np.linalg.pinv(covariance, rcond=1e-8) @ effect / rank / variance
    return f, float(naive.f_to_z(np.array(f), rank, df))


def rotation(Z):
    """Columns of the matrix that forms residuals, made orthonormal in order."""
    R = np.eye(len(Z)) - Z @ np.linalg.pinv(Z)
    columns = []
    for column in R.T:
        for _ in range(2):
            for other in columns:
                column = column - other * (other @ column)
        if np.linalg.norm(column) > 1e-7:
            columns.append(column / np.linalg.norm(column))
    return np.array(columns).T


def of_missing(study, p, y, M, C, is_t, gone, unknown):
    """The whole model is shuffled, then rows without datum, or with an unknown row of the model, are dropped."""
    M = np.where(unknown[:, None], 0.0, M)
    if np.linalg.matrix_rank(np.c_[M, ~unknown]) > np.linalg.matrix_rank(M):
        M, C = np.c_[M, ~unknown], np.c_[C, np.zeros(len(C))]
    here = ~gone & ~unknown
    X, Z = partitioned(M, C, "Beckmann")
    stays = here & ~unknown[np.abs(p) - 1]
    rest = np.zeros((study.n, 1))
    rest[here] = naive.residuals(Z[here], y[here][:, None])
    A = naive.moved(p, np.c_[X, Z])[stays]
    rank, rank_here = np.linalg.matrix_rank(A, tol=1e-7), np.linalg.matrix_rank(np.c_[X, Z][here], tol=1e-7)
    s = X.shape[1]
    lost = rank - np.linalg.matrix_rank(A[:, s:], tol=1e-7) < np.linalg.matrix_rank(
        X
    ) or rank_here - np.linalg.matrix_rank(Z[here], tol=1e-7) < np.linalg.matrix_rank(X)
    if lost or stays.sum() <= rank or here.sum() <= rank_here or np.ptp(y[here]) == 0:
        return 0.0, 0.0
    return fitted(rest[stays], A, np.eye(s, A.shape[1]), stays.sum() - rank, is_t)


# -- what is written ------------------------------------------------------------------------------------------------


def read(study: Study, modality: int, name: str) -> np.ndarray:
    mask = study.masks[modality]
    if mask is None:
        return np.loadtxt(study.folder / f"o_{name}.csv", delimiter=",", ndmin=1)
    return np.asanyarray(nib.load(study.folder / f"o_{name}.nii.gz").dataobj).reshape(SHAPE)[mask]


def as_p(study: Study, p: np.ndarray) -> np.ndarray:
    return 1 - p if "-save1-p" in study else -np.log10(p) if "-logp" in study else p


def spatial(study: Study, z: np.ndarray, mask) -> dict[str, np.ndarray]:
    maps = {}
    if "-T" in study:
        maps["tfce"] = naive.tfce(z, mask)
    if "-C" in study:
        mass = "mass" in study.words
        maps["clusterm" if mass else "clustere"] = naive.clusters(z, mask, 0.8, mass)
    return maps


def kind_of(study: Study, is_t: bool) -> str:
    mixed = "-corrcon" in study and len({each[3] for each in study.tests}) > 1
    name = "r" if "-pearson" in study else "v" if study.groups is not None else "t"
    other = {"r": "rsq", "v": "g", "t": "f"}[name]
    return ("z" if mixed or "-zstat" in study else "") + (name if is_t else other) + "stat"


def check(study: Study) -> None:
    several = len(study.inputs) > 1
    unit = "dat" if study.masks[0] is None else "vox"
    found = {}
    for modality in range(len(study.inputs)):
        for test in study.tests:
            number, c = test[:2]
            if study.per_input and number != modality:
                continue
            suffix = (f"_d{number + 1}" if len(study.designs) > 1 else "") + (
                f"_c{c}" if max(each[1] for each in study.tests) > 1 else ""
            )
            path = study.folder / f"o{suffix}_permidx.csv"
            shufflings = np.loadtxt(path, delimiter=",", dtype=int, ndmin=2)
            check_shufflings(study, shufflings)
            last = (f"_m{modality + 1}" if several else "") + suffix
            study.made[last] = len(shufflings)
            found[modality, number, c] = last, check_test(study, modality, test, unit, last, shufflings)
    check_families(study, found)


def check_shufflings(study: Study, rows: np.ndarray) -> None:
    n = rows.shape[1]
    np.testing.assert_array_equal(rows[0], np.arange(1, n + 1))
    assert (np.sort(np.abs(rows), axis=1) == np.arange(1, n + 1)).all()
    assert (rows > 0).all() or "-ise" in study
    assert len(np.unique(rows, axis=0)) == len(rows)
    if study.blocks is not None and "-whole" not in study:
        assert (study.blocks[np.abs(rows) - 1] == study.blocks).all()


def check_test(study, modality, test, unit, last, shufflings):
    is_t, kind = test[3], kind_of(study, test[3])
    all_z = []
    for i, p in enumerate(shufflings):
        raw, z = statistics(study, p, modality, test)
        shown = z if kind.startswith("z") else raw
        written = read(study, modality, f"{unit}_{kind}{last}_perm{i + 1:06d}")
        sensible = np.abs(shown) < 1e5
        np.testing.assert_allclose(
            written[sensible], shown[sensible], rtol=2e-5, atol=7e-5, err_msg=f"{test} shuffling {i}"
        )
        all_z.append(np.abs(z) if "-twotail" in study and is_t else z)
    nulls = {unit: np.array(all_z)}
    for z in all_z if study.masks[modality] is not None else ():
        for name, values in spatial(study, z, study.masks[modality]).items():
            nulls.setdefault(name, []).append(values)
    for name, null in nulls.items():
        nulls[name] = null = np.array(null)
        maxima = np.loadtxt(study.folder / f"o_{name}_{kind}_max{last}.csv", ndmin=1)
        np.testing.assert_allclose(maxima, null.max(axis=1), rtol=1e-4, atol=1e-4)
        if not name.startswith("cluster"):
            compare_p(study, modality, f"{name}_{kind}_uncp{last}", null, null[0])
            compare_rate(study, [modality], f"{name}_{kind}", "", [last])
        compare_p(study, modality, f"{name}_{kind}_fwep{last}", null.max(axis=1)[:, None], null[0])
    if "-saveparametric" in study:
        z = all_z[0]
        p = 2 * stats.norm.sf(z) if "-twotail" in study and is_t else stats.norm.sf(z)
        written = read(study, modality, f"{unit}_{kind}_uncparap{last}")
        np.testing.assert_allclose(written, as_p(study, p), rtol=1e-4, atol=1e-4)
    return kind, nulls


def compare_rate(study, modalities, name, prefix, lasts):
    """The false discovery rate of the p that were written, of one or several maps together."""
    if "-fdr" not in study:
        return
    written = [read(study, m, f"{name}_uncp{last}") for m, last in zip(modalities, lasts, strict=True)]
    p = np.concatenate(written)
    p = 1 - p if "-save1-p" in study else 10.0**-p if "-logp" in study else p
    made = np.concatenate([np.full(len(w), study.made[last]) for w, last in zip(written, lasts, strict=True)])
    p = np.round(p * made) / made  # tables have four decimals
    expected = as_p(study, (naive.bh if "BH" in study else naive.bky)(p))
    found = [read(study, m, f"{name}_{prefix}fdrp{last}") for m, last in zip(modalities, lasts, strict=True)]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-4)


def compare_p(study, modality, name, null, observed):
    """Between the p of values that are clearly as large, and of those that may be."""
    slack = 1e-5 * np.maximum(np.abs(observed), 1)
    least = np.mean(null >= observed + slack, axis=0)
    most = np.mean(null >= observed - slack, axis=0)
    written = read(study, modality, name)
    low, high = sorted((as_p(study, np.maximum(least, 1 / len(null))), as_p(study, most)), key=lambda p: p.sum())
    assert (written >= low - 6e-5).all(), name
    assert (written <= high + 6e-5).all(), name


def check_families(study: Study, found) -> None:
    over_c, over_m = "-corrcon" in study, "-corrmod" in study
    for prefix, contrasts, modalities in (("c", 1, 0), ("m", 0, 1), ("mc", 1, 1)):
        if (contrasts and not over_c) or (modalities and not over_m):
            continue
        families: dict[tuple, list] = {}
        for key in found:
            modality, number, c = key
            place = (0 if study.per_input else number, c)
            families.setdefault((modality * (not modalities), place if not contrasts else 0), []).append(key)
        for family in families.values():
            kinds = {found[key][1][0] for key in family}
            for unit in found[family[0]][1][1]:
                if len(kinds) == 1 and not unit.startswith("cluster"):
                    lasts, modality = [found[key][0] for key in family], [key[0] for key in family]
                    compare_rate(study, modality, f"{unit}_{kinds.copy().pop()}", prefix, lasts)
                null = np.max([found[key][1][1][unit].max(axis=1) for key in family], axis=0)
                for key in family:
                    last, (kind, nulls) = found[key]
                    compare_p(study, key[0], f"{unit}_{kind}_{prefix}fwep{last}", null[:, None], nulls[unit][0])


@pytest.mark.parametrize("seed", few(range(120), 4))
def test_random_runs(seed, tmp_path, capsys):
    study = random_study(seed, tmp_path)
    status = main(["palm", *study.words])
    said = capsys.readouterr().err
    if status:
        assert status == 2, said
        assert said.splitlines()[-1].startswith("gpuvox palm: "), said
        assert not list(tmp_path.glob("o_*")), said
    else:
        check(study)
