"""
Voxel-based morphometry: two groups and covariates
==================================================

*Do patients have less grey matter than controls, and where?* You have one map of grey matter for each participant,
already in a common space and smoothed, and a table of the participants. The maps here are simulated: 40
participants, patients with less grey matter in both thalami, and everybody with less in the hippocampi the older
they are.
"""

# sphinx_gallery_thumbnail_number = 1
import pandas as pd
from cohorts import picture, shell, vbm

folder = vbm()
pd.read_csv(folder / "participants.tsv", sep="\t").head()

# %%
# The images are called ``vbm/sub-01_probseg.nii.gz`` and so on. A template says how they belong to the rows of the
# table: ``{participant_id}`` stands for the cell of that column, so that no image is ever joined by its place in a
# list.
#
# One command
# -----------
#
# The model is a formula. ``group`` is text, so it becomes one column for each group; age, sex and intracranial
# volume are nuisance. The tests are named by the levels of the table: ``HC - MS`` asks where controls have more
# than patients. A t test looks into one direction, so the other direction is a second test. It costs nearly
# nothing.

shell(
    "gpuvox voxelwise participants.tsv --images 'vbm/{participant_id}_probseg.nii.gz' --mask gm --out results/vbm"
    " --model 'group + age + sex + tiv' --test 'HC - MS' --test 'MS - HC' --underlay anatomy -n 2000 --seed 1",
    folder,
)

# %%
# The command says what it is going to test *before* it runs: the model with its columns, each test as a sentence
# and as weights, and what is permuted. Read that part. Then it says what it found.
#
# Pictures and values
# -------------------
#
# The folder has a report (``report.html``), and beside it all tables and figures as files. Slices through the
# clusters: colour is t, and it is opaque where the corrected p is below 0.05.

picture(folder / "results/vbm/report/HCMinusMS_and_MSMinusHC_mosaic.png")

# %%
# The participants' values in the cluster, adjusted for age, sex and intracranial volume. They show whether a few
# people make the effect. Its size is overestimated, because the cluster was chosen for its difference.

picture(folder / "results/vbm/report/HCMinusMS_values.png")

# %%
pd.read_csv(folder / "results/vbm/report/HCMinusMS_clusters.tsv", sep="\t").T

# %%
# Did the model contain what it should?
# -------------------------------------
#
# ``design.png`` shows every column, and how far the columns are correlated. Groups that differ in age, for
# example, show here as a coloured cell between ``group`` and ``age``; the difference between the groups is then
# estimated less precisely.

picture(folder / "results/vbm/design.png")

# %%
# The same from Python
# --------------------
#
# ``gpuvox.voxelwise`` takes the same arguments, and returns a result that holds every map. With the same seed the
# values are the same, bit for bit.

import gpuvox

result = gpuvox.voxelwise(
    f"{folder}/vbm/{{participant_id}}_probseg.nii.gz",
    folder / "participants.tsv",
    "group + age + sex + tiv",
    ["age", "-age"],
    mask=folder / "gm.nii.gz",
    n_permutations=1000,
    seed=1,
)
result

# %%
# Here it tests age: grey matter falls with it, as it was simulated.

result.plot("-age", underlay=folder / "anatomy.nii.gz").savefig(folder / "age.png")
picture(folder / "age.png")

# %%
# What to report
# --------------
#
# The methods section of ``report.html`` has the sentences and references: test, permutations, correction,
# software. Say that p is corrected for the family-wise error over the voxels of the mask, and, if you tested both
# directions, that each was tested at 0.05 (or use ``--two-sided``, which corrects over the pair).
