"""The folder pipeline: `extract` and `predict` over folders, manifests, tables and object stores.

In the order in which a clip passes through them:

    run.py       `extract`: settings, one engine, the output, the report
    plan.py      a source to a plan: the clips in a fixed order, with their metadata
    decode.py    decoding threads ahead of the encoder
    encode.py    parts of the plan to vectors, on the devices of one machine
    cluster.py   the same on several machines, with Ray
    shards.py    finished parts as files in `OUT.parts`
    resume.py    which clips are left, where the rows of the others are, what failed
    writers.py   shards to the output

    formats/     rows and columns of an output, and its formats other than Parquet
    machine/     threads, memory, devices, progress
    predict/     the command `predict`, on the same parts
"""
