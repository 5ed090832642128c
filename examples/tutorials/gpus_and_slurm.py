"""
Several GPUs, and a cluster with SLURM
======================================

*My run takes too long.* First ask how long it would take. Then choose: more threads, GPUs, or several jobs. All of
them compute the same bits. This page was built on a machine without a GPU, so what concerns GPUs is shown as
commands.
"""

from cohorts import shell, vbm

folder = vbm(n=24)
shell(
    "gpuvox voxelwise participants.tsv --images 'vbm/{participant_id}_probseg.nii.gz' --mask gm --out one"
    " --model 'group + age' --test 'HC - MS' -n 1200 --seed 1 --no-report --quiet",
    folder,
)

# %%
# Ask first
# ---------
#
# ``--plan`` reads the inputs, runs a small part of the analysis, and says how long the whole would take here and
# how much memory it needs. Nothing is written.

shell(
    "gpuvox voxelwise participants.tsv --images 'vbm/{participant_id}_probseg.nii.gz' --mask gm --out results/vbm"
    " --model 'group + age' --test 'HC - MS' -n 100000 --seed 1 --plan",
    folder,
)

# %%
# GPUs
# ----
#
# ``gpuvox info`` says whether there is a GPU, whether the kernels compile for it, and whether they compute the
# CPU's bits.

try:
    shell("gpuvox info", folder)
except SystemExit as status:
    print(status)

# %%
# By default (``--device auto``) the first GPU that works is used; without one, the CPU computes the same. All GPUs
# of the machine, or two of them:
#
# .. code-block:: bash
#
#    gpuvox voxelwise … --device cuda
#    gpuvox voxelwise … --device cuda:0,2
#
# Each GPU holds the data, takes ranges of permutations as it finishes others, and must show on its first two
# permutations that it computes the same bits as the rest. One that fails is left out, and the others take over its
# share.
#
# Several jobs
# ------------
#
# A batch queue needs nothing but *shards*: each job runs a part of the permutations, in any order, on any machine,
# and ``gpuvox merge`` puts the parts together.

command = (
    "gpuvox voxelwise participants.tsv --images 'vbm/{participant_id}_probseg.nii.gz' --mask gm --out results/vbm"
    " --model 'group + age' --test 'HC - MS' -n 1200 --seed 1 --quiet --shard"
)
for part in ("2/3", "3/3", "1/3"):
    shell(f"{command} {part}", folder)
print(*sorted(path.name for path in (folder / "results/vbm/randomise").iterdir()), sep="\n")

# %%
import shlex

tallies = sorted((folder / "results/vbm/randomise").glob("*.tally"))
names = " ".join(shlex.quote(str(path.relative_to(folder))) for path in tallies)
shell(f"gpuvox merge {names}", folder)

# %%
# The merged maps are those of one run, to the bit:

import nibabel as nib
import numpy as np

name = "contrast-HCMinusMS_stat-logp_desc-tfceFWE_statmap.nii.gz"
one, merged = (nib.load(folder / place / name).get_fdata() for place in ("one", "results/vbm"))
print("the same map:", np.array_equal(one, merged))

# %%
# On SLURM that is an array job and a job that waits for it. A shard is its own checkpoint: a job that was
# preempted and started again continues where it was.
#
# .. literalinclude:: ../slurm/shards.sbatch
#    :language: bash
#
# With Dask, workers may come and go during a run; :doc:`/distributed` has the scripts. Jobs of Snakemake and
# Nextflow are in `examples/workflows <https://github.com/gpuvox/gpuvox/tree/main/examples/workflows>`_.
