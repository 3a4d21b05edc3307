"""Metrics and their intervals, probes and baselines, draws of few labels, result tables."""
