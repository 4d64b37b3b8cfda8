"""stable-baselines3 algorithms that learn by node perturbation."""
