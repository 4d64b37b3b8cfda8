"""Noisy actuators and a noisy chip: nobody can read the noise of either, and the policy learns.

python scripts/examples/noisy_robot.py
"""

import argparse

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

import nprobot


def main(steps: int = 80_000, node_noise: float = 0.06) -> float:
    """Train on noisy hardware; returns the mean return of 8 episodes on the same hardware."""
    env = make_vec_env(
        "InvertedPendulum-v5",
        8,
        seed=0,
        wrapper_class=nprobot.envs.NoisyActuators,  # delays, lag, backlash, noise of a servo
        wrapper_kwargs={"models": "servo", "seed": 1},
    )
    env = VecNormalize(env)
    model = nprobot.PPO("MlpPolicy", env, n_steps=256, seed=0, verbose=1)
    for part, network in enumerate((model.actor, model.critic)):
        # The layers move to the chip in place: rollouts, updates and evaluation are noisy.
        nprobot.NoisyNetwork(network, ["analog", node_noise], seed=part)
    model.learn(steps)

    env.training = env.norm_reward = False
    result, _ = evaluate_policy(model, env, n_eval_episodes=8)
    print(f"return {result:.1f} on the noisy hardware")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=80_000)
    parser.add_argument("--node-noise", type=float, default=0.06)
    main(**vars(parser.parse_args()))
