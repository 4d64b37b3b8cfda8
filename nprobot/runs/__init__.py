"""A run on disk, whatever makes it: folder, description, log, checkpoints, curve, lock, seeds."""
