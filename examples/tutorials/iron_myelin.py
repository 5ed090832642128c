"""
Iron and myelin: from QSM and R1 to groups
==========================================

*How do iron and myelin in the deep grey matter of patients differ from controls?* Susceptibility (QSM) and
relaxation rate (R1) both depend on iron and on myelin; two measurements give both. ``gpuvox phantom`` writes a
cohort with the published means of patients and controls, and a truth to compare with. Here it is the smallest one.
"""

# sphinx_gallery_thumbnail_number = 1
import pandas as pd
from cohorts import new_folder, picture, shell

folder = new_folder()
shell("gpuvox phantom cohort --scale tiny --seed 1", folder)
pd.read_csv(folder / "cohort/participants.tsv", sep="\t").head()

# %%
# The maps
# --------
#
# R1 is converted from 3 T to the 7 T of the model, the model is solved for iron and myelin at each voxel, and the
# value of cerebrospinal fluid is subtracted. With Jacobians there is also the *content*: concentration times local
# volume, which tells loss of iron from loss of tissue.

shell("gpuvox ironmyelin --table cohort/participants.tsv --out maps --fwhm 1", folder)
pd.read_csv(folder / "maps/csf_reference.tsv", sep="\t").describe().round(2)

# %%
# Voxelwise
# ---------
#
# The maps are 4D images with their participants beside them, so they join the table by name.

shell(
    "gpuvox voxelwise cohort/participants.tsv --images maps/iron --mask cohort/template/deepgray --out results/iron"
    " --model 'group + age + sex' --test 'MS - HC' --test 'HC - MS' -n 1000 --seed 1"
    " --atlas cohort/template/labels --names cohort/template/labels.tsv",
    folder,
)
picture(next((folder / "results/iron/report").glob("*mosaic.png")))

# %%
# Clusters, with the share of each structure:

pd.read_csv(next((folder / "results/iron/report").glob("*_clusters.tsv")), sep="\t").iloc[:, :12]

# %%
# Regions
# -------
#
# ``gpuvox rois`` measures each structure, and ``gpuvox groups`` compares them with corrected p-values.

shell(
    "gpuvox rois --table cohort/participants.tsv --labels cohort/template/labels --names cohort/template/labels.tsv"
    " --map iron=maps/iron --map myelin=maps/myelin --jacobian jacobian --merge 'thalamus=thalamus_*' --out rois.tsv",
    folder,
)
pd.read_csv(folder / "rois.tsv", sep="\t").query("side == 'both'").head(8)

# %%
# All of it at once
# -----------------
#
# ``gpuvox study cohort/study.toml`` runs maps, tests, clusters, regions, tables, clinical models and a report, and
# when something changes it repeats only what depends on it. ``--plan`` lists the stages:

shell("gpuvox study cohort/study.toml --plan", folder)
