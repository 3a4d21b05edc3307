"""One HTML page about a run, made from the files in its folder alone."""
