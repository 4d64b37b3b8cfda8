"""A run on disk, whoever makes it: folder, description, log, checkpoints, curve, lock, seeds."""
