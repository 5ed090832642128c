// One voxelwise analysis as several jobs, each with its share of the permutations, with Nextflow:
//
//     nextflow run examples/workflows/main.nf --table participants.tsv --images 'vbm/{participant_id}.nii.gz' \
//         --model group --test 'MS - HC' --mask gm_mask.nii.gz --shards 8
//
// The merged maps are those of one run, bit for bit, whatever the number of shards. Jobs share the launch folder, which a
// cluster must see, because templates of images are relative to it.
//
// The options of its commands are checked by tests/test_docs.py, and its syntax by two parsers of Nextflow scripts
// (reftrace 0.6, groovy-parser 0.2). Nextflow itself was not at hand, so the workflow has not been run.

params.table = 'participants.tsv'
params.images = null
params.model = ''
params.test = null
params.mask = null
params.out = 'results'
params.seed = 1
params.shards = 8
params.threads = 1

def quoted(value) {
    "'" + value.toString().replace("'", "'\\''") + "'"
}

process shard {
    tag "${part}/${params.shards}"
    cpus { params.threads }

    input:
    val part

    output:
    val part

    script:
    """
    cd ${quoted(launchDir)}
    gpuvox voxelwise ${quoted(params.table)} --images ${quoted(params.images)} --mask ${quoted(params.mask)} \\
        --model ${quoted(params.model)} --test ${quoted(params.test)} --seed ${params.seed} \\
        --threads ${task.cpus} --shard ${part}/${params.shards} --out ${quoted(params.out)}
    """
}

process merge {
    input:
    val parts

    script:
    """
    cd ${quoted(launchDir)}
    gpuvox merge ${quoted(params.out)}/randomise/t_shard*of${params.shards}.tally
    """
}

workflow {
    if (!params.images || !params.test || !params.mask) {
        error 'give --images, --test and --mask; see the first lines of this file'
    }
    merge(shard(Channel.of(1..params.shards)).collect())
}
