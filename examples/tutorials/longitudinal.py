"""
Longitudinal: change per year, with missing visits
==================================================

*Do patients lose grey matter faster?* There are up to four yearly visits, some were missed, and the intervals are
not exactly a year. The maps are simulated: patients lose volume faster in both thalami.
"""

# sphinx_gallery_thumbnail_number = 1
import pandas as pd
from cohorts import picture, shell, visits

folder = visits()
table = pd.read_csv(folder / "sessions.tsv", sep="\t")
table.head(6)

# %%
# Visits of each participant:

table.groupby(["group", "participant_id"]).size().groupby(["group"]).value_counts().unstack(fill_value=0)

# %%
# Slopes
# ------
#
# With ``--years`` the visits of each participant become one image: the slope of the least-squares line through
# them, the change per year at each voxel. Slopes of different people are independent, and if the groups do not
# differ, they are exchangeable. The model, and what is permuted, are then those of participants.

shell(
    "gpuvox voxelwise sessions.tsv --images 'gm/{participant_id}_{session}_gm.nii.gz' --mask gm --out results/rates"
    " --longitudinal participant_id --visit session --years years --model 'group + age + sex' --test 'HC - MS'"
    " --missing drop --underlay anatomy -n 2000 --seed 1",
    folder,
)

# %%
# ``HC - MS`` of slopes is positive where patients lose more.

picture(next((folder / "results/rates/report").glob("*mosaic.png")))

# %%
# Slope of each participant in the cluster, in units per year:

picture(folder / "results/rates/report/HCMinusMS_values.png")

# %%
# Does everybody change?
# ----------------------
#
# Without a group in the model, ``mean`` tests whether the mean slope is above zero, by flipping signs: loss is the
# other direction, ``-mean``. This asks whether there is change at all, not whether groups differ.

shell(
    "gpuvox voxelwise sessions.tsv --images 'gm/{participant_id}_{session}_gm.nii.gz' --mask gm --out results/loss"
    " --longitudinal participant_id --visit session --years years --subset \"group == 'MS'\" --test=-mean"
    " --missing drop --no-report -n 2000 --seed 1",
    folder,
)

# %%
# A slope through visits a few weeks apart is noisier than one over years, but counts as much. If follow-up differs
# greatly between participants, leave out those with very short ones (``--subset``), or compare the change with
# time as covariate. ``gpuvox longitudinal`` writes designs of repeated measures in which every visit is a row.
