"""Whole models and the folders they are stored in."""
