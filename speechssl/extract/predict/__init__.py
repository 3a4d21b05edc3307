"""The command `predict`: classes or transcripts, with the plan, the threads and the shards of `extract`."""
