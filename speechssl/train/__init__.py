"""Training: one loop for every objective, its optimiser, checkpoints, health and processes."""
