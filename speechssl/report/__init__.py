"""HTML report of a run, made from the files of its folder alone."""
