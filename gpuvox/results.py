"""A finished permutation test → its maps, null distributions and warnings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpuvox.executors import Finished
from gpuvox.glm import Nuisance, f_to_z
from gpuvox.permtest import ObservedTest
from gpuvox.prepared import Options, Test
from gpuvox.pvalues import corrected, critical_value, shares
from gpuvox.shuffle import ImportedShuffler, Shuffler
from gpuvox.tally import Maps, Tally
from gpuvox.tfce import robust_peak, step_size
from gpuvox.voxelwise_evs import VoxelwiseGlm


@dataclass(frozen=True, eq=False)
class TestResult:
    """All that came of one contrast.

    Attributes
    ----------
    test : Test
    df : int
        Residual degrees of freedom.
    f_dfs : (int, int) or None
        Degrees of freedom of an F.
    maps : dict of (V,) float32
        ``stat``; ``vox_corrp``, ``tfce_corrp``, ``clustere_corrp``, ``clusterm_corrp`` (1 − p, family-wise
        error corrected); ``vox_p`` … (1 − p, uncorrected); ``tfce``, ``clustere``, ``clusterm`` (unshuffled
        values); with the two-pass scheme ``clustern_corrp``, ``tfcen_corrp`` and the images of the local means.
    nulls : dict of (N,) arrays
        Maximum of every shuffle, shuffle 0 unshuffled.
    shuffler : Shuffler
    seconds : float
        Wall time; 0 for a contrast that shared the maps of its negative.
    warnings : tuple of str
    tfce_step : float
        Step of TFCE; 0 without, where the sign is blank, and for the exact integral.
    """

    test: Test
    df: int
    f_dfs: tuple[int, int] | None
    maps: dict[str, NDArray]
    nulls: dict[str, NDArray]
    shuffler: Shuffler | ImportedShuffler
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    tfce_step: float = 0.0

    def critical(self, kind: str, level: float = 0.05) -> float:
        """Value that a statistic must exceed at a family-wise error rate."""
        return critical_value(self.nulls[kind], level)


def make_result(test: Test, finished: Finished, row: int, seconds: float, options: Options) -> TestResult:
    """All that came of one contrast, or (row 1) of its negative, whose maps were made with it."""
    observed, model = finished.observed, finished.observed.test.model
    sign = (1, -1)[row]
    maps: dict[str, NDArray] = {"stat": sign * observed.statistic}
    nulls: dict[str, NDArray] = {}
    for part, tally in ((observed, finished.tally), (finished.second, finished.second_tally)):
        if part is not None and tally is not None and tally.n:
            _add_values(maps, nulls, part, tally, row)
    if finished.second is not None:
        for kind, (total, nonzero) in observed.sums(finished.tally).items():
            name = {"clustere": "clusternorm", "tfce": "tfcenorm"}[kind]
            maps[f"{name}_sum"], maps[f"{name}_samp"] = total[row], nonzero[row]
            maps[f"{name}_post"] = finished.second.local_mean[kind][row]
    shuffler = observed.test.shuffler
    return TestResult(
        test, model.df, model.f_dfs, {k: np.asarray(v, dtype=np.float32) for k, v in maps.items()}, nulls,
        shuffler, seconds, tuple(_warnings(test, observed, row, options, tally=finished.tally)),
        _step(observed, row),
    )  # fmt: skip


def _add_values(maps: Maps, nulls: Maps, part: ObservedTest, tally: Tally, row: int) -> None:
    """Corrected and uncorrected values, unshuffled maps and null distributions of one sign."""
    sign = (1, -1)[row]
    for kind in part.kinds:
        signed = sign * part.observed[kind][0]
        values = signed if kind == "vox" else np.maximum(signed, 0)
        null = tally.maxima[kind][row]
        maps[f"{kind}_corrp"] = corrected(null, part.least_tie(kind, values))
        if kind in tally.below:
            maps[f"{kind}_p"] = shares(tally.below[kind][row], tally.n)
        nulls[kind] = part.in_units(kind, null, row)
        if kind != "vox":
            maps[kind] = part.in_units(kind, values, row)


def _step(observed: ObservedTest, row: int) -> float:
    enhancer = observed.enhancer
    return 0.0 if enhancer is None or enhancer.options.exact else float(enhancer.deltas[row] or 0)


def _coarse_step(test: Test, observed: ObservedTest, row: int) -> Iterator[str]:
    """A maximum so large that a hundredth of it is too coarse a step of TFCE for the other voxels."""
    step, tfce, model = _step(observed, row), observed.test.statistics.tfce, observed.test.model
    if not step or tfce is None or tfce.delta is not None:
        return
    seen = observed.statistic * np.float32((1, -1)[row])
    if model.f_dfs is not None:
        seen = f_to_z(seen, *model.f_dfs)
    robust = step_size(robust_peak(seen), replace(tfce, delta="robust"))
    lost = int(((seen > robust) & (seen <= step)).sum())
    if step < 2 * robust or not lost:
        return
    at = int(np.argmax(seen))
    grid = observed.test.grid
    voxel = ", ".join(str(int(i)) for i in np.unravel_index(grid.index[at], grid.shape, order="F"))
    yield (
        f"{test.title}: the largest {'z of F' if test.is_f else 't'} is {seen[at]:.6g}, at voxel ({voxel}), and the "
        f"step of TFCE, a hundredth of it as in FSL, {step:.3g}: TFCE is 0 in {lost} voxels of the mask that have "
        f"{'z' if test.is_f else 't'} up to that step, but more than {robust:.3g}, the step that does not follow a few "
        f"outlying voxels; --tfce_D robust takes that step, --tfce_D a step of your own, --tfce-exact none"
    )


def _warnings(test: Test, observed: ObservedTest, row: int, options: Options, tally: Tally) -> Iterator[str]:
    """What the user should know of this test."""
    shuffler = observed.test.shuffler
    if test.is_f and observed.test.model.f_dfs is not None:
        rank = observed.test.model.f_dfs[0]
        if rank < len(test.contrast):
            yield (
                f"{test.title}: its {len(test.contrast)} contrasts are of rank {rank}; the F is divided by the "
                "rank, and tested as such (FSL divides by the number of contrasts)"
            )
    if options.nuisance == Nuisance.TER_BRAAK:
        yield (
            f"{test.title}: with -U 3 the unshuffled map is that of the full model's residuals, as in FSL, and so "
            "zero: nothing can be significant"
        )
    model = observed.test.model
    if isinstance(model, VoxelwiseGlm) and model.n_without_df:
        yield (
            f"{test.title}: no degrees of freedom are left at {model.n_without_df} of {model.n_voxels} voxels; "
            "their statistic is 0"
        )
    if observed.enhancer is not None and not (observed.statistic * (1, -1)[row] > 0).any():
        yield f"{test.title}: the statistic has no positive value; its TFCE images are blank"
    yield from _coarse_step(test, observed, row)
    if tally.n and shuffler.n < 20:
        kind = "sign-flips" if shuffler.flips else "permutations"
        count = (
            f"there are only {shuffler.n} distinct {kind}"
            if shuffler.exhaustive
            else f"only {shuffler.n} {kind} are done"
        )
        yield (
            f"{test.title}: {count}: no p-value can be under {1 / shuffler.n:.3g}, so nothing can reach p < 0.05"
        )
