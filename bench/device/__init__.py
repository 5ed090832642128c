"""Is gpuvox right on this GPU, how fast is it, and which launches are fastest? One command, for a bare machine.

    python -m bench.device --minutes 10 --out DIR

Steps run in the order of what teaches most (`steps.STEPS`): the machine and what it can do at most; compiling; the
bits of every kernel, at small sizes; whole runs and where their time goes, beside what was predicted; the phases of
TFCE; NVIDIA's profiler, if it is there; launches by trial; then every kernel against the CPU at full size, bit for
bit, single timings, and compute-sanitizer. Each step is a process of its own with a time limit, so that a fault or a
hang costs no more than its step. What runs is named before it runs, and everything found so far is in DIR as JSON
after each part (`results/README.md`). The time decides how far the session comes; ``--only`` chooses steps, for
instance those that were left out. Faster launches are in DIR as a file for `gpuvox.tuning`. A table comes last. Exit
status: 0, 1 if a check or a step failed, 2 without a GPU.

Needs numpy, scipy, numba and CuPy. Without threadpoolctl or nibabel the parts that need them are skipped, by name.
"""
