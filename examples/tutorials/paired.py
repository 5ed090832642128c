"""
Pairs: before and after, and whether groups change differently
==============================================================

*Does a drug change blood flow?* Every participant was scanned before and after; half took the drug, half a
placebo. The table has a row for every scan. Blood flow here is simulated, and rises in both insulae of those who
took the drug.
"""

# sphinx_gallery_thumbnail_number = 1
import pandas as pd
from cohorts import picture, sessions, shell

folder = sessions()
pd.read_csv(folder / "sessions.tsv", sep="\t").head(4)

# %%
# A row of the same person is not a new person
# --------------------------------------------
#
# Two scans of one participant resemble each other. If all rows were permuted freely, that would be ignored, and
# the p-values would be wrong. gpuvox therefore refuses a table in which participants have several rows, until it
# is told how they belong together.

try:
    shell(
        "gpuvox voxelwise sessions.tsv --images 'cbf/{participant_id}_{session}_cbf.nii.gz' --mask gm"
        " --out results/wrong --model session --test 'post - pre'",
        folder,
    )
except SystemExit as status:
    print(status)

# %%
# The paired test
# ---------------
#
# ``--paired participant_id`` gives each participant a mean of their own, and exchanges only the two scans of one
# person, which is what is exchangeable if nothing has changed. ``--subset`` takes those who had the drug.

shell(
    "gpuvox voxelwise sessions.tsv --images 'cbf/{participant_id}_{session}_cbf.nii.gz' --mask gm --out results/paired"
    " --model session --paired participant_id --test 'post - pre' --subset \"group == 'drug'\""
    " --underlay anatomy -n 2000 --seed 1",
    folder,
)
picture(next((folder / "results/paired/report").glob("*mosaic.png")))

# %%
# Ten pairs have 2\ :sup:`10` = 1024 distinct exchanges, so all of them were used, and the smallest possible p is
# 1/1024.
#
# Do the groups differ in their change?
# -------------------------------------
#
# That the drug group changed and the placebo group did not is no evidence of a difference between the two. That is
# a test of its own: the interaction of group and session. With two sessions it is the comparison of the
# differences after − before, which ``--longitudinal`` computes.

shell(
    "gpuvox voxelwise sessions.tsv --images 'cbf/{participant_id}_{session}_cbf.nii.gz' --mask gm --out results/mixed"
    " --longitudinal participant_id --visit session --visits pre,post --model 'group + age' --test 'drug - placebo'"
    " --two-sided --underlay anatomy -n 2000 --seed 1",
    folder,
)
picture(next((folder / "results/mixed/report").glob("*mosaic.png")))

# %%
# ``--two-sided`` tests both directions in one map of p: the drug may raise or lower blood flow.
