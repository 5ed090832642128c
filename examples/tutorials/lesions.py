"""
Lesion–symptom mapping
======================

*Damage of which voxels goes with a low score?* Each image is 1 where a participant has a lesion and 0 elsewhere;
each participant has a score. Two participants have none. The lesions are simulated; damage of the left insula
lowers the score.
"""

# sphinx_gallery_thumbnail_number = 2
import matplotlib.pyplot as plt
import pandas as pd
from cohorts import lesions, picture, shell

folder = lesions()
table = pd.read_csv(folder / "participants.tsv", sep="\t")
table.head()

# %%
# Which voxels can be tested
# --------------------------
#
# A voxel that is damaged in one or two people says nothing. The usual mask has the voxels that are damaged in at
# least five. Look at how many participants that leaves where: lesions follow arteries, and power does too.

import nibabel as nib
import numpy as np

images = [nib.load(path).get_fdata() for path in sorted((folder / "lesions").glob("*.nii.gz"))]
count = np.sum(images, axis=0)
print("voxels damaged in at least one:", int((count > 0).sum()), "- in at least five:", int((count >= 5).sum()))
z = int(np.argmax(count.sum(axis=(0, 1))))
figure, axis = plt.subplots(figsize=(4, 4))
shown = axis.imshow(np.rot90(np.where(count[:, :, z] > 0, count[:, :, z], np.nan)), cmap="viridis")
axis.imshow(np.rot90(nib.load(folder / "anatomy.nii.gz").get_fdata()[:, :, z]), cmap="gray", zorder=-1)
axis.set_axis_off()
figure.colorbar(shown, label="participants with a lesion there")

# %%
# The test
# --------
#
# The lesions are the images, and the score is in the model: where does damage go with a lower score (``-score``)?
# Age is nuisance. ``--missing drop`` leaves out participants without a score, and names them. ``-x`` tests each
# voxel by itself, corrected by the largest statistic of each permutation; lesions are large and of any shape, so
# enhancement by extent says more about arteries than about function.

shell(
    "gpuvox voxelwise participants.tsv --images 'lesions/{participant_id}_lesion.nii.gz' --mask damaged_in_5"
    " --out results/lesions --model 'score + age' --test=-score --missing drop -x --underlay anatomy -n 2000 --seed 1",
    folder,
)
picture(next((folder / "results/lesions/report").glob("*mosaic.png")))

# %%
# Things to know about lesions
# ----------------------------
#
# * **Ties.** Images of 0 and 1 have few distinct statistics, and many permutations tie with the observed one.
#   gpuvox computes ties in double precision and counts them as ties, so that p does not depend on the last bit.
# * **Perfect separation.** A voxel that separates two groups perfectly has an enormous t. With TFCE, ``--tfce_D
#   robust`` keeps such a voxel from determining the step for all others; a warning says when that matters.
# * **Lesion volume.** People with large lesions have more damage everywhere and lower scores. Put the volume into
#   the table and the model, ``--model 'score + age + volume'``, to ask about places rather than amount.
# * **Lesions as missing data.** If the maps are of something else (grey matter, activation) and lesions are where
#   they mean nothing, use ``--vxl=-N`` of ``gpuvox randomise``, which excludes participants voxel by voxel.
