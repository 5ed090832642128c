"""
TBSS: skeletons with the commands that you have
===============================================

*Is fractional anisotropy lower in patients?* ``tbss_4_prestats`` left two files: ``all_FA_skeletonised``, a 4D
image with one volume for each participant, and ``mean_FA_skeleton_mask``. The scripts that follow can stay as they
are. The FA here is simulated, and lower in the corpus callosum of patients.
"""

# sphinx_gallery_thumbnail_number = 1
from cohorts import picture, shell, tbss

folder = tbss()

# %%
# The design from the table
# -------------------------
#
# ``gpuvox design`` writes ``design.mat`` and ``design.con`` from the table of participants. It also writes which
# participant each row is. If the volumes are known too (a table ``all_FA_skeletonised.tsv`` beside the image lists
# them, in order), a design whose rows are in another order is refused.

shell(
    "gpuvox design --table participants.tsv --group group --order HC,MS --covariates age,sex --out design", folder
)
print((folder / "design.txt").read_text())

# %%
# randomise, as before
# --------------------
#
# ``gpuvox-randomise`` has the options, defaults and file names of FSL's ``randomise``. With
# ``alias randomise=gpuvox-randomise`` a script need not be changed. ``--T2`` is the TFCE for skeletons.

shell(
    "gpuvox randomise -i all_FA_skeletonised -o tbss -m mean_FA_skeleton_mask -d design.mat -t design.con"
    " -n 2000 --T2 --seed 1",
    folder,
)
print(*sorted(path.name for path in folder.glob("tbss*")), sep="\n")

# %%
# ``tbss_tfce_corrp_tstat1`` holds 1 − p, as in FSL: 0.95 and above is significant. Contrast 1 is ``HC > MS``.
#
# A report of any run
# -------------------
#
# ``gpuvox report`` takes an output root, of gpuvox's runs or of FSL's, and shows what there is.

shell("gpuvox report tbss --underlay anatomy", folder)
picture(next((folder / "tbss_report").glob("*mosaic.png")))

# %%
# Where the same test would be one command
# ----------------------------------------
#
# ``gpuvox voxelwise`` joins the volumes with the table by participant, and makes the same design. The maps are the
# same, bit for bit.

shell(
    "gpuvox voxelwise participants.tsv --images all_FA_skeletonised.nii.gz --mask mean_FA_skeleton_mask --T2"
    " --out results --model 'group + age + sex' --test 'HC - MS' --test 'MS - HC' -n 2000 --seed 1 --fsl-names"
    " --no-report --quiet",
    folder,
)

import nibabel as nib
import numpy as np

name = "tfce_corrp_tstat1.nii.gz"
theirs, ours = (nib.load(folder / root).get_fdata() for root in (f"tbss_{name}", f"results/randomise/t_{name}"))
print("the same map:", np.array_equal(theirs, ours), "- voxels with p < 0.05:", int((ours > 0.95).sum()))
