"""Is gpuvox right on this GPU, and how fast is it? One command, for a machine with nothing but a checkout.

    python bench/device --out DIR

In order: facts and measured ceilings of the device; the CPU's results against the device's, bit for bit; NVIDIA's
compute-sanitizer on a small part of that; timings, each beside the least time that the bytes and operations which the
job cannot do without take at the measured ceilings. A table comes last, and everything goes to DIR as JSON
(`results/README.md`). Exit status: 0, 1 if a check failed, 2 without a GPU.

Needs numpy, scipy, numba and CuPy. Without threadpoolctl or nibabel the parts that need them are skipped, by name.
"""
