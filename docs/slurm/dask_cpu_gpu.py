"""gpuvox on SLURM through dask-jobqueue: workers are jobs, of a CPU queue or of a GPU queue.

    pip install "gpuvox[distributed]" dask-jobqueue
    python dask_cpu_gpu.py cpu        or        python dask_cpu_gpu.py gpu

Run it on a login node or in a small job of its own: it reads the data, computes the unpermuted maps, keeps the
checkpoint and combines the results. Set queue, account and times to those of your site. Jobs that start late join in;
jobs that end or are preempted are replaced. If this process is stopped, start it again: it resumes from the checkpoint.
"""

import os
import sys
from pathlib import Path

from dask.distributed import Client, Security
from dask_jobqueue import SLURMCluster

import gpuvox

CHECKPOINT = Path("out.tally")

QUEUES = {
    # One process per node with one thread per core: the threads share one copy of the data.
    "cpu": {
        "queue": "cpu", "cores": 32, "processes": 1, "memory": "120GB", "walltime": "04:00:00",
        "worker_extra_args": ["--memory-limit", "0"],
    },
    # One process per GPU; its second thread prepares permutations while those of the first are computed.
    "gpu": {
        "queue": "gpu", "cores": 2, "processes": 1, "memory": "64GB", "walltime": "02:00:00",
        "job_extra_directives": ["--gres=gpu:1"], "worker_extra_args": ["--memory-limit", "0"],
    },
}  # fmt: skip
JOBS = {"cpu": 8, "gpu": 4}
PRIVATE = {
    # Workers import from their scratch folder, so nobody else may create it first, and not from the current folder.
    "job_script_prologue": ["export PYTHONSAFEPATH=1", "scratch=$(mktemp -d)", "trap 'rm -rf \"$scratch\"' EXIT"],
    "local_directory": '"$scratch"',
}


def main(kind: str) -> None:
    """Run the analysis on the workers of one queue, and write the files that the command would write."""
    # Anyone who can connect could run programs in your name. The certificate of this run is passed to the workers
    # in files that only you can read, in a folder that all nodes see.
    security = {
        "protocol": "tls://",
        "security": Security.temporary(),
        "shared_temp_directory": os.path.expanduser("~"),
    }
    with SLURMCluster(**QUEUES[kind], **PRIVATE, **security) as cluster, Client(cluster) as client:
        cluster.scale(jobs=JOBS[kind])
        result = gpuvox.randomise(
            "maps.nii.gz", "design.mat", "design.con", mask="mask.nii.gz", tfce=True, n_permutations=10_000, seed=1,
            device="cuda" if kind == "gpu" else "cpu", client=client, checkpoint=CHECKPOINT,
            resume=CHECKPOINT.exists(),
        )  # fmt: skip
    result.save("out")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu")
