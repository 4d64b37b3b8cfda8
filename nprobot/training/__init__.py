"""Training runs on disk: configuration, run folder, checkpoints, evaluation."""
