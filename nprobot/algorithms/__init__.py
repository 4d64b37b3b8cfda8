"""stable-baselines3 algorithms that learn by node perturbation."""

from .ppo import PPO

__all__ = ["PPO"]
