"""Pretraining objectives: one paper a file."""
