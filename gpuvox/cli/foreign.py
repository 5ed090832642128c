"""Options of PALM and of other programs: what does the same here, or that it is not there."""

from __future__ import annotations

PALM = {
    "twotail": "tests are one-sided here, as FSL's: give each contrast and its negative (the second costs next to "
    "nothing), and test each at half the level",
    "fdr": "there is no false discovery rate yet: --uncorrp writes uncorrected p (as 1-p), which FSL's fdr takes "
    "with --oneminusp",
    "logp": "maps of p hold 1-p here, as FSL's; -log10(1 - value) is what PALM's -logp writes",
    "save1-p": "maps of p always hold 1-p here; leave it out",
    "corrcon": "p is corrected within each contrast here; an F test (-f) tests several contrasts at once, and "
    "Bonferroni corrects over them",
    "corrmod": "one run tests one modality here; correct over runs by Bonferroni",
    "npc": "nonparametric combination is not there yet",
    "npcmod": "nonparametric combination is not there yet",
    "npccon": "nonparametric combination is not there yet; an F test (-f) tests several contrasts at once",
    "concordant": "nonparametric combination is not there yet",
    "mv": "multivariate tests are not there yet",
    "con": "multivariate tests are not there yet; -t takes t contrasts",
    "inputmv": "multivariate tests are not there yet",
    "cca": "canonical correlation is not there yet",
    "pls": "partial least squares is not there yet",
    "ise": "-1 flips signs here; permutations and flips at once are not there yet",
    "ee": "rows are permuted here unless -1 is given; leave it out",
    "eb": "-e FILE takes exchangeability blocks here, one column of numbers from 1",
    "within": "-e FILE permutes within blocks here; leave it out",
    "whole": "--permuteBlocks, with -e FILE, permutes whole blocks here",
    "vg": "variance groups are not there yet: all rows are taken to have the same variance",
    "cmcx": "rows that are alike count as interchangeable here, always",
    "cmcp": "random permutations do not repeat here, always",
    "rmethod": "-U MODE chooses how nuisance is treated here: 0 Kennedy, 1 Freedman-Lane, 2 none, 3 ter Braak",
    "pmethodr": "designs are always partitioned as Beckmann et al. do, PALM's default; leave it out",
    "pmethodp": "designs are always partitioned as Beckmann et al. do, PALM's default; leave it out",
    "pearson": "correlations are not there yet; t and F are",
    "demean": "-D removes the mean of data and design here",
    "evperdat": "--vxl COLUMN and --vxf IMAGE replace a column of the design at each voxel here",
    "saveglm": "--glm_output writes parameter estimates, contrasts and variances here",
    "designperinput": "one run tests one design on one image here",
    "accel": "accelerations are not there yet; all permutations are done, and many at once",
    "imiss": "missing data are not there yet",
    "dmiss": "missing data are not there yet",
    "mcar": "missing data are not there yet",
    "noniiclass": "leave it out",
    "saveperms": "-P writes the permutations here",
    "savemax": "-N writes the maxima of all permutations here",
    "zstat": "maps are t and F here",
    "s": "surfaces are not there yet",
    "tfce2D": "--T2 is TFCE for two-dimensional data here",
    "tfce2d": "--T2 is TFCE for two-dimensional data here",
    "tfce1D": "-T, with --tfce_H=2 --tfce_E=2 --tfce_C=6, does the same here",
    "tfce1d": "-T, with --tfce_H=2 --tfce_E=2 --tfce_C=6, does the same here",
    "tfce_dh": "--tfce_D sets the step of TFCE here",
    "Cstat": "-c T tests the extent of clusters here, and -C T their mass",
}
OTHERS = {
    "tfce": "-T is TFCE here",
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
    "gpu": "--device cuda runs on a GPU, which --device auto, the default, does wherever one is found",
    "cuda": "--device cuda runs on a GPU, which --device auto, the default, does wherever one is found",
    "input": "-i IMAGE names the data",
    "data": "-i IMAGE names the data",
    "output": "-o ROOT is the output root",
    "out": "-o ROOT is the output root",
    "mask": "-m IMAGE names the mask",
    "design": "-d FILE names the design",
    "contrasts": "-t FILE names the t contrasts",
}


def remedy(option: str) -> str:
    """What to do in place of an option of another program; empty if it is none that we know.

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
