"""Options of PALM and of other programs: what does the same in gpuvox, or that it is not supported."""

from __future__ import annotations

PALM = {
    "twotail": "--two-sided tests both directions of t; unlike in PALM, positive and negative voxels never join "
    "into one cluster",
    "fdr": "gpuvox palm -fdr, and gpuvox voxelwise --fdr-adaptive or --fdr, control the false discovery rate",
    "logp": "p-value maps contain 1-p, as in FSL; PALM's -logp is -log10(1 - value)",
    "save1-p": "p-value maps always contain 1-p; omit this option",
    "corrcon": "p is corrected within each contrast; gpuvox voxelwise --across-tests corrects over all of them, and an "
    "F test (-f) tests several contrasts together",
    "corrmod": "one run tests one modality; gpuvox palm -corrmod and gpuvox voxelwise --across-tests "
    "correct over several",
    "npc": "nonparametric combination is not supported yet",
    "npcmod": "nonparametric combination is not supported yet",
    "npccon": "nonparametric combination is not supported yet; an F test (-f) tests several contrasts together",
    "concordant": "nonparametric combination is not supported yet",
    "mv": "multivariate tests are not supported yet",
    "con": "multivariate tests are not supported yet; -t FILE gives the t contrasts",
    "inputmv": "multivariate tests are not supported yet",
    "cca": "canonical correlation is not supported yet",
    "pls": "partial least squares is not supported yet",
    "eb": "-e FILE gives the exchangeability blocks, one column of numbers from 1",
    "within": "-e FILE permutes within blocks; omit this option",
    "whole": "--permuteBlocks, with -e FILE, permutes whole blocks",
    "vg": "gpuvox palm -vg has variance groups; here all rows are assumed to have the same variance",
    "rmethod": "-U MODE chooses how nuisance variables are treated: 0 Kennedy, 1 Freedman-Lane, 2 none, 3 ter Braak",
    "pmethodr": "designs are always partitioned by the method of Beckmann et al., PALM's default; omit this option",
    "pmethodp": "designs are always partitioned by the method of Beckmann et al., PALM's default; omit this option",
    "pearson": "gpuvox palm -pearson tests correlations; t and F are tested here",
    "demean": "-D removes the mean from data and design",
    "evperdat": "--vxl COLUMN and --vxf IMAGE replace a column of the design at each voxel",
    "saveglm": "--glm_output writes parameter estimates, contrasts and variances",
    "designperinput": "one run tests one design on one image",
    "accel": "--tail approximates p by a generalised Pareto or gamma law; gpuvox palm -accel has further methods",
    "imiss": "gpuvox palm -imiss takes missing data",
    "dmiss": "gpuvox palm -dmiss takes missing data",
    "mcar": "gpuvox palm -mcar takes missing data",
    "noniiclass": "omit this option",
    "saveperms": "-P writes the permutations",
    "savemax": "-N writes the maxima of all permutations",
    "zstat": "maps are of t and F",
    "s": "surfaces are not supported yet",
    "tfce2D": "--T2 is TFCE for two-dimensional data",
    "tfce2d": "--T2 is TFCE for two-dimensional data",
    "tfce1D": "-T, with --tfce_H=2 --tfce_E=2 --tfce_C=6, does the same",
    "tfce1d": "-T, with --tfce_H=2 --tfce_E=2 --tfce_C=6, does the same",
    "tfce_dh": "--tfce_D sets the step of TFCE",
    "Cstat": "-c T tests the extent of clusters, and -C T their mass",
}
OTHERS = {
    "tfce": "-T is TFCE",
    "nperm": "-n N is the number of permutations",
    "n_perm": "-n N is the number of permutations",
    "num_permutations": "-n N is the number of permutations",
    "n_permutations": "-n N is the number of permutations",
    "iterations": "-n N is the number of permutations",
    "n_jobs": "--threads N limits the threads; all processors are used by default",
    "jobs": "--threads N limits the threads; all processors are used by default",
    "nthreads": "--threads N limits the threads; all processors are used by default",
    "random_state": "--seed N is the seed",
    "two_sided_test": PALM["twotail"],
    "two_sided": PALM["twotail"],
    "threshold": "-c T is the cluster-forming threshold for extent, -C T for mass",
    "gpu": "--device cuda runs on a GPU; the default, --device auto, also does if there is one",
    "cuda": "--device cuda runs on a GPU; the default, --device auto, also does if there is one",
    "input": "-i IMAGE names the data",
    "data": "-i IMAGE names the data",
    "output": "-o ROOT is the output root",
    "out": "-o ROOT is the output root",
    "mask": "-m IMAGE names the mask",
    "design": "-d FILE names the design",
    "contrasts": "-t FILE names the t contrasts",
}


def remedy(option: str) -> str:
    """What to use instead of an option of another program; empty if the option is unknown.

    Parameters
    ----------
    option : str
        With its dashes, without a value.
    """
    name = option.lstrip("-")
    if name in PALM:
        return f"{option} is an option of PALM; {PALM[name]}"
    other = OTHERS.get(name.replace("-", "_").lower(), "")
    return f"there is no option {option}; {other}" if other else ""
