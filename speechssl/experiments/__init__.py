"""Experiments: what the recipes with few labels run, all contenders on the same shots and the same test items."""
