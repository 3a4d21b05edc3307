"""Experiments of the few-label recipes: all contenders have the same shots and the same test items."""
