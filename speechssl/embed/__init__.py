"""Frozen encoders at work: the Python API, folders of audio to Parquet, and few-shot evaluation."""
