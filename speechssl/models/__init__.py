"""Models and their folders."""
