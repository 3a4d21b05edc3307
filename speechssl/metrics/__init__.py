"""Metrics and their intervals, probes, baselines, few-label draws and result tables."""
