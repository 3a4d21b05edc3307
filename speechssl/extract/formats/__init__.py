"""Rows and columns of an output of vectors, and its formats other than Parquet."""
