"""Run the permutations of a test on Dask workers.

This process, the client, evaluates the unpermuted data and keeps the tally, as if it worked alone (`client`). Workers
run ranges of the other permutations and send back their block results (`worker`). A worker makes a test once from what
the client has fixed (`messages`): the model, the steps and tables of TFCE, the observed maps. It reads the images
itself if it finds files of the same content under the same names, and is sent the masked data once if it does not.
Before its first range it repeats the first two permutations and compares every map with the client's, bit for bit, so
that a worker that computes other bits is found before its results count. `launch` connects to a scheduler, or starts
workers of this machine alone (`loopback`).

What a worker keeps depends on objects that Dask holds for the client: it is dropped when the client releases them, also
by dying. Images that a worker read stay a minute longer, because Dask also drops copies of such an object while no task
waits for it, as between two tests. A range whose result is lost is run again; the tally refuses to count a permutation
twice.
"""
