"""Scores: classification metrics with intervals, few-shot probes and the features every encoder has to beat."""
