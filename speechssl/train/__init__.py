"""Training: one loop for every objective, with optimiser, checkpoints and health monitor."""
