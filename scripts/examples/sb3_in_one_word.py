"""stable-baselines3 in one word: the same program learns by backprop or by node perturbation.

python scripts/examples/sb3_in_one_word.py                       # NP with learned feedback
python scripts/examples/sb3_in_one_word.py --rule bp             # stable-baselines3's own learning
"""

import argparse

from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

import nprobot


def main(rule: str = "np+feedback", steps: int = 50_000) -> tuple[float, float]:
    """Train, evaluate, save and load; returns the return before and after saving."""
    env = VecNormalize(make_vec_env("InvertedPendulum-v5", 8, seed=0))
    model = nprobot.PPO("MlpPolicy", env, rule=rule, n_steps=256, seed=0, verbose=1)
    model.learn(steps)
    print(f"forward passes {model.rule.forward_passes:,}")
    print(f"backward passes {model.rule.backward_passes:,}")

    env.training = env.norm_reward = False
    env.seed(1)
    before, _ = evaluate_policy(model, env, n_eval_episodes=8)
    model.save("pendulum.zip")

    loaded = nprobot.PPO.load("pendulum.zip", env=env)
    env.seed(1)
    after, _ = evaluate_policy(loaded, env, n_eval_episodes=8)
    print(f"return {before:.1f}, after loading {after:.1f}")
    return before, after


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rule", default="np+feedback")
    parser.add_argument("--steps", type=int, default=50_000)
    main(**vars(parser.parse_args()))
