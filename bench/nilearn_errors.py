"""Family-wise errors of nilearn's permutation tests and of gpuvox.nilearn under the null hypothesis.

python bench/nilearn_errors.py [REPETITIONS]

Each repetition draws data for which the tested contrast is exactly 0, and counts whether any voxel has p ≤ 0.05,
corrected. The expected share is 0.05.
"""

from __future__ import annotations

import sys
import warnings

import nibabel as nib
import numpy as np
import pandas as pd
from nilearn.glm.contrasts import expression_to_contrast_vector
from nilearn.mass_univariate import permuted_ols

from gpuvox.nilearn import non_parametric_inference

SHAPE = (6, 6, 6)
N_PERM = 99


def equal_slopes(rng):
    """Two covariates of the same slope, one with three times the spread of the other: b − a."""
    design = pd.DataFrame({"a": rng.normal(size=30), "b": 3 * rng.normal(size=30)})
    return design, "b - a", (design.a + design.b).to_numpy(), rng.normal(size=(30, *SHAPE))


def three_groups(rng):
    """The mean of A is midway between those of B (3 participants) and C (17): A − (B + C)/2."""
    group = np.repeat(["A", "B", "C"], (10, 3, 17))
    design = pd.DataFrame({name: (group == name).astype(float) for name in "ABC"})
    return (
        design,
        "A - 0.5 * B - 0.5 * C",
        2 * design.C.to_numpy() - 2 * design.B.to_numpy(),
        rng.normal(size=(30, *SHAPE)),
    )


def skewed(rng):
    """Groups of 6 and 24, and a constant in the design, with skewed errors: one weight."""
    group = np.repeat([1.0, 0], (6, 24))
    design = pd.DataFrame({"group": group, "intercept": 1.0})
    return design, "group", np.zeros(30), rng.exponential(size=(30, *SHAPE))


def plain(rng):
    """Two groups without a constant in the design, normal errors: one weight."""
    design = pd.DataFrame({"group": np.repeat([1.0, 0], 15)})
    return design, "group", np.zeros(30), rng.normal(size=(30, *SHAPE))


def by_nilearn(design, contrast, values, seed):
    """What nilearn's non_parametric_inference asks of its permuted_ols: columns without a weight are confounds."""
    weights = expression_to_contrast_vector(contrast, list(design.columns))
    confounds = design.loc[:, weights == 0].to_numpy()
    found = permuted_ols(
        design.to_numpy() @ weights, values, confounds if confounds.size else None, n_perm=N_PERM,
        two_sided_test=False, random_state=seed,
    )  # fmt: skip
    return found["logp_max_t"].max()


def by_gpuvox(design, contrast, values, seed):
    image = nib.Nifti1Image(np.moveaxis(values.reshape(len(values), *SHAPE), 0, -1), np.eye(4))
    log_p = non_parametric_inference(
        image, design_matrix=design, second_level_contrast=contrast, n_perm=N_PERM, random_state=seed
    )
    return log_p.get_fdata().max()


def rejects(function, scenario, seed):
    design, contrast, mean, noise = scenario(np.random.default_rng(seed))
    values = (noise + mean[:, None, None, None]).reshape(len(noise), -1)
    return float(function(design, contrast, values, seed)) >= -np.log10(0.05) - 1e-9


def main(repetitions: int) -> None:
    warnings.simplefilter("ignore")
    for scenario in (plain, equal_slopes, three_groups, skewed):
        shares = [
            np.mean([rejects(function, scenario, seed) for seed in range(repetitions)])
            for function in (by_nilearn, by_gpuvox)
        ]
        title = " ".join(scenario.__doc__.split())
        print(f"nilearn {shares[0]:.3f}  gpuvox {shares[1]:.3f}  {title}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
